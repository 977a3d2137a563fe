"""Strings, numbers, timestamps and versions, as the server writes and reads them."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta, timezone
from typing import Any

MAX_RELATIVE_UNITS = 10_000

Version = tuple[int, int, int]

# Not compiled at import: that would delay a cold start.
_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_RELATIVE = r"-?([0-9]+)([hdwmy])"
_MOMENT = (
    r"([0-9]{4})-([0-9][0-9])-([0-9][0-9])"
    r"(?:[T ]([0-9][0-9]):([0-9][0-9])(?::([0-9][0-9])(?:[.,]([0-9]{1,9}))?)?)?"
    r"(?:[ ]?([Zz]|UTC|[+-][0-9][0-9](?::?[0-9][0-9])?))?"
)
_YEAR = r"[0-9]{4}"
_PART = r"0|[1-9][0-9]*"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class NotAValueError(ValueError):
    """A value cannot be written as JSON, such as NaN."""


def to_string(value: Any) -> str:
    """Return a value as the server compares it: strings unchanged, any other value as JSON with sorted keys.

    Raises:
        NotAValueError: The value cannot be written as JSON.

    >>> to_string("Pro"), to_string(None), to_string(5.0), to_string({"b": [1], "a": True})
    ('Pro', 'null', '5.0', '{"a":true,"b":[1]}')
    """
    if type(value) is str:
        return value
    try:
        if type(value) is float and "e" in (text := repr(value)):
            return _with_exponent(text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise NotAValueError(type(value).__name__) from error


def _with_exponent(text: str) -> str:
    """Return a number with an exponent as the server writes it: the exponent without `+` or leading zeros.

    >>> _with_exponent("1e+16"), _with_exponent("1.5e-07"), _with_exponent("1e-05")
    ('1e16', '1.5e-7', '0.00001')
    """
    mantissa, _, exponent = text.partition("e")
    if int(exponent) == -5:
        digits = mantissa.replace(".", "").lstrip("-")
        return f"{'-' if text.startswith('-') else ''}0.0000{digits}"
    return f"{mantissa}e{int(exponent)}"


def is_truthy(value: Any) -> bool:
    """Return True for `True`, the string `true` in any case, or a list of only such values."""
    if type(value) is list:
        return all(map(is_truthy, value))
    return value is True or (type(value) is str and value.lower() == "true")


def is_boolean_like(value: Any) -> bool:
    """Return True for a boolean, the string of one, or a list of only such values."""
    if type(value) is list:
        return all(map(is_boolean_like, value))
    return type(value) is bool or (type(value) is str and value.lower() in ("true", "false"))


def ascii_lower(text: str) -> str:
    """Return a string with only the letters A to Z converted to lower case."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def number(value: Any) -> float | None:
    """Return a finite number, also from a string of ASCII digits; `None` for anything else."""
    if type(value) is str:
        if not re.fullmatch(_NUMBER, value):
            return None
    elif type(value) is not int and type(value) is not float:
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def timestamp(value: Any, now: datetime) -> datetime | None:
    """Return the timestamp that a string contains, or `None`. Without an offset, it is in UTC.

    A year alone means today's month and day in that year, as on the server.
    """
    if type(value) is not str:
        return None
    text = value.strip()
    found = re.fullmatch(_MOMENT, text)
    try:
        if found is None:
            return _midnight(now).replace(year=int(text)) if re.fullmatch(_YEAR, text) else None
        fraction = (found[7] or "").ljust(6, "0")[:6]
        clock = (int(found[4] or 0), int(found[5] or 0), int(found[6] or 0), int(fraction))
        named = datetime(int(found[1]), int(found[2]), int(found[3]), *clock, tzinfo=_offset(found[8]))
        return named.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _offset(text: str | None) -> timezone:
    if text is None or text in ("Z", "z", "UTC"):
        return timezone.utc
    minutes = int(text[1:3]) * 60 + int(text[-2:] if len(text) > 3 else 0)
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def is_relative(value: Any) -> bool:
    """Return True for a relative date, such as `-7d`."""
    return type(value) is str and re.fullmatch(_RELATIVE, value) is not None


def relative_timestamp(value: str, now: datetime) -> datetime | None:
    """Return the timestamp of a relative date before `now`; `None` if it is out of range.

    Months and years are subtracted one at a time, each to the last day of a shorter month.

    >>> relative_timestamp("-1m", datetime(2025, 3, 31, tzinfo=timezone.utc)).isoformat()
    '2025-02-28T00:00:00+00:00'
    """
    found = re.fullmatch(_RELATIVE, value)
    if found is None or len(found[1]) > 9 or (count := int(found[1])) >= MAX_RELATIVE_UNITS:
        return None
    try:
        if found[2] in _UNITS:
            return now - count * _UNITS[found[2]]
        for _ in range(count):
            now = _month_before(now) if found[2] == "m" else _year_before(now)
    except (ValueError, OverflowError):
        return None
    return now


def _month_before(now: datetime) -> datetime:
    year, month = (now.year, now.month - 1) if now.month > 1 else (now.year - 1, 12)
    return now.replace(year=year, month=month, day=min(now.day, _days_in(year, month)))


def _year_before(now: datetime) -> datetime:
    year = now.year - 1
    return now.replace(year=year, day=min(now.day, _days_in(year, now.month)))


def _days_in(year: int, month: int) -> int:
    if year < 1:
        raise ValueError("there is no such year")
    following = datetime(year + month // 12, month % 12 + 1, 1)
    return (following - timedelta(days=1)).day


def version(text: str) -> Version | None:
    """Return the first three parts of a version, or `None` if it is invalid. Missing parts are 0.

    A leading `v`, a pre-release and a build are ignored.

    >>> version("v1.2"), version("1.02.3"), version("2.0.0-rc.1+7")
    ((1, 2, 0), None, (2, 0, 0))
    """
    text = text.strip().lstrip("vV")
    core = re.split(r"[-+]", text, maxsplit=1)[0]
    return _version(core.split("."))


def _version(parts: list[str]) -> Version | None:
    numbers = [int(part) for part in parts[:3] if re.fullmatch(_PART, part) and len(part) < 20]
    if not numbers or len(numbers) < len(parts[:3]):
        return None
    major, minor, patch = (*numbers, 0, 0)[:3]
    return major, minor, patch


def tilde(text: str) -> tuple[Version, Version] | None:
    """Return the bounds of `~text`: the same minor version."""
    found = version(text)
    return found and (found, (found[0], found[1] + 1, 0))


def caret(text: str) -> tuple[Version, Version] | None:
    """Return the bounds of `^text`: the same first part that is not 0."""
    found = version(text)
    if found is None:
        return None
    major, minor, patch = found
    if major:
        return found, (major + 1, 0, 0)
    return found, ((0, minor + 1, 0) if minor else (0, 0, patch + 1))


def wildcard(text: str) -> tuple[Version, Version] | None:
    """Return the bounds of a version with stars. Stars between numbers are ignored, as on the server.

    >>> wildcard("1.*"), wildcard("1.*.3") == wildcard("1.3.*")
    (((1, 0, 0), (2, 0, 0)), True)
    """
    parts = [part for part in text.strip().lstrip("vV").replace("*", "").split(".") if part]
    low = _version(parts)
    if low is None:
        return None
    major, minor, patch = low
    high = {1: (major + 1, 0, 0), 2: (major, minor + 1, 0)}.get(len(parts), (major, minor, patch + 1))
    return low, high
