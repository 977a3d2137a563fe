"""Explains why a flag has its value, and why a flag cannot be evaluated locally."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .definitions import Always, Condition, Flag
from .evaluator import Identity
from .hashing import holdout_hash, rollout_hash, variant_hash
from .operators import Reason, Undecided

_OBSTACLES = {
    Reason.EXPERIENCE_CONTINUITY: "persons keep the value that they were given before",
    Reason.UNSUPPORTED_DEFINITION: "a filter, cohort or group type in it is not known here",
    Reason.UNRESOLVED_DEPENDENCY: "it depends on a flag that is not known here",
    Reason.MISSING_CONTEXT: "a property is missing",
}


def obstacle(flag: Flag) -> tuple[str | None, bool]:
    """Return why a flag may not be evaluated locally (or `None`), and whether it never can be."""
    if not flag.is_active:
        return None, False
    if flag.has_sticky_values:
        return _OBSTACLES[Reason.EXPERIENCE_CONTINUITY], True
    if flag.defect is not None or isinstance(flag.group_type, Undecided):
        return _OBSTACLES[Reason.UNSUPPORTED_DEFINITION], True
    if flag.enrolment is not None or (flag.holdout is not None and flag.holdout[1] >= 1.0):
        return None, False  # its conditions are not read
    can_match = is_hopeless = False
    found: Undecided | None = None
    for condition in flag.conditions:
        outcomes = [each.outcome for each in condition.filters if isinstance(each, Always)]
        undecided = [each for each in outcomes if isinstance(each, Undecided)]
        if isinstance(condition.group_type, Undecided):
            undecided.append(condition.group_type)
        if not undecided:
            can_match = True
            continue
        found = undecided[0] if found is None else found
        if len(undecided) >= len(condition.filters):
            is_hopeless = True
            if undecided[0].is_final:
                break
    if found is None:
        return None, False
    return _OBSTACLES[found.reason], is_hopeless and not can_match


def explained(flag: Flag, identity: Identity) -> Iterator[str]:
    """Yield each step of a flag's evaluation, in words."""
    if not flag.is_active:
        yield "it is switched off"
        return
    if flag.has_sticky_values:
        yield _OBSTACLES[Reason.EXPERIENCE_CONTINUITY]
        return
    subject = identity.subject(flag.group_type, by_device=flag.by_device)
    if flag.defect is not None or isinstance(subject, Undecided):
        yield "its definition cannot be evaluated here"
        return
    if subject is None:
        yield f"no group of the type {flag.group_type!r} was given"
        return
    properties, who = subject
    yield f"it is about {_whom(flag)} {who!r}"
    if flag.enrolment is not None:
        yield f"people opt into it: {flag.enrolment} is {_shown(properties.get(flag.enrolment))}"
        return
    if flag.holdout is not None:
        place = holdout_hash(who)
        yield f"{flag.holdout[0]}: {_percent(flag.holdout[1])} are held out, the hash is {_percent(place)}"
        if flag.holdout[1] >= 1.0 or place <= flag.holdout[1]:
            return
    conditions = (flag.raw.get("filters") or {}).get("groups") or []
    for number, (raw, condition) in enumerate(zip(conditions, flag.conditions, strict=True), 1):
        yield f"condition {number} of {len(flag.conditions)}"
        is_last = False
        for is_last, line in _condition(flag, raw, condition, identity, properties, who):  # noqa: B007
            yield f"  {line}"
        if is_last:
            return
    if not flag.conditions:
        yield "it has no conditions"


def _condition(
    flag: Flag,
    raw: Mapping[str, Any],
    condition: Condition,
    identity: Identity,
    properties: Mapping[str, Any],
    who: str,
) -> Iterator[tuple[bool, str]]:
    """Yield the steps of one condition, and for each whether it ends the evaluation."""
    if not condition.is_of_flag:
        subject = identity.subject(condition.group_type, by_device=False)
        if subject is None or isinstance(subject, Undecided):
            yield False, "it is about a group that was not given, so it is skipped"
            return
        properties, who = subject
    outcomes = []
    for each, matches in zip(raw.get("properties") or [], condition.filters, strict=True):
        outcome = matches(properties, identity)
        outcomes.append(outcome)
        said = "matches" if outcome is True else "does not match" if outcome is False else "undecided"
        if isinstance(outcome, Undecided):
            said += f" ({outcome.reason.value})"
        key = each.get("key")
        given = "" if each.get("type") in ("cohort", "flag") else f", given {_given(properties, key)}"
        operator = each.get("operator") or ("in" if each.get("type") == "cohort" else "exact")
        yield False, f"{key} {operator} {_shown(each.get('value'))}{given}: {said}"
    if not all(outcome is True for outcome in outcomes):
        return
    if condition.share is not None:
        place = rollout_hash(flag.key, who)
        is_in = place <= condition.share
        place_text = f"the hash of {who!r} is {_percent(place)}"
        yield (
            flag.ends_early and not is_in,
            f"rollout to {_percent(condition.share)}, {place_text}: {'in' if is_in else 'out'}",
        )
        if not is_in:
            return
    if flag.variants and condition.variant is None:
        yield True, f"the hash for the variant is {_percent(variant_hash(flag.key, who))}"
    else:
        yield True, "it matches" if condition.variant is None else f"it gives {condition.variant!r}"


def _whom(flag: Flag) -> str:
    if isinstance(flag.group_type, str):
        return f"the group {flag.group_type}"
    return "the device" if flag.by_device else "the person"


def _given(properties: Mapping[str, Any], key: Any) -> str:
    return _shown(properties[key]) if key in properties else "nothing"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _percent(share: float) -> str:
    return f"{share * 100:.2f} %"
