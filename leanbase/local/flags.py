"""Responds to `/flags/` and `/flags/definitions` from a file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..events.ids import uuid4
from ..feature_flags import Definitions
from ..feature_flags.evaluator import Identity
from ..feature_flags.operators import Undecided
from .validation import RefusedError


class FlagsFile:
    """The flags of a local server. The file is read for each request, so it can be edited meanwhile.

    Args:
        path: A bundle, or a response of the server; `None` for no flags.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def definitions(self, authorization: str | None, known: str | None) -> tuple[str, dict[str, Any] | None]:
        """Return the `ETag` and the definitions, or `None` if their `ETag` is `known`.

        Raises:
            RefusedError: The request has no secret key, or there is no valid file.
        """
        if not (authorization or "").startswith("Bearer "):
            raise RefusedError("definitions need the secret key: Authorization: Bearer …", 401)
        data = self._read().bundle("")["definitions"]
        etag = f'"{sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]}"'
        return etag, None if known == etag else data

    def evaluate(self, body: object) -> dict[str, Any]:
        """Return the response of `/flags/` to one request.

        Raises:
            RefusedError: `api_key` or `distinct_id` is missing, or the file is not valid.
        """
        if not isinstance(body, Mapping) or not body.get("api_key") or not body.get("distinct_id"):
            raise RefusedError("the request needs api_key and distinct_id", 400)
        answer = {
            "errorsWhileComputingFlags": False,
            "requestId": uuid4(),
            "evaluatedAt": time.time_ns() // 1_000_000,
        }
        if self._path is None:
            return {"flags": {}, **answer}
        definitions = self._read()
        identity = Identity(
            definitions,
            str(body["distinct_id"]),
            groups={str(kind): str(key) for kind, key in _mapping(body.get("groups")).items()},
            person_properties=_mapping(body.get("person_properties")),
            group_properties=_mapping(body.get("group_properties")),
            device_id=body.get("device_id"),
            now=datetime.now(timezone.utc),
        )
        wanted = body.get("flag_keys_to_evaluate") or list(definitions)
        flags = {key: _record(definitions, key, identity) for key in wanted if key in definitions}
        return {"flags": flags, **answer}

    def _read(self) -> Definitions:
        if self._path is None:
            raise RefusedError("there are no flags: start the server with --flags FILE", 404)
        try:
            return Definitions.from_json(self._path.read_bytes())
        except (OSError, ValueError) as error:
            raise RefusedError(f"{self._path} has no flags in it: {error}", 500) from None


def _record(definitions: Definitions, key: str, identity: Identity) -> dict[str, Any]:
    flag = definitions.flag(key)
    decided = identity.decide(flag)
    if isinstance(decided, Undecided):  # the real server could decide this flag
        value: bool | str = False
        description = f"Undecided: {decided.reason.value}"
    else:
        value, description = decided, "Evaluated"
    code = "no_condition_match" if value is False else "condition_match"
    metadata = {"id": flag.id, "version": flag.version, "payload": flag.payload(value)}
    return {
        "key": key,
        "enabled": value is not False,
        "variant": value if isinstance(value, str) else None,
        "reason": {"code": code, "description": description},
        "metadata": metadata,
    }


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
