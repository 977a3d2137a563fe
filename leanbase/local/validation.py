"""Checks a request body as the ingestion server does, and gives the reason for a refusal."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any, NoReturn

MAX_BODY_BYTES = 20 * 1024 * 1024
MAX_NESTING = 128

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")


class RefusedError(Exception):
    """The server refuses the request.

    Attributes:
        status: The HTTP status of the response.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


def decompress(body: bytes, encoding: str) -> bytes:
    """Decompress a request body, up to 20 MiB.

    Raises:
        RefusedError: The encoding is unknown, the data is damaged, or the result is too large.
    """
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise RefusedError(f"unknown Content-Encoding {encoding!r}", 415)
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise RefusedError("the body is not the gzip data it says it is") from error
    if stream.unconsumed_tail:
        raise RefusedError("the body is too large when decompressed", 413)
    if not stream.eof:
        raise RefusedError("the gzip data ends too early")
    return plain


def parse(body: bytes) -> dict[str, Any]:
    """Return the envelope of a batch.

    Raises:
        RefusedError: The body is not strict JSON, or the envelope or one of its events is invalid. The real
            server also refuses a whole batch for one invalid event.
    """
    try:
        envelope = json.loads(
            body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates
        )
    except UnicodeDecodeError as error:
        raise RefusedError("the body is not UTF-8") from error
    except RecursionError as error:
        raise RefusedError("the body is nested too deeply") from error
    except ValueError as error:
        raise RefusedError(f"the body is not JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise RefusedError("the body must be a JSON object")
    _check_text(envelope)
    _check_envelope(envelope)
    for position, event in enumerate(envelope["batch"]):
        _check_event(event, f"batch[{position}]")
    return envelope


def _check_envelope(envelope: dict[str, Any]) -> None:
    key = envelope.get("api_key")
    if not isinstance(key, str) or not key.strip():
        raise RefusedError("api_key must be a non-empty string", 401 if key in (None, "") else 400)
    batch = envelope.get("batch")
    if not isinstance(batch, list) or not batch:
        raise RefusedError("batch must be a non-empty array")
    sent_at = envelope.get("sent_at")
    if not isinstance(sent_at, str) or not _UTC.fullmatch(sent_at):
        raise RefusedError("sent_at must be an RFC 3339 string in UTC")
    if not isinstance(envelope.get("historical_migration"), bool):
        raise RefusedError("historical_migration must be a boolean")


def _check_event(event: Any, where: str) -> None:
    if not isinstance(event, dict):
        raise RefusedError(f"{where} must be an object")
    for name in ("event", "distinct_id"):
        if not isinstance(event.get(name), str) or not event[name].strip():
            raise RefusedError(f"{where}.{name} must be a non-empty string")
    if not isinstance(event.get("uuid"), str) or not _UUID.fullmatch(event["uuid"]):
        raise RefusedError(f"{where}.uuid must be a UUID in 8-4-4-4-12 form")
    if not isinstance(event.get("timestamp"), str) or not _UTC.fullmatch(event["timestamp"]):
        raise RefusedError(f"{where}.timestamp must be an RFC 3339 string in UTC")
    if not isinstance(event.get("properties"), dict):
        raise RefusedError(f"{where}.properties must be an object")


def _check_text(value: Any) -> None:
    """Refuse lone surrogates and deep nesting, without recursion."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING + 1):
        if not level:
            return
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below.extend(each)
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            elif isinstance(each, str):
                try:
                    each.encode()
                except UnicodeEncodeError as error:
                    raise RefusedError("the body contains a lone surrogate") from error
        level = below
    raise RefusedError(f"the body is nested more than {MAX_NESTING} levels deep")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result
