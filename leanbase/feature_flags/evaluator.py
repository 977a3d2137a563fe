"""Evaluates flags locally for one identity, by their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from .definitions import Condition, Definitions, Flag
from .hashing import holdout_hash, rollout_hash, variant_hash
from .operators import CONTINUITY, MISSING, UNRESOLVED, UNSUPPORTED, Undecided

MAX_DEPENDENCIES = 50

Value = bool | str


class Identity:
    """The identity for which flags are evaluated. It caches the values of flags that others depend on.

    Args:
        groups: The keys of the person's groups, by group type.
        person_properties: JSON values.
        group_properties: JSON values, by group type.
        device_id: The device id, for flags that are bucketed by device.
        now: The time to which relative dates refer, in UTC or in seconds since the epoch.
    """

    __slots__ = (
        "_definitions",
        "_dependencies",
        "_device_id",
        "_distinct_id",
        "_group_properties",
        "_groups",
        "_now",
        "_of_groups",
        "_open",
        "_person_properties",
    )

    def __init__(
        self,
        definitions: Definitions,
        distinct_id: str,
        *,
        groups: Mapping[str, str],
        person_properties: Mapping[str, Any],
        group_properties: Mapping[str, Mapping[str, Any]],
        device_id: str | None,
        now: datetime | float,
    ) -> None:
        self._definitions = definitions
        self._distinct_id = distinct_id
        self._groups = groups
        if "distinct_id" not in person_properties:
            person_properties = {"distinct_id": distinct_id, **person_properties}
        self._person_properties = person_properties
        self._group_properties = group_properties
        self._device_id = device_id
        self._of_groups: dict[str, Mapping[str, Any]] = {}
        self._dependencies: dict[tuple[str, int], Value | Undecided] = {}
        self._open = 0
        self._now = now

    @property
    def now(self) -> datetime:
        """The time to which relative dates refer."""
        if not isinstance(self._now, datetime):
            self._now = datetime.fromtimestamp(self._now, timezone.utc)
        return self._now

    def decide(self, flag: Flag) -> Value | Undecided:
        """Return the value of a flag (`True`, `False` or the variant), or why it is undecided."""
        if not flag.is_active:
            return False
        if flag.has_sticky_values:
            return CONTINUITY
        if flag.defect is not None:
            return flag.defect
        subject = self.subject(flag.group_type, by_device=flag.by_device)
        if subject is None:
            return False  # as the server does
        return subject if isinstance(subject, Undecided) else self._decide(flag, *subject)

    def subject(
        self, group_type: str | Undecided | None, *, by_device: bool
    ) -> tuple[Mapping[str, Any], str] | Undecided | None:
        """Return the properties and the id to evaluate; `None` if the identity has no such group."""
        if group_type is None:
            who = self._device_id if by_device else self._distinct_id
            return MISSING if who is None else (self._person_properties, who)
        if isinstance(group_type, Undecided):
            return UNSUPPORTED
        key = self._groups.get(group_type)
        if key is None:
            return None
        properties = self._of_groups.get(group_type)
        if properties is None:
            properties = {"$group_key": key, **self._group_properties.get(group_type, {})}
            self._of_groups[group_type] = properties
        return properties, key

    def dependency(self, key: str, properties: Mapping[str, Any]) -> Value | Undecided:
        """Return the value of a flag on which another flag depends, for the other flag's properties."""
        known = self._dependencies.get((key, id(properties)))
        if known is not None:
            return known
        if key not in self._definitions or self._open >= MAX_DEPENDENCIES:
            return UNRESOLVED
        flag = self._definitions.flag(key)
        self._dependencies[key, id(properties)] = UNRESOLVED  # for a flag that depends on itself
        value: Value | Undecided
        if not flag.is_active:
            value = False
        elif flag.has_sticky_values:
            value = CONTINUITY
        elif flag.defect is not None:
            value = flag.defect
        else:
            who = self._device_id if flag.by_device else self._distinct_id
            if properties is not self._person_properties:
                who = properties.get("$group_key")
            self._open += 1
            value = MISSING if who is None else self._decide(flag, properties, str(who))
            self._open -= 1
        self._dependencies[key, id(properties)] = value
        return value

    def _decide(self, flag: Flag, properties: Mapping[str, Any], who: str) -> Value | Undecided:
        if flag.enrolment is not None:
            enrolled = properties.get(flag.enrolment, MISSING)
            return MISSING if enrolled is MISSING else (enrolled is True or enrolled == "true")
        if flag.holdout is not None:
            value, share = flag.holdout
            if share >= 1.0 or (share > 0.0 and holdout_hash(who) <= share):
                return value
        undecided: Undecided | None = None
        place: float | None = None
        for condition in flag.conditions:
            of_condition, id_of_condition = properties, who
            if not condition.is_of_flag:
                other = self.subject(condition.group_type, by_device=False)
                if other is None:
                    continue
                if isinstance(other, Undecided):
                    undecided = _first(undecided, other)
                    continue
                of_condition, id_of_condition = other
            outcome = self._matches(condition, of_condition)
            if outcome is False:
                continue
            if outcome is not True:
                if outcome.is_final:
                    return outcome
                undecided = _first(undecided, outcome)
                continue
            if condition.share is not None and condition.share < 1.0:
                if place is None or id_of_condition is not who:
                    place = rollout_hash(flag.key, id_of_condition)
                if place > condition.share:
                    place = place if id_of_condition is who else None
                    if flag.ends_early:
                        return False if undecided is None else undecided
                    continue
            return self._variant(flag, condition, id_of_condition)
        return False if undecided is None else undecided

    def _matches(self, condition: Condition, properties: Mapping[str, Any]) -> bool | Undecided:
        """Return whether all filters match. If one does not, undecided filters do not count."""
        first: Undecided | None = None
        strongest: Undecided | None = None
        for matches in condition.filters:
            outcome = matches(properties, self)
            if outcome is False:
                return False
            if outcome is not True:
                first = outcome if first is None else first
                strongest = _first(strongest, outcome)
        if first is None or strongest is None:
            return True
        return first if first.is_final else strongest if not strongest.is_final else UNSUPPORTED

    def _variant(self, flag: Flag, condition: Condition, who: str) -> Value:
        if not flag.variants:
            return True
        if condition.variant is not None and any(condition.variant == key for _, key in flag.variants):
            return condition.variant
        place = variant_hash(flag.key, who)
        for bound, key in flag.variants:
            if place < bound:
                return key
        return True


def _first(one: Undecided | None, other: Undecided) -> Undecided:
    """Return the outcome with the lower rank."""
    return other if one is None or other.rank < one.rank else one
