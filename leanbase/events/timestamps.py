"""Timestamps of events: RFC 3339 strings in UTC, from the clock or from what a caller gives."""

from __future__ import annotations

import logging
import re
import time
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")

LOCAL_TIME_WINDOW_SECONDS = 5.0

# Not datetime.fromisoformat(): before Python 3.11 it knows neither "Z" nor "+0530".
_ISO_8601 = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[Tt ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?\s*([Zz]|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)


def utc_now() -> str:
    """The current time as RFC 3339 text in UTC, to the microsecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_to_the_second(seconds)}.{nanoseconds // 1000:06d}+00:00"


@lru_cache(maxsize=1)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def normalized_timestamp(value: object) -> str:
    """Return a caller's timestamp as RFC 3339 text in UTC; now when it is missing or unusable.

    A naive datetime is taken as UTC, unless it lies in the last five seconds of local time: that is
    what `datetime.now()` makes.
    """
    if value is None:
        return utc_now()
    # Here, not above: importing leanbase stays cheap for those who never pass a timestamp.
    from datetime import datetime, timezone

    try:
        moment = value if isinstance(value, datetime) else _parsed(value)
        if moment is not None:
            if moment.utcoffset() is None:
                moment = moment.replace(tzinfo=None)
                age = (datetime.now() - moment).total_seconds()
                local = 0 <= age < LOCAL_TIME_WINDOW_SECONDS
                moment = moment.astimezone() if local else moment.replace(tzinfo=timezone.utc)
            return datetime.isoformat(moment.astimezone(timezone.utc))
    except Exception as error:
        logger.debug("timestamp could not be converted: %s", type(error).__name__)
    logger.warning(
        "timestamp must be a datetime, or a text with date and time such as 2026-01-02T03:04:05Z, "
        "not this %s; now is used",
        type(value).__name__,
    )
    return utc_now()


def _parsed(value: object) -> Any:
    from datetime import datetime, timedelta, timezone

    match = _ISO_8601.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    microsecond = int(f"{fraction or '0':0<6}"[:6])
    moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), microsecond)
    if offset is None:
        return moment
    if offset in "Zz":
        return moment.replace(tzinfo=timezone.utc)
    digits = offset[1:].replace(":", "")
    distance = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return moment.replace(tzinfo=timezone(-distance if offset[0] == "-" else distance))
