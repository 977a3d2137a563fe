"""Feature flags for tests, in place of the server's flags."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..feature_flags import Definitions, FeatureFlagEvaluations
    from ..feature_flags.exposures import Reported
    from ..feature_flags.snapshot import Evaluation


class FlagOverrides:
    """Values of feature flags. No request is made, and a flag that is not set is missing.

    Examples:
        >>> flags = FlagOverrides()
        >>> flags.set("checkout", "blue", payload={"copy": "new"})
        >>> flags.values()
        {'checkout': 'blue'}
    """

    store = None

    def __init__(self) -> None:
        self._set: dict[str, tuple[bool | str, str | None]] = {}
        self._definitions: Definitions | None = None
        self._reported: Reported | None = None

    def set(self, key: str, value: bool | str = True, payload: Any = None) -> None:
        """Set the value and the payload of a flag, for all persons.

        Args:
            key: The flag.
            value: A boolean, or the name of a variant.
            payload: A value that JSON can represent.

        Raises:
            TypeError: The value is neither a boolean nor a string.
        """
        if not isinstance(value, (bool, str)):
            raise TypeError(f"a flag is True, False or a variant, not {type(value).__name__}")
        self._set[key] = value, None if payload is None else json.dumps(payload)

    def unset(self, key: str) -> None:
        """Remove the value of a flag. The flag is then missing, or evaluated from the file."""
        self._set.pop(key, None)

    def from_file(self, path: str | os.PathLike[str]) -> None:
        """Evaluate flags from a bundle, as in production. Values from `set` take precedence.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file has no valid definitions.
        """
        from ..feature_flags import Definitions

        self._definitions = Definitions.from_json(Path(path).read_bytes())

    def values(self) -> dict[str, bool | str]:
        """Return the values from `set`, by flag."""
        return {key: value for key, (value, _) in self._set.items()}

    def clear(self) -> None:
        """Remove all values, the file, and the record of reported reads."""
        self._set.clear()
        self._definitions = self._reported = None

    # --- what a client calls -----------------------------------------------------------------------------

    @property
    def reported(self) -> Reported:
        """The record of reported reads."""
        if self._reported is None:
            from ..feature_flags.exposures import Reported

            self._reported = Reported()
        return self._reported

    def evaluate(
        self,
        distinct_id: str,
        groups: Mapping[str, str],
        person_properties: dict[str, Any],
        group_properties: dict[str, dict[str, Any]],
        device_id: str | None,
        *,
        without_geoip: bool,
        keys: Sequence[str] | None = None,
        only_locally: bool = False,
    ) -> Evaluation:
        """Evaluate as `FeatureFlags` does, without a server."""
        from ..feature_flags.flags import evaluated_here, identity_of
        from ..feature_flags.snapshot import Evaluation, Record

        evaluation = Evaluation(distinct_id, groups)
        if self._definitions is not None:
            whom = distinct_id, groups, person_properties, group_properties, device_id
            identity = identity_of(self._definitions, time.time(), *whom)
            evaluated_here(identity, keys, evaluation, self._definitions)
        for key, (value, payload) in self._set.items():
            if keys is None or key in keys:
                evaluation.records[key] = Record(key, value, payload=payload, is_local=True)
                evaluation.unresolved.pop(key, None)
        return evaluation

    def payload_of(self, key: str, value: bool | str, flags: FeatureFlagEvaluations) -> Any:
        """Return the payload of a flag, if it has this value."""
        result = flags.get_result(key)
        return result.payload if result is not None and result.get_value() == value else None

    def load(self, deadline: Any) -> bool:
        """Return True if a file is used."""
        return self._definitions is not None

    def remote_config(self, key: str) -> Any:
        """Return the decoded payload of a flag."""
        payload = self._set.get(key, (False, None))[1]
        return None if payload is None else json.loads(payload)


flag_overrides = FlagOverrides()
"""The flags of this process, for all tests."""
