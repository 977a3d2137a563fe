"""Builds events: identity, property enrichment, timestamps and uuids.

`build` is the one place where an event's dict is put together; the merge order of its properties
reads from top to bottom in `_properties`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from leanbase import contexts, idempotency
from leanbase._version import __version__
from leanbase.contexts import coerce_id
from leanbase.encoding import sanitize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")

LIB = "leanbase-python"
LOCAL_TIME_WINDOW_SECONDS = 5.0


class InvalidEventError(Exception):
    """The arguments do not make an event; the text says what was given and what was expected."""


class Draft:
    """What one call puts into its event.

    Args:
        name: The event's name.
        properties: The properties given by the caller or made by the call.
        distinct_id: Whom the event belongs to; `None` makes it personless.
        timestamp: The caller's, or `None` for now.
        uuid: The caller's, or `None` for a new one.
        groups: The caller's `{type: key}`, or `None`.
        disable_geoip: Whether the server must not look the sender's address up; `None` leaves it to
            the client's option.
        with_tags: Whether context tags become properties.
        with_runtime: Whether the interpreter and the operating system are described.
        complete: Called with the properties when all sources are merged; it has the last word.
    """

    __slots__ = (
        "complete",
        "disable_geoip",
        "distinct_id",
        "groups",
        "name",
        "properties",
        "timestamp",
        "uuid",
        "with_runtime",
        "with_tags",
    )

    def __init__(
        self,
        name: str,
        properties: object,
        distinct_id: str | None,
        timestamp: object,
        uuid: object,
        disable_geoip: bool | None,
        *,
        groups: object = None,
        with_tags: bool = True,
        with_runtime: bool = False,
        complete: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.name = name
        self.properties = properties
        self.distinct_id = distinct_id
        self.timestamp = timestamp
        self.uuid = uuid
        self.groups = groups
        self.disable_geoip = disable_geoip
        self.with_tags = with_tags
        self.with_runtime = with_runtime
        self.complete = complete


def build(
    draft: Draft, *, disable_geoip: bool, is_server: bool, super_properties: Mapping[str, Any]
) -> dict[str, Any]:
    """Put an event together; every value in it is plain and a copy.

    Args:
        draft: What the call is about.
        disable_geoip: The client's option, for drafts that do not say.
        is_server: Whether events are marked as a server's.
        super_properties: Properties of every event of the client, sanitized already.
    """
    properties = _properties(draft, super_properties)
    uuid, timestamp, distinct_id = draft.uuid, draft.timestamp, draft.distinct_id
    work = idempotency.current()
    if work is not None:
        uuid = work.next_uuid(draft.name) if uuid is None else uuid
        timestamp = work.moment if timestamp is None else timestamp
    uuid = normalized_uuid(uuid)
    if distinct_id is None:
        distinct_id = uuid4() if work is None else idempotency.derived_uuid(f"personless/{uuid}")
        properties.setdefault("$process_person_profile", False)
    properties.setdefault("$lib", LIB)
    properties.setdefault("$lib_version", __version__)
    if is_server:
        properties["$is_server"] = True
    if draft.disable_geoip if isinstance(draft.disable_geoip, bool) else disable_geoip:
        properties["$geoip_disable"] = True
    if draft.complete is not None:
        draft.complete(properties)
    return {
        "event": draft.name,
        "distinct_id": distinct_id,
        "uuid": uuid,
        "timestamp": normalized_timestamp(timestamp),
        "properties": properties,
    }


def _properties(draft: Draft, super_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the sources of properties, each replacing what those before it set (E-20)."""
    scope = contexts.active()
    tags = scope.tags_in_effect() if draft.with_tags and scope is not None else {}
    given = {} if draft.properties is None else _mapping(draft.properties, "properties")
    properties: dict[str, Any] = sanitize({**tags, **given} if tags else given)
    if draft.with_tags and scope is not None:
        properties.setdefault("$context_tags", sorted(tags))
    if draft.groups is not None and (groups := sanitize(_mapping(draft.groups, "groups"))):
        properties["$groups"] = groups
    if draft.with_runtime:
        properties.update(runtime_properties())
    properties.update(super_properties)
    if scope is not None and "$session_id" not in properties:
        session_id = scope.nearest("session_id")
        if session_id is not None:
            properties["$session_id"] = session_id
    return properties


