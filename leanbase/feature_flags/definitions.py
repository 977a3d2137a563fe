"""The definitions of a project's flags: one immutable set. Each flag is compiled at its first use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from .operators import (
    MISSING,
    SERVER,
    UNRESOLVED,
    UNSUPPORTED,
    Outcome,
    Undecided,
    compile_operator,
)
from .values import NotAValueError

if TYPE_CHECKING:
    from .evaluator import Identity

FILE_VERSION = 1
KEPT = (
    "flags",
    "group_type_mapping",
    "cohorts",
    "minimal_flag_called_events",
    "property_matching_version",
)
"""The parts of the server's response that a bundle contains."""

_OF_A_FLAG = frozenset(
    {
        "id", "key", "active", "version", "filters", "ensure_experience_continuity", "bucketing_identifier",
        "has_experiment", "evaluation_runtime", "config_version",
    }
)  # fmt: skip
"""The fields of a flag that a bundle contains: those that evaluation reads."""

Filter: TypeAlias = "Callable[[Mapping[str, Any], Identity], Outcome]"
_ABSENT = object()


class Always:
    """A filter with the same outcome for every identity."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def __call__(self, properties: Mapping[str, Any], identity: Identity) -> Outcome:
        return self.outcome


class Condition:
    """One condition of a flag: filters that must all match, and the share of ids to which it applies.

    Attributes:
        share: The share of ids, from 0 to 1; `None` for all.
        variant: The variant that the condition sets, if any.
        group_type: The group type whose properties are tested; `None` for the person.
        is_of_flag: Whether `group_type` is that of the flag.
    """

    __slots__ = ("filters", "group_type", "is_of_flag", "share", "variant")

    def __init__(
        self,
        filters: Sequence[Filter],
        share: float | None,
        variant: str | None,
        group_type: str | Undecided | None,
        is_of_flag: bool,
    ) -> None:
        self.filters = tuple(filters)
        self.share = share
        self.variant = variant
        self.group_type = group_type
        self.is_of_flag = is_of_flag


class Flag:
    """One compiled flag.

    Attributes:
        is_active: Whether the flag is switched on.
        has_sticky_values: Whether an id keeps its earlier value, which only the server knows.
        group_type: The flag's group type; `None` for persons, `UNSUPPORTED` for an unknown type.
        by_device: Whether the flag is bucketed by device id.
        enrolment: The person property that decides the flag, if persons opt in.
        holdout: The value for ids that are held out, and their share from 0 to 1.
        ends_early: Whether an id outside the share of a condition ends the evaluation.
        variants: The upper bound of each variant's range of hashes, and its key.
        payloads: The payloads by value, as JSON.
        defect: The outcome of every evaluation, if the definition cannot be read.
        results: The records by value, which all identities share.
    """

    def __init__(self, raw: Mapping[str, Any], definitions: Definitions) -> None:
        self.raw = raw
        self.key: str = raw["key"]
        self.is_active = bool(raw.get("active"))
        self.has_sticky_values = bool(raw.get("ensure_experience_continuity"))
        self.defect: Undecided | None = None
        self.results: dict[bool | str, Any] = {}
        self.group_type: str | Undecided | None = None
        self.by_device = False
        self.enrolment: str | None = None
        self.holdout: tuple[str, float] | None = None
        self.ends_early = False
        self.variants: tuple[tuple[float, str], ...] = ()
        self.payloads: Mapping[str, Any] = {}
        self.conditions: tuple[Condition, ...] = ()
        try:
            self._read(raw.get("filters") or {}, definitions)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            self.defect = SERVER

    def _read(self, filters: Mapping[str, Any], definitions: Definitions) -> None:
        identifiers = self.raw.get("bucketing_identifier"), filters.get("bucketing_identifier")
        self.by_device = "device_id" in identifiers
        if filters.get("feature_enrollment") is True:
            self.enrolment = f"$feature_enrollment/{self.key}"
        self.ends_early = bool(filters.get("early_exit"))
        index = filters.get("aggregation_group_type_index")
        self.group_type = definitions.group_type(index)
        if holdout := filters.get("holdout"):
            share = min(100.0, max(0.0, float(holdout["exclusion_percentage"]))) / 100
            self.holdout = f"holdout-{holdout['id']}", share
        self.variants = tuple(_variants(filters))
        self.payloads = dict(filters.get("payloads") or {})
        compiler = _Compiler(definitions)
        self.conditions = tuple([compiler.condition(each, index) for each in filters.get("groups") or ()])

    @property
    def id(self) -> int | None:
        value = self.raw.get("id")
        return value if type(value) is int else None

    @property
    def version(self) -> int | None:
        value = self.raw.get("version")
        return value if type(value) is int else None

    @property
    def has_experiment(self) -> bool | None:
        """Whether an experiment uses the flag, if known."""
        value = self.raw.get("has_experiment")
        return value if type(value) is bool else None

    def payload(self, value: bool | str) -> str | None:
        """Return the payload of a value as JSON."""
        name = value if isinstance(value, str) else "true" if value else "false"
        found = self.payloads.get(name)
        return found if found is None or isinstance(found, str) else json.dumps(found)


class Definitions:
    """The definitions of all flags of a project, from one response of the server. Immutable.

    Attributes:
        etag: The `ETag` of the response. A later request for changes sends it.
        fetched_at: When the request was sent, in seconds since the epoch.
        host_hash: A hash of the host from which a bundle was loaded, if known.
        is_minimal: Whether `$feature_flag_called` has few properties for flags without an experiment.
        matching_version: How filters compare booleans: the server's version number, 1 or above.

    Examples:
        >>> flags = {"flags": [{"key": "beta", "active": True, "filters": {"groups": [{}]}}]}
        >>> definitions = Definitions.from_json(flags)
        >>> list(definitions), "beta" in definitions
        (['beta'], True)
    """

    def __init__(
        self, data: Mapping[str, Any], *, etag: str | None, fetched_at: float, host_hash: str | None = None
    ) -> None:
        self.etag = etag
        self.fetched_at = fetched_at
        self.host_hash = host_hash
        self.is_minimal = data.get("minimal_flag_called_events") is True
        version = data.get("property_matching_version")
        self.matching_version = version if type(version) is int else 1
        self._data = data
        self._raw: dict[str, Mapping[str, Any]] = {flag["key"]: flag for flag in data["flags"]}
        self._flags: dict[str, Flag] = {}
        self._cohorts: dict[str, Filter | Undecided] = {}

    @classmethod
    def from_json(
        cls,
        data: str | bytes | Mapping[str, Any],
        *,
        etag: str | None = None,
        fetched_at: float | None = None,
    ) -> Definitions:
        """Read a response of the server, or a bundle from `leanbase flags pull` or the publisher.

        Args:
            data: The JSON, as a string, as bytes or decoded.
            etag: The `ETag` of the response. Default: that of the bundle, if any.
            fetched_at: When the request was sent, in seconds since the epoch. Default: the time in the bundle
                (0 if it has none), or now for a response.

        Raises:
            ValueError: `data` is neither.
        """
        found: Any = json.loads(data) if isinstance(data, (str, bytes)) else deepcopy(data)
        if not isinstance(found, Mapping):
            raise ValueError(f"definitions are a JSON object, not {type(found).__name__}")
        host_hash = None
        if "leanbase_flags" in found:
            if found["leanbase_flags"] != FILE_VERSION:
                raise ValueError(f"bundles of version {found['leanbase_flags']!r} cannot be read")
            etag = etag or _text(found.get("etag"))
            fetched_at = _seconds(found.get("fetched_at")) if fetched_at is None else fetched_at
            host_hash = _text(found.get("host_hash"))
            found = found.get("definitions")
        flags = found.get("flags") if isinstance(found, Mapping) else None
        if not isinstance(flags, list):
            raise ValueError("there are no definitions in it: no list of flags")
        for flag in flags:
            if not (isinstance(flag, Mapping) and isinstance(flag.get("key"), str)):
                raise ValueError("a flag without a key")
        moment = time.time() if fetched_at is None else fetched_at
        return cls(found, etag=etag, fetched_at=moment, host_hash=host_hash)

    def bundle(self, host: str | None) -> dict[str, Any]:
        """Return a bundle for other processes: only what evaluation needs."""
        data = {name: self._data[name] for name in KEPT if name in self._data}
        data["flags"] = [
            {name: value for name, value in flag.items() if name in _OF_A_FLAG} for flag in data["flags"]
        ]
        moment = datetime.fromtimestamp(self.fetched_at, timezone.utc)
        return {
            "leanbase_flags": FILE_VERSION,
            "host_hash": self.host_hash if host is None else host_hash(host),
            "fetched_at": moment.isoformat().replace("+00:00", "Z"),
            "etag": self.etag,
            "definitions": data,
        }

    def renewed(self, fetched_at: float) -> Definitions:
        """Return the same definitions with a later `fetched_at`, when the server confirmed them."""
        same = Definitions(self._data, etag=self.etag, fetched_at=fetched_at, host_hash=self.host_hash)
        same._flags, same._cohorts = self._flags, self._cohorts
        return same

    def __contains__(self, key: object) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def raw_flags(self) -> list[Mapping[str, Any]]:
        """Return a copy of the definitions as loaded."""
        return deepcopy(list(self._raw.values()))

    def flag(self, key: str) -> Flag:
        """Return a compiled flag. Raises `KeyError` for an unknown key."""
        found = self._flags.get(key)
        if found is None:
            found = self._flags[key] = Flag(self._raw[key], self)
        return found

    def group_type(self, index: object) -> str | Undecided | None:
        """Return the name of a group type; `None` for persons, `UNSUPPORTED` for an unknown index."""
        if index is None:
            return None
        name = (self._data.get("group_type_mapping") or {}).get(str(index))
        return name if isinstance(name, str) else UNSUPPORTED

    def cohort(self, id: str) -> Filter | Undecided:
        """Return the filter of a cohort; `SERVER` if the cohort is unknown or cannot be read."""
        found = self._cohorts.get(id)
        if found is None:
            raw = (self._data.get("cohorts") or {}).get(id)
            self._cohorts[id] = SERVER  # for a cohort that contains itself
            try:
                found = SERVER if raw is None else _Compiler(self).group(raw)
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
                found = SERVER
            self._cohorts[id] = found
        return found


class _Compiler:
    """Compiles the conditions and cohorts of one set of definitions."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def condition(self, raw: Mapping[str, Any], index: object) -> Condition:
        own_index = raw.get("aggregation_group_type_index", index)
        percentage = raw.get("rollout_percentage")
        variant = raw.get("variant")
        return Condition(
            [self.filter(each) for each in raw.get("properties") or ()],
            None if percentage is None else float(percentage) / 100,
            variant if isinstance(variant, str) else None,
            self._definitions.group_type(own_index),
            own_index == index,
        )

    def filter(self, raw: Mapping[str, Any]) -> Filter:
        kind = raw.get("type")
        if kind == "cohort":
            return self._cohort(raw)
        if kind == "flag":
            return _dependency(raw)
        return self._property(raw)

    def _property(self, raw: Mapping[str, Any]) -> Filter:
        key = raw["key"]
        if not isinstance(key, str):
            raise TypeError("the name of a property is a string")
        test = compile_operator(raw.get("operator"), raw.get("value"), self._definitions.matching_version)
        if isinstance(test, Undecided):
            return Always(test)
        decide = test

        def matches(properties: Mapping[str, Any], identity: Identity) -> Outcome:
            given = properties.get(key, _ABSENT)
            if given is _ABSENT:
                return MISSING
            try:
                return decide(given, identity)
            except NotAValueError:
                return MISSING

        return matches

    def _cohort(self, raw: Mapping[str, Any]) -> Filter:
        operator = raw.get("operator") or "in"
        if operator not in ("in", "exact", "not_in"):
            return Always(UNSUPPORTED)
        test = self._definitions.cohort(str(raw.get("value")))
        if isinstance(test, Undecided):
            return Always(test)
        return _negated(test) if operator == "not_in" else test

    def group(self, raw: Mapping[str, Any]) -> Filter:
        """Compile a cohort or a nested group of it."""
        if not raw or not (members := raw.get("values", [])):
            if raw and raw.get("type") not in ("AND", "OR"):
                raise ValueError("neither AND nor OR")
            return Always(True)
        if raw.get("type") not in ("AND", "OR") or not isinstance(members, list):
            raise ValueError("neither AND nor OR, or no list of members")
        decisive = raw["type"] == "OR"
        tests = [self._member(each) for each in members]

        def matches(properties: Mapping[str, Any], identity: Identity) -> Outcome:
            undecided = None
            for test in tests:
                outcome = test(properties, identity)
                if outcome is decisive:
                    return decisive
                if isinstance(outcome, Undecided) and (undecided is None or outcome.is_final):
                    undecided = outcome
            return (not decisive) if undecided is None else undecided

        return matches

    def _member(self, raw: Mapping[str, Any]) -> Filter:
        if "values" in raw:
            return self.group(raw)
        test = self.filter(raw)
        return _negated(test) if raw.get("negation") else test


