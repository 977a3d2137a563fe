"""The events about reads of flags: `$feature_flag_called` and `$experiment_exposure`, each captured once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

from .. import forking
from .snapshot import LOCAL_REASON, Evaluation, Record

CALLED = "$feature_flag_called"
EXPOSURE = "$experiment_exposure"
FLAG_MISSING = "flag_missing"
INCONCLUSIVE = "local_evaluation_inconclusive"
MAX_REPORTED = 10_000
"""The maximum number of reports that are remembered, which take less than 1 MiB together."""

_MINIMAL = frozenset(
    {
        "$feature_flag", "$feature_flag_response", "$feature_flag_has_experiment", "$feature_flag_id",
        "$feature_flag_version", "$feature_flag_reason", "$feature_flag_request_id",
        "$feature_flag_evaluated_at", "$feature_flag_error", "locally_evaluated", "$groups",
        "$process_person_profile", "$session_id", "$lib", "$lib_version", "$is_server", "$geoip_disable",
        "$os", "$os_version", "$os_distro", "$python_runtime", "$python_version", "$referring_domain",
        "$feature_flag_config_version", "$feature_flag_reason_code", "$feature_flag_rule_id",
        "$feature_flag_rule_type", "$feature_flag_variant_key",
        # click ids
        "gclid", "gclsrc", "dclid", "gbraid", "wbraid", "fbclid", "msclkid", "twclid", "li_fat_id", "igshid",
        "ttclid", "rdt_cid", "epik", "qclid", "sccid", "irclid", "mc_cid", "_kx", "gad_source",
    }
)  # fmt: skip
"""The properties of `$feature_flag_called` in minimal mode, besides `utm_…`."""


class Exposure(NamedTuple):
    """One event about a flag.

    Attributes:
        key: Identifies the report: the same key is reported once.
        properties: The properties, except the fixed ones.
        fixed: The properties that no other source may replace.
        is_minimal: Whether the event has only the properties of minimal mode.
    """

    name: str
    key: bytes
    properties: dict[str, Any]
    fixed: dict[str, Any]
    is_minimal: bool

    def finalize(self, properties: dict[str, Any]) -> None:
        """Set the fixed properties, and apply minimal mode, after all other properties are set."""
        properties.update(self.fixed)
        if self.fixed.get("$feature_flag_config_version") == 2:
            properties.pop("$feature_flag_reason", None)
        if self.is_minimal:
            for name in [n for n in properties if n not in _MINIMAL and not n.startswith("utm_")]:
                del properties[name]


def exposures_of(evaluation: Evaluation, key: str, record: Record | None) -> list[Exposure]:
    """Return the events about a read of a flag, including those that are already captured."""
    called = _called(evaluation, key, record)
    found = [called]
    if record is not None and record.is_exposure:
        found.append(_exposure(evaluation, called, record))
    return found


def _called(evaluation: Evaluation, key: str, record: Record | None) -> Exposure:
    response = None if record is None else record.value
    fixed: dict[str, Any] = {
        "$feature_flag": key,
        "$feature_flag_response": response,
        "locally_evaluated": record is not None and record.is_local,
    }
    properties: dict[str, Any] = {f"$feature/{key}": response}
    errors = list(evaluation.errors)
    if record is None:
        errors.append(INCONCLUSIVE if key in evaluation.unresolved else FLAG_MISSING)
    else:
        if record.error is not None:
            errors.append(record.error)
        properties.update(_known(evaluation, record))
        fixed.update(record.attribution or {})
    if errors:
        fixed["$feature_flag_error"] = ",".join(dict.fromkeys(errors))
    is_minimal = record is not None and record.has_experiment is False
    if record is not None and is_minimal:
        is_minimal = evaluation.is_minimal_locally if record.is_local else evaluation.is_minimal
    attribution = sorted((record.attribution or {}).items()) if record is not None else ()
    identity = _key(evaluation, key, repr(response), fixed.get("$feature_flag_error"), attribution)
    return Exposure(CALLED, identity, properties, fixed, is_minimal)


def _known(evaluation: Evaluation, record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {
        "$feature_flag_payload": record.decoded_payload(),
        "$feature_flag_id": record.id,
        "$feature_flag_version": record.version,
        "$feature_flag_reason": LOCAL_REASON if record.is_local else record.reason,
        "$feature_flag_has_experiment": record.has_experiment,
    }
    if not record.is_local:
        found["$feature_flag_request_id"] = evaluation.request_id
        found["$feature_flag_evaluated_at"] = evaluation.evaluated_at
    return {name: value for name, value in found.items() if value is not None}


def _exposure(evaluation: Evaluation, called: Exposure, record: Record) -> Exposure:
    names = ("$feature_flag", "$feature_flag_response", "locally_evaluated")
    attribution = ("$feature_flag_variant_key", "$feature_flag_rule_id")
    if_known = (
        "$feature_flag_id",
        "$feature_flag_version",
        "$feature_flag_request_id",
        "$feature_flag_evaluated_at",
    )
    fixed = {name: called.fixed[name] for name in (*names, *attribution)}
    properties = {name: called.properties[name] for name in if_known if name in called.properties}
    rule = [called.fixed[name] for name in attribution]
    return Exposure(EXPOSURE, _key(evaluation, record.key, EXPOSURE, *rule), properties, fixed, False)


def _key(evaluation: Evaluation, *parts: object) -> bytes:
    """Return 64 bits that identify a report and its identity."""
    text = repr((evaluation.distinct_id, sorted(evaluation.groups.items()), parts))
    return blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()


class Reported:
    """Remembers reports. It forgets the oldest first."""

    def __init__(self) -> None:
        self._reset_after_fork()
        forking.reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._keys: dict[bytes, None] = {}

    def once(self, key: bytes, capture: Callable[[], bool]) -> None:
        """Call `capture` unless the key was reported. `capture` returns whether the report counts."""
        with self._lock:
            if key in self._keys:
                return
            while len(self._keys) >= MAX_REPORTED:
                del self._keys[next(iter(self._keys))]
            self._keys[key] = None
        is_made = False
        try:
            is_made = capture()
        finally:
            if not is_made:
                with self._lock:
                    self._keys.pop(key, None)
