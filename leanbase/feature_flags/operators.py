"""The operators of a flag's filters, each compiled to a function for the filter's value.

The function takes a property and an object with the current time. It returns whether the filter matches, or
`Undecided`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from operator import ge, gt, le, lt
from typing import Any, Protocol, TypeAlias

from . import values
from .regexes import UnlikeError, compiled
from .values import NotAValueError, ascii_lower, is_boolean_like, is_truthy, to_string


class Reason(str, Enum):
    """Why a flag could not be evaluated locally. Of several reasons, the first of this list counts."""

    EXPERIENCE_CONTINUITY = "experience_continuity"
    UNSUPPORTED_DEFINITION = "unsupported_definition"
    UNRESOLVED_DEPENDENCY = "unresolved_dependency"
    MISSING_CONTEXT = "missing_context"


class Undecided:
    """The outcome if only the server can decide.

    Attributes:
        rank: The position of the reason. Of several outcomes, the lowest rank counts.
        is_final: Whether the evaluation skips the flag's later conditions.
    """

    __slots__ = ("is_final", "rank", "reason")

    def __init__(self, reason: Reason, *, is_final: bool = False) -> None:
        self.reason = reason
        self.rank = list(Reason).index(reason)
        self.is_final = is_final

    def __repr__(self) -> str:
        return f"<undecided: {self.reason.value}>"

    def __bool__(self) -> bool:
        raise TypeError("an undecided outcome is neither true nor false")


class HasNow(Protocol):
    """An object with the time to which relative dates refer."""

    @property
    def now(self) -> datetime: ...


Outcome: TypeAlias = bool | Undecided
Test: TypeAlias = Callable[[Any, HasNow], Outcome]

CONTINUITY = Undecided(Reason.EXPERIENCE_CONTINUITY)
UNSUPPORTED = Undecided(Reason.UNSUPPORTED_DEFINITION)
SERVER = Undecided(Reason.UNSUPPORTED_DEFINITION, is_final=True)
UNRESOLVED = Undecided(Reason.UNRESOLVED_DEPENDENCY)
MISSING = Undecided(Reason.MISSING_CONTEXT)


def compile_operator(operator: object, value: Any, matching_version: int) -> Test | Undecided:
    """Return the function that tests a property, or `Undecided` for an unsupported filter.

    `None` is the operator `exact`. `matching_version` is that of the `Definitions`.
    """
    name = "exact" if operator is None else operator
    try:
        if name in ("exact", "is_not"):
            return _equality(value, matching_version, negated=name == "is_not")
        make = _OPERATORS.get(name) if isinstance(name, str) else None
        return UNSUPPORTED if make is None else make(value)
    except (NotAValueError, UnlikeError):
        return UNSUPPORTED


def _equality(value: Any, matching_version: int, *, negated: bool) -> Test:
    if matching_version < 2 and is_boolean_like(value):  # also true for an empty list
        expected = is_truthy(value)
        return lambda given, _: (is_truthy(given) is expected) is not negated
    wanted = frozenset(to_string(each).lower() for each in (value if type(value) is list else [value]))
    return lambda given, _: (to_string(given).lower() in wanted) is not negated


def _text(compare: Callable[[str, str], bool], *, negated: bool) -> Callable[[Any], Test]:
    def make(value: Any) -> Test:
        wanted = ascii_lower(to_string(value))
        return lambda given, _: compare(ascii_lower(to_string(given)), wanted) is not negated

    return make


def _regex(*, negated: bool) -> Callable[[Any], Test]:
    def make(value: Any) -> Test:
        search = compiled(to_string(value))

        def test(given: Any, _: HasNow) -> Outcome:
            if search is None:
                return False  # an invalid expression never matches, even negated
            found = search(to_string(given))
            return UNSUPPORTED if found is None else found is not negated

        return test

    return make


def _comparison(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test | Undecided]:
    def make(value: Any) -> Test | Undecided:
        limit = values.number(value)
        if limit is None:
            return UNSUPPORTED

        def test(given: Any, _: HasNow) -> bool:
            found = values.number(given)
            return found is not None and compare(found, limit)

        return test

    return make


def _date(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test | Undecided]:
    def make(value: Any) -> Test | Undecided:
        is_relative = values.is_relative(value)

        def test(given: Any, subject: HasNow) -> Outcome:
            now = subject.now
            limit = values.relative_timestamp(value, now) if is_relative else values.timestamp(value, now)
            if limit is None:
                return UNSUPPORTED
            found = values.timestamp(given, now)
            return MISSING if found is None else compare(found, limit)

        return test if is_relative or values.timestamp(value, _ANY_TIME) is not None else UNSUPPORTED

    return make


_ANY_TIME = datetime(2024, 2, 28)


def _version_comparison(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test | Undecided]:
    def make(value: Any) -> Test | Undecided:
        limit = values.version(to_string(value))
        if limit is None:
            return UNSUPPORTED

        def test(given: Any, _: HasNow) -> Outcome:
            found = values.version(to_string(given))
            return MISSING if found is None else compare(found, limit)

        return test

    return make


def _version_range(
    bounds_of: Callable[[str], tuple[values.Version, values.Version] | None],
) -> Callable[[Any], Test | Undecided]:
    def make(value: Any) -> Test | Undecided:
        bounds = bounds_of(to_string(value))
        if bounds is None:
            return UNSUPPORTED
        low, high = bounds

        def test(given: Any, _: HasNow) -> Outcome:
            found = values.version(to_string(given))
            return MISSING if found is None else low <= found < high

        return test

    return make


def _contains(text: str, part: str) -> bool:
    return part in text


_OPERATORS: dict[str, Callable[[Any], Test | Undecided]] = {
    "is_set": lambda _: lambda given, now: True,
    "is_not_set": lambda _: lambda given, now: False,
    "icontains": _text(_contains, negated=False),
    "not_icontains": _text(_contains, negated=True),
    "starts_with": _text(str.startswith, negated=False),
    "not_starts_with": _text(str.startswith, negated=True),
    "ends_with": _text(str.endswith, negated=False),
    "not_ends_with": _text(str.endswith, negated=True),
    "regex": _regex(negated=False),
    "not_regex": _regex(negated=True),
    "gt": _comparison(gt),
    "gte": _comparison(ge),
    "lt": _comparison(lt),
    "lte": _comparison(le),
    "is_date_before": _date(lt),
    "is_date_after": _date(gt),
    "semver_eq": _version_comparison(lambda found, limit: found == limit),
    "semver_neq": _version_comparison(lambda found, limit: found != limit),
    "semver_gt": _version_comparison(gt),
    "semver_gte": _version_comparison(ge),
    "semver_lt": _version_comparison(lt),
    "semver_lte": _version_comparison(le),
    "semver_tilde": _version_range(values.tilde),
    "semver_caret": _version_range(values.caret),
    "semver_wildcard": _version_range(values.wildcard),
}
"""Compilers by operator, except `exact` and `is_not`, which depend on the matching version."""