def _negated(test: Filter) -> Filter:
    def matches(properties: Mapping[str, Any], identity: Identity) -> Outcome:
        outcome = test(properties, identity)
        return outcome if isinstance(outcome, Undecided) else not outcome

    return matches


def _dependency(raw: Mapping[str, Any]) -> Filter:
    """Compile a filter on the value of another flag."""
    key, expected, chain = raw.get("key"), raw.get("value"), raw.get("dependency_chain")
    is_readable = (
        raw.get("operator") == "flag_evaluates_to"
        and isinstance(key, str)
        and key
        and isinstance(expected, (bool, str))
    )
    if not is_readable:
        return Always(False)
    if not isinstance(chain, list) or not chain or not all(isinstance(each, str) for each in chain):
        return Always(UNSUPPORTED)
    keys = [*chain, key] if chain[-1] != key else chain

    def matches(properties: Mapping[str, Any], identity: Identity) -> Outcome:
        value: bool | str | Undecided = False
        for each in keys:
            value = identity.dependency(each, properties)
            if isinstance(value, Undecided):
                return value if value.is_final else UNRESOLVED
        if isinstance(expected, str):
            return value == expected and isinstance(value, str)
        return (value is not False) is expected

    return matches


def _variants(filters: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
    bound = 0.0
    for variant in (filters.get("multivariate") or {}).get("variants") or ():
        bound += float(variant.get("rollout_percentage") or 0) / 100
        yield bound, str(variant["key"])


def host_hash(host: str) -> str:
    """Return the hash of a host that a bundle contains."""
    return sha256(host.rstrip("/").encode()).hexdigest()[:16]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(moment: object) -> float:
    """Return a bundle's timestamp in seconds since the epoch; 0 (very old) if it is invalid."""
    try:
        return datetime.fromisoformat(str(moment).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return 0.0
