"""The answer about flags for one identity. It never changes, and reading it asks nobody."""

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
    """What is known about one flag.

    Attributes:
        key: The flag's key.
        value: `True`, `False` or the variant; `None` if the server could not evaluate it.
        payload: The payload as JSON, or a decoded value for a flag whose value is a payload.
        is_local: Whether it was evaluated here.
        id: The flag's id.
        version: The version of its definition.
        reason: Why it has this value, in words.
        reason_code: The same, as a code of the server.
        has_experiment: Whether an experiment reads it, if that is known.
        error: What was wrong with the record, if anything.
        attribution: Properties that say which rule of a flag of version 2 applied.
        is_exposure: Whether a complete split of an experiment decided it.
        is_switched_off: Whether it is off for everybody, by its definition.
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
        """Return the payload as a new object each time; `None` if there is none or it is no JSON."""
        if not isinstance(self.payload, str):
            return self.payload if self.payload is None else json.loads(json.dumps(self.payload))
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError):
            return None

    def payload_text(self) -> str | None:
        """Return the payload as JSON; `None` if there is none or it is no JSON."""
        if self.payload is None or self.decoded_payload() is None:
            return None
        return self.payload if isinstance(self.payload, str) else json.dumps(self.payload)


class FeatureFlagResult:
    """The value and the payload of one flag.

    Attributes:
        key: The flag's key.
        enabled: Whether it is on for this identity.
        variant: Its variant, if it has one.
        payload: The decoded payload, or `None`.
        reason: Why it has this value, in words, or `None`.
        version: The version of its definition, or `None`.
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