def _mapping(value: object, argument: str) -> dict[str, Any]:
    """What was given for a mapping as a `dict`, whose keys and values may still be anything."""
    if type(value) is dict:
        return value
    if isinstance(value, Mapping):
        plain = sanitize(value)  # which knows how to read any of them
        if isinstance(plain, dict):
            return plain
    logger.warning("%s must be a mapping, not %s; it is left out", argument, type(value).__name__)
    return {}


def checked(event: object) -> dict[str, Any]:
    """Return what a `before_send` hook made of an event as a valid event again (H-6).

    Raises:
        InvalidEventError: It has no name or id any more, or its properties are no object.
    """
    plain = sanitize(event)
    if not isinstance(plain, dict):
        raise InvalidEventError("sent nothing: before_send must return the event as a dict")
    if not isinstance(plain.get("properties"), dict):
        raise InvalidEventError("sent nothing: before_send left properties that are no dict")
    distinct_id = coerce_id(plain.get("distinct_id"))
    if distinct_id is None:
        raise InvalidEventError("sent nothing: before_send left no distinct_id")
    return {
        "event": checked_name(plain.get("event"), "sent nothing: the event name that before_send left"),
        "distinct_id": distinct_id,
        "uuid": normalized_uuid(plain.get("uuid")),
        "timestamp": normalized_timestamp(plain.get("timestamp")),
        "properties": plain["properties"],
    }


def checked_name(name: object, what: str = "the event name") -> str:
    """Return an event name verbatim.

    Raises:
        InvalidEventError: It is not a string with something in it.
    """
    if not isinstance(name, str) or not name.strip():
        given = "a blank string" if isinstance(name, str) else type(name).__name__
        raise InvalidEventError(f"{what} must be a non-empty string, not {given}")
    return str.__str__(name)


@lru_cache(maxsize=1)
def runtime_properties() -> Mapping[str, str]:
    """The interpreter and operating system, looked up once."""
    import platform

    found = {
        "$python_runtime": platform.python_implementation(),
        "$python_version": ".".join(map(str, sys.version_info[:3])),
        "$os": {"linux": "Linux", "darwin": "Mac OS X", "win32": "Windows"}.get(sys.platform, ""),
        "$os_version": platform.release(),
    }
    if not found["$os"]:
        found["$os"] = "FreeBSD" if sys.platform.startswith("freebsd") else sys.platform
    if sys.platform == "darwin":
        found["$os_version"] = platform.mac_ver()[0] or found["$os_version"]
    elif sys.platform == "linux":
        try:
            release = platform.freedesktop_os_release()
        except Exception:  # missing, or not what it should be
            release = {}
        found["$os_distro"] = release.get("NAME", "")
        found["$os_version"] = release.get("VERSION_ID") or found["$os_version"]
    return {name: value for name, value in found.items() if value}


# --- uuids -----------------------------------------------------------------------------------------

_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def uuid7() -> str:
    """A new UUIDv7 (RFC 9562), ordered by time down to a quarter of a microsecond.

    The twelve bits after the milliseconds hold their fraction (method 3 of section 6.2). The rest is
    from the operating system at each call, so that forks and restored snapshots never repeat one.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return _uuid_text(milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def uuid4() -> str:
    """A new random UUID."""
    random = int.from_bytes(os.urandom(16), "big")
    return _uuid_text(random & ~(0xF << 76 | 0b11 << 62) | 0x4 << 76 | 0b10 << 62)


def _uuid_text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def normalized_uuid(value: object) -> str:
    """Return a caller's uuid in 8-4-4-4-12 form, or a new one when it is missing or invalid."""
    if value is None:
        return uuid7()
    if isinstance(value, str) and _CANONICAL_UUID.fullmatch(value):
        return str.__str__(value)
    from uuid import UUID

    try:
        return str(value if isinstance(value, UUID) else UUID(value))  # type: ignore[arg-type]
    except Exception:
        logger.error("uuid must be a UUID or its text, not %s; a new one is used", type(value).__name__)
        return uuid7()


# --- timestamps ------------------------------------------------------------------------------------

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
