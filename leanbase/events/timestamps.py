"""Timestamps of events: RFC 3339 strings in UTC, from the clock or from a caller's value."""

from __future__ import annotations

import logging
import re
import time
from functools import cache, lru_cache

from ..errors import InvalidEventError
from ..interrupts import raise_interrupt
from .proxies import resolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")

LOCAL_TIME_WINDOW_SECONDS = 5.0

EPOCH_SECONDS = (10**8, 10**11)
EPOCH_MILLISECONDS = (10**11, 10**14)
"""Numbers in these ranges are seconds, or milliseconds, since the epoch: from 1973 to 5138."""

# Not datetime.fromisoformat(): the formats that it accepts differ between Python versions.
_ISO_8601 = re.compile(
    r"""
    (\d{4}) (?: -?(\d\d)-?(\d\d) | -?W(\d\d)(?:-?([1-7]))? )              # a day, or one of a week
    (?: [Tt\ ] (\d\d) (?: :?(\d\d) (?: :?(\d\d) (?:[.,](\d+))? )? )? )?    # hours, minutes, seconds
    \s* ( [Zz] | [+-]\d\d (?: :?\d\d (?: :?\d\d )? )? )?
    """,
    re.ASCII | re.VERBOSE,
)


def utc_now() -> str:
    """Return the current time as an RFC 3339 string in UTC, to the microsecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_to_the_second(seconds)}.{nanoseconds // 1000:06d}+00:00"


@lru_cache(maxsize=1)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def normalized_timestamp(value: object, *, event: object = None, is_history: bool = False) -> str:
    """Return a caller's timestamp as an RFC 3339 string in UTC; the current time if it is missing or invalid.

    A naive datetime counts as UTC. If it lies in the last five seconds of local time, it counts as local
    time, because `datetime.now()` returns such a value. `event` is the event's name, for the warning.

    Raises:
        InvalidEventError: `is_history` is set and the timestamp is invalid. (An import that is dated today
            cannot be undone.)
    """
    if value is None:
        return utc_now()
    # Imported here: `import leanbase` stays fast for programs that never pass a timestamp.
    from datetime import datetime, timezone

    try:
        moment = _read(value)
        if moment is not None:
            if moment.utcoffset() is None:
                moment = moment.replace(tzinfo=None)
                age = (datetime.now() - moment).total_seconds()
                if 0 <= age < LOCAL_TIME_WINDOW_SECONDS:
                    moment = moment.astimezone()
                else:
                    _warn_of_zone(moment)
                    moment = moment.replace(tzinfo=timezone.utc)
            return datetime.isoformat(moment.astimezone(timezone.utc))
    except Exception as error:
        raise_interrupt(error)
        logger.debug("timestamp could not be converted: %s", type(error).__name__)
    kind = type(value).__name__
    if is_history:
        raise InvalidEventError(
            "timestamp cannot be read: it must be a date and time in ISO 8601, or the seconds or "
            f"milliseconds since 1970, from 1973 on, not this {kind}"
        )
    logger.warning(
        "event %r: timestamp must be a datetime, a number of seconds or milliseconds since the epoch, or a "
        "string such as 2026-01-02T03:04:05Z, not this %s; the current time is used",
        event,
        kind,
    )
    return utc_now()


def _read(value: Any) -> Any:
    """Return a timestamp of any type as a datetime, naive or aware; `None` if it is not a timestamp."""
    from datetime import date, datetime, timedelta, timezone

    if type(value) is datetime:
        return value
    value = resolved(value)
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for (least, most), per_second in ((EPOCH_SECONDS, 1), (EPOCH_MILLISECONDS, 1000)):
            if least <= value < most:
                return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=value / per_second)
        return None
    kind = type(value)
    if (kind.__module__, kind.__name__) == ("numpy", "datetime64"):
        found = value.astype("datetime64[us]").item()
        return found.replace(tzinfo=timezone.utc) if isinstance(found, datetime) else None
    found = getattr(value, "datetime", None)  # Arrow objects have it
    return found if isinstance(found, datetime) else None


def _parsed(text: str) -> Any:
    from datetime import date, datetime, timedelta, timezone

    match = _ISO_8601.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, week, weekday, hour, minute, second, fraction, offset = match.groups()
    if month is None:
        found = date.fromisocalendar(int(year), int(week), int(weekday or 1))
    else:
        found = date(int(year), int(month), int(day))
    if hour is None:
        return datetime(found.year, found.month, found.day, tzinfo=timezone.utc) if offset is None else None
    hours, minutes, seconds = int(hour), int(minute or 0), int(second or 0)
    microseconds = int(f"{fraction or '0':0<6}"[:6])
    is_midnight = (hours, minutes, seconds, microseconds) == (24, 0, 0, 0)
    if minutes > 59 or seconds > 60 or (hours > 23 and not is_midnight):
        return None
    # A timedelta carries over: 24:00 becomes the next day, and a leap second the next minute.
    clock = timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=microseconds)
    moment = datetime(found.year, found.month, found.day) + clock
    if offset is None:
        return moment
    if offset in "Zz":
        return moment.replace(tzinfo=timezone.utc)
    digits = offset[1:].replace(":", "")
    distance = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4] or 0), seconds=int(digits[4:] or 0))
    return moment.replace(tzinfo=timezone(-distance if offset[0] == "-" else distance))


def _warn_of_zone(moment: Any) -> None:
    """Warn once that a naive datetime counts as UTC, if this machine has another time zone."""
    if not moment.astimezone().utcoffset():
        return
    _warn_about_time_zone()


@cache
def _warn_about_time_zone() -> None:
    logger.warning(
        "a timestamp without a UTC offset is taken as UTC, but this machine's time zone is not UTC; "
        "pass datetimes with a tzinfo"
    )