class Answer:
    """Everything that one evaluation found out. Snapshots are views of it.

    Attributes:
        distinct_id: Whom it is about; `None` if nobody is known.
        groups: The groups, the key of each by its type.
        records: What is known of each flag.
        unresolved: Why flags could not be decided here, for those that the server did not decide either.
        errors: What went wrong, in words of `$feature_flag_error`.
        request_id: The server's id of the request.
        evaluated_at: When the server evaluated, in milliseconds since the epoch.
        is_minimal: Whether the server wants few properties of `$feature_flag_called` without an experiment.
        is_minimal_here: Whether the definitions want the same.
        is_stale: Whether the definitions were older than they should be.
        is_complete: Whether nothing that was asked for is missing for want of definitions or the server.
        definitions_etag: What identifies the definitions.
    """

    __slots__ = (
        "definitions_etag",
        "distinct_id",
        "errors",
        "evaluated_at",
        "groups",
        "is_complete",
        "is_minimal",
        "is_minimal_here",
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
        self.is_minimal_here = False
        self.is_stale = False
        self.is_complete = True
        self.definitions_etag: str | None = None

    def snapshot(self, report: Report | None = None) -> FeatureFlagEvaluations:
        """Return what the application reads.

        Args:
            report: Called with each read that is reported.
        """
        return FeatureFlagEvaluations(self, report)

    def values(self) -> dict[str, FlagValue]:
        """Return the values of all flags that have one."""
        return {key: record.value for key, record in self.records.items() if record.value is not None}


Report = Callable[[Answer, str, "Record | None"], object]


@final
class FeatureFlagEvaluations:
    """The values of flags for one identity, all from one evaluation. They never change.

    `is_enabled` and `get_flag` report each value once as `$feature_flag_called`. Nothing else reports or
    sends anything, and nothing raises.

    Attributes:
        error: `None`, or what went wrong, in the words of the property `$feature_flag_error`.
        unresolved_flags: Why each flag without a value could not be evaluated here.

    Examples:
        >>> import leanbase
        >>> flags = leanbase.evaluate_flags("user_1", flag_keys=["checkout"])
        >>> flags.is_enabled("checkout", default_value=True)
        True
    """

    __slots__ = ("_accessed", "_answer", "_is_filtered", "_keys", "_report")

    def __init__(
        self, answer: Answer, report: Report | None = None, keys: frozenset[str] | None = None
    ) -> None:
        self._answer = answer
        self._report = report
        self._keys = keys
        self._is_filtered = keys is not None
        self._accessed: set[str] = set()

    @property
    def error(self) -> str | None:
        return ",".join(self._answer.errors) or None

    @property
    def unresolved_flags(self) -> Mapping[str, Reason]:
        return MappingProxyType({} if self._is_filtered else self._answer.unresolved)

    @property
    def is_about_somebody(self) -> bool:
        """Whether flags were evaluated for an id."""
        return self._answer.distinct_id is not None

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for was evaluated, without the server or with it."""
        return self._answer.is_complete

    @property
    def is_stale(self) -> bool:
        """Whether the definitions were older than `flags_ttl`."""
        return self._answer.is_stale

    @property
    def definitions_etag(self) -> str | None:
        """What identifies the definitions that were used, if there were some."""
        return self._answer.definitions_etag

    def is_local(self, key: str) -> bool:
        """Return whether a flag was evaluated here."""
        record = self._record(key)
        return record is not None and record.is_local

    def is_switched_off(self, key: str) -> bool:
        """Return whether the definition of a flag says that it is off for everybody."""
        record = self._record(key)
        return record is not None and record.is_switched_off

    @property
    def keys(self) -> list[str]:
        """The keys of all flags that have a value."""
        return [record.key for record in self._records() if record.value is not None]

    def is_enabled(
        self, key: str, default_value: bool = False, *, send_feature_flag_events: bool = True
    ) -> bool:
        """Return whether a flag is on. A variant is on.

        Args:
            key: The flag's key.
            default_value: The result for a flag without a value.
            send_feature_flag_events: Whether the read is reported.
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
        """Return the variant of a flag, `True` or `False`.

        Args:
            key: The flag's key.
            default_value: The result for a flag without a value.
            send_feature_flag_events: Whether the read is reported.
        """
        value = self._read(key, send_feature_flag_events)
        return default_value if value is None else value

    def get_flag_payload(self, key: str) -> Any:
        """Return the decoded payload of a flag, a new object each time, or `None`. This is not reported."""
        record = self._record(key)
        return None if record is None or record.value is None else record.decoded_payload()

    def get_result(self, key: str) -> FeatureFlagResult | None:
        """Return value and payload of a flag, or `None` if it has no value. This is not reported."""
        record = self._record(key)
        return None if record is None or record.value is None else FeatureFlagResult(record)

    def only(self, keys: Iterable[str]) -> FeatureFlagEvaluations:
        """Return a copy with some of the flags, to add these to an event. Unknown keys are left out."""
        wanted = frozenset([keys] if isinstance(keys, str) else keys)
        known = frozenset(record.key for record in self._records())
        if unknown := sorted(map(str, wanted - known)):
            logger.warning("flags.only(): there are no flags %s; they are left out", ", ".join(unknown))
        return FeatureFlagEvaluations(self._answer, self._report, wanted & known)

    def only_accessed(self) -> FeatureFlagEvaluations:
        """Return a copy with the flags that were read so far. Later reads do not change it."""
        known = frozenset(record.key for record in self._records())
        return FeatureFlagEvaluations(self._answer, self._report, frozenset(self._accessed) & known)

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
        records = self._answer.records.values()
        return [each for each in records if self._keys is None or each.key in self._keys]

    def _record(self, key: str) -> Record | None:
        if self._keys is not None and key not in self._keys:
            return None
        try:
            return self._answer.records.get(key)
        except TypeError:
            return None  # not a key at all

    def _read(self, key: str, is_reported: bool) -> FlagValue | None:
        record = self._record(key)
        if not isinstance(key, str):
            return None
        self._accessed.add(key)
        is_missing_by_filter = self._is_filtered and record is None
        if is_reported and self._report is not None and not is_missing_by_filter:
            self._report(self._answer, key, record)
        return None if record is None else record.value
