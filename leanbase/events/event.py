"""Builds events: identity and the enrichment of properties.

`build` is the one place where an event's dict is put together; the merge order of its properties
reads from top to bottom in `_properties`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache

from .._version import __version__
from ..errors import InvalidEventError
from . import contexts, idempotency
from .contexts import coerce_id
from .encoding import sanitize
from .ids import normalized_uuid, uuid4
from .proxies import resolved
from .timestamps import normalized_timestamp, utc_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")

LIB = "leanbase-python"


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
        finalize: Called with the properties when all sources are merged; it has the last word.

    Attributes:
        is_exception: Whether the event is about an exception, and can be trimmed to fit.
    """

    __slots__ = (
        "disable_geoip",
        "distinct_id",
        "finalize",
        "groups",
        "is_exception",
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
        finalize: Callable[[dict[str, Any]], None] | None = None,
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
        self.finalize = finalize
        self.is_exception = False


def pinned(draft: Draft) -> str:
    """Give a draft that is built later the uuid, the time and the values that it has now; return the uuid."""
    work = idempotency.current()
    if work is not None:
        draft.uuid = work.next_uuid(draft.name) if draft.uuid is None else draft.uuid
        draft.timestamp = work.timestamp if draft.timestamp is None else draft.timestamp
    draft.uuid = uuid = normalized_uuid(draft.uuid)
    draft.timestamp = utc_now() if draft.timestamp is None else draft.timestamp
    draft.properties, draft.groups = sanitize(draft.properties), sanitize(draft.groups)
    return uuid


def build(
    draft: Draft,
    *,
    disable_geoip: bool,
    is_server: bool,
    super_properties: Mapping[str, Any],
    is_history: bool = False,
) -> dict[str, Any]:
    """Put an event together; every value in it is plain and a copy.

    Args:
        draft: What the call is about.
        disable_geoip: The client's option, for drafts that do not say.
        is_server: Whether events are marked as a server's.
        super_properties: Properties of every event of the client, sanitized already.
        is_history: Whether a timestamp that cannot be read makes the event invalid.

    Raises:
        InvalidEventError: The timestamp of an event of the past cannot be read.
    """
    properties = _properties(draft, super_properties)
    uuid, timestamp, distinct_id = draft.uuid, draft.timestamp, draft.distinct_id
    work = idempotency.current()
    if work is not None:
        uuid = work.next_uuid(draft.name) if uuid is None else uuid
        timestamp = work.timestamp if timestamp is None else timestamp
    uuid = normalized_uuid(uuid)
    if distinct_id is None:
        distinct_id = uuid4() if work is None else idempotency.derived_uuid(f"personless/{uuid}")
        properties.setdefault("$process_person_profile", False)
    properties.setdefault("$lib", LIB)
    properties.setdefault("$lib_version", __version__)
    if is_server:
        properties["$is_server"] = True
    if disable_geoip if (chosen := draft.disable_geoip) is None else _flag(chosen, disable_geoip):
        properties["$geoip_disable"] = True
    if draft.finalize is not None:
        draft.finalize(properties)
    return {
        "event": draft.name,
        "distinct_id": distinct_id,
        "uuid": uuid,
        "timestamp": normalized_timestamp(timestamp, event=draft.name, is_history=is_history),
        "properties": properties,
    }


def _properties(draft: Draft, super_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the sources of properties, each replacing what those before it set (E-20)."""
    context = contexts.active()
    tags = context.tags_in_effect() if draft.with_tags and context is not None else {}
    given = {} if draft.properties is None else _mapping(draft.properties, "properties")
    properties: dict[str, Any] = sanitize({**tags, **given} if tags else given)
    if draft.with_tags and context is not None:
        properties.setdefault("$context_tags", sorted(tags))
    if draft.groups is not None and (groups := sanitize(_mapping(draft.groups, "groups"))):
        properties["$groups"] = groups
    if draft.with_runtime:
        properties.update(runtime_properties())
    properties.update(super_properties)
    if context is not None and "$session_id" not in properties:
        session_id = context.nearest("session_id")
        if session_id is not None:
            properties["$session_id"] = session_id
    return properties


def _mapping(value: object, argument: str) -> dict[str, Any]:
    """What was given for a mapping as a `dict`, whose keys and values may still be anything."""
    if type(value) is dict:
        return value
    value = resolved(value)
    if isinstance(value, Mapping):
        plain = sanitize(value)  # which knows how to read any of them
        if isinstance(plain, dict):
            return plain
    logger.warning("%s must be a mapping, not %s; it is left out", argument, type(value).__name__)
    return {}


def _flag(value: object, default: bool) -> bool:
    value = resolved(value)
    return value if isinstance(value, bool) else default


def checked(event: object, *, is_history: bool = False) -> dict[str, Any]:
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
        "timestamp": normalized_timestamp(
            plain.get("timestamp"), event=plain.get("event"), is_history=is_history
        ),
        "properties": plain["properties"],
    }


def checked_name(name: object, what: str = "the event name") -> str:
    """Return an event name verbatim.

    Raises:
        InvalidEventError: It is not a string with something in it.
    """
    if type(name) is not str:
        name = resolved(name)
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
