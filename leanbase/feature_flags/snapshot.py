"""The values of flags for one identity. They never change, and reading them sends no request."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

from .operators import Reason

logger = logging.getLogger("leanbase")

FlagValue = bool | str

LOCAL_REASON = "Evaluated locally"


class Record:
    """The result of the evaluation of one flag.

    Attributes:
        value: `True`, `False` or the variant; `None` if the server could not evaluate the flag.
        payload: The payload as JSON, or decoded if the flag's value is itself a payload.
        is_local: Whether the flag was evaluated locally.
        reason: The reason for the value, in words.
        reason_code: The server's code for the reason.
        has_experiment: Whether an experiment uses the flag, if known.
        error: The error of this flag, if any, for `$feature_flag_error`.
        attribution: Properties about the rule that applied, for flags of configuration version 2.
        is_exposure: Whether a complete experiment split decided the flag.
        is_switched_off: Whether the definition switches the flag off for everybody.
    """

    __slots__ = (
        "attribution",
        "error",
        "has_experiment",
        "id",
        "is_exposure",
        "is_local",
        "is_switched_off",
        "key",
        "payload",
        "reason",
        "reason_code",
        "value",
        "version",
    )

    def __init__(
        self,
        key: str,
        value: FlagValue | None,
        *,
        payload: Any = None,
        is_local: bool = False,
        id: int | None = None,
        version: int | None = None,
        reason: str | None = None,
        reason_code: str | None = None,
        has_experiment: bool | None = None,
        error: str | None = None,
        attribution: Mapping[str, Any] | None = None,
        is_exposure: bool = False,
        is_switched_off: bool = False,
    ) -> None:
        self.key = key
        self.value = value
        self.payload = payload
        self.is_local = is_local
        self.id = id
        self.version = version
        self.reason = reason
        self.reason_code = reason_code
        self.has_experiment = has_experiment
        self.error = error
        self.attribution = attribution
        self.is_exposure = is_exposure
        self.is_switched_off = is_switched_off

    def decoded_payload(self) -> Any:
        """Return the payload as a new object; `None` if there is none or it is not valid JSON."""
        if not isinstance(self.payload, str):
            return self.payload if self.payload is None else json.loads(json.dumps(self.payload))
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError):
            return None

    def payload_text(self) -> str | None:
        """Return the payload as JSON; `None` if there is none or it is not valid JSON."""
        if self.payload is None or self.decoded_payload() is None:
            return None
        return self.payload if isinstance(self.payload, str) else json.dumps(self.payload)


class FeatureFlagResult:
    """The value and the payload of one flag.

    Attributes:
        key: The flag's key.
        enabled: Whether the flag is on for this identity.
        variant: The variant, or `None`.
        payload: The decoded payload, or `None`.
        reason: The reason for the value, in words, or `None`.
        version: The version of the flag's definition, or `None`.
    """

    __slots__ = ("enabled", "key", "payload", "reason", "variant", "version")

    def __init__(self, record: Record) -> None:
        self.key = record.key
        self.enabled = record.value not in (None, False)
        self.variant = record.value if isinstance(record.value, str) else None
        self.payload = record.decoded_payload()
        self.reason = record.reason
        self.version = record.version

    def get_value(self) -> FlagValue:
        """Return the variant, or whether the flag is on."""
        return self.enabled if self.variant is None else self.variant

    def __repr__(self) -> str:
        return f"<FeatureFlagResult {self.key!r}: {self.get_value()!r}>"


class Evaluation:
    """The result of one evaluation. Snapshots are views of it.

    Attributes:
        distinct_id: The person's distinct id; `None` if it is unknown.
        groups: The keys of the person's groups, by group type.
        records: The evaluated flags, by key.
        unresolved: For each flag without a value, why it could not be evaluated locally.
        errors: The errors of the request, for `$feature_flag_error`.
        evaluated_at: When the server evaluated the flags, in milliseconds since the epoch.
        is_minimal: Whether the server asks for minimal mode, for flags without an experiment.
        is_minimal_locally: Whether the definitions ask for minimal mode.
        is_stale: Whether the definitions were older than `flags_ttl`.
        is_complete: Whether every requested flag that exists was evaluated, locally or by the server.
    """

    __slots__ = (
        "definitions_etag",
        "distinct_id",
        "errors",
        "evaluated_at",
        "groups",
        "is_complete",
        "is_minimal",
        "is_minimal_locally",
        "is_stale",
        "records",
        "request_id",
        "unresolved",
    )

    def __init__(self, distinct_id: str | None, groups: Mapping[str, str]) -> None:
        self.distinct_id = distinct_id
        self.groups = groups
        self.records: dict[str, Record] = {}
        self.unresolved: dict[str, Reason] = {}
        self.errors: list[str] = []
        self.request_id: str | None = None
        self.evaluated_at: int | None = None
        self.is_minimal = False
        self.is_minimal_locally = False
        self.is_stale = False
        self.is_complete = True
        self.definitions_etag: str | None = None

    def snapshot(self, report: Report | None = None) -> FeatureFlagEvaluations:
        """Return a snapshot for the application. It calls `report` for each read."""
        return FeatureFlagEvaluations(self, report)

    def values(self) -> dict[str, FlagValue]:
        """Return the values of all flags that have one."""
        return {key: record.value for key, record in self.records.items() if record.value is not None}


Report = Callable[[Evaluation, str, "Record | None"], object]


@final
class FeatureFlagEvaluations:
    """The values of flags for one identity, all from one evaluation. They never change.

    `is_enabled` and `get_flag` capture the event `$feature_flag_called`, once for each value, and block as
    `capture` does. All other methods capture and send nothing. Reading a flag never raises.

    Attributes:
        error: The errors of the evaluation, as in the property `$feature_flag_error`, or `None`.
        unresolved_flags: For each flag without a value, why it could not be evaluated locally. Empty in a
            copy from `only` or `only_accessed`.

    Examples:
        >>> import leanbase
        >>> flags = leanbase.evaluate_flags("user_1", flag_keys=["checkout"])
        >>> flags.is_enabled("checkout", default_value=True)
        True
    """

    __slots__ = ("_accessed", "_evaluation", "_is_filtered", "_keys", "_report")

    def __init__(
        self, evaluation: Evaluation, report: Report | None = None, keys: frozenset[str] | None = None
    ) -> None:
        self._evaluation = evaluation
        self._report = report
        self._keys = keys
        self._is_filtered = keys is not None
        self._accessed: set[str] = set()

    @property
    def error(self) -> str | None:
        return ",".join(self._evaluation.errors) or None

    @property
    def unresolved_flags(self) -> Mapping[str, Reason]:
        return MappingProxyType({} if self._is_filtered else self._evaluation.unresolved)

    @property
    def is_about_somebody(self) -> bool:
        """Whether flags were evaluated for a distinct id."""
        return self._evaluation.distinct_id is not None

    @property
    def is_complete(self) -> bool:
        """Whether every requested flag that exists was evaluated, locally or by the server."""
        return self._evaluation.is_complete

    @property
    def is_stale(self) -> bool:
        """Whether the definitions were older than `flags_ttl`."""
        return self._evaluation.is_stale

    @property
    def definitions_etag(self) -> str | None:
        """The `ETag` of the definitions that were used, or `None`."""
        return self._evaluation.definitions_etag

    def is_local(self, key: str) -> bool:
        """Return True if a flag was evaluated locally."""
        record = self._record(key)
        return record is not None and record.is_local

    def is_switched_off(self, key: str) -> bool:
        """Return True if a flag's definition switches it off for everybody."""
        record = self._record(key)
        return record is not None and record.is_switched_off

    @property
    def keys(self) -> list[str]:
        """The keys of all flags that have a value."""
        return [record.key for record in self._records() if record.value is not None]

    def is_enabled(
        self, key: str, default_value: bool = False, *, send_feature_flag_events: bool = True
    ) -> bool:
        """Return whether a flag is on, with or without a variant.

        Args:
            key: The flag's key.
            default_value: The result if the flag has no value.
            send_feature_flag_events: Whether to capture `$feature_flag_called`.
        """
        value = self._read(key, send_feature_flag_events)
        return default_value if value is None else value is not False

    def get_flag(
        self,
        key: str,
        default_value: FlagValue | None = None,
        *,
        send_feature_flag_events: bool = True,
    ) -> FlagValue | None:
        """Return the variant of a flag, or `True` or `False` if it has no variant.

        Args:
            key: The flag's key.
            default_value: The result if the flag has no value.
            send_feature_flag_events: Whether to capture `$feature_flag_called`.
        """
        value = self._read(key, send_feature_flag_events)
        return default_value if value is None else value

    def get_flag_payload(self, key: str) -> Any:
        """Return the decoded payload of a flag as a new object, or `None`. Captures no event."""
        record = self._record(key)
        return None if record is None or record.value is None else record.decoded_payload()

    def get_result(self, key: str) -> FeatureFlagResult | None:
        """Return the value and payload of a flag, or `None` if it has no value. Captures no event."""
        record = self._record(key)
        return None if record is None or record.value is None else FeatureFlagResult(record)

    def only(self, keys: Iterable[str]) -> FeatureFlagEvaluations:
        """Return a copy with only these flags, for `capture(flags=…)`. Unknown keys are left out."""
        wanted = frozenset([keys] if isinstance(keys, str) else keys)
        known = frozenset(record.key for record in self._records())
        if unknown := sorted(map(str, wanted - known)):
            logger.warning("flags.only(): there are no flags %s; they are left out", ", ".join(unknown))
        return FeatureFlagEvaluations(self._evaluation, self._report, wanted & known)

    def only_accessed(self) -> FeatureFlagEvaluations:
        """Return a copy with the flags that `is_enabled` and `get_flag` have read so far."""
        known = frozenset(record.key for record in self._records())
        return FeatureFlagEvaluations(self._evaluation, self._report, frozenset(self._accessed) & known)

    def event_properties(self) -> dict[str, Any]:
        """Return the properties that `capture(flags=…)` adds to an event."""
        values = {record.key: record.value for record in self._records() if record.value is not None}
        properties: dict[str, Any] = {f"$feature/{key}": value for key, value in values.items()}
        if active := sorted(key for key, value in values.items() if value is not False):
            properties["$active_feature_flags"] = active
        return properties

    def __repr__(self) -> str:
        return f"<FeatureFlagEvaluations of {len(self.keys)} flags>"

    def _records(self) -> Sequence[Record]:
        records = self._evaluation.records.values()
        return [each for each in records if self._keys is None or each.key in self._keys]

    def _record(self, key: str) -> Record | None:
        if self._keys is not None and key not in self._keys:
            return None
        try:
            return self._evaluation.records.get(key)
        except TypeError:
            return None  # the key is not hashable

    def _read(self, key: str, is_reported: bool) -> FlagValue | None:
        record = self._record(key)
        if not isinstance(key, str):
            return None
        self._accessed.add(key)
        is_missing_by_filter = self._is_filtered and record is None
        if is_reported and self._report is not None and not is_missing_by_filter:
            self._report(self._evaluation, key, record)
        return None if record is None else record.value
