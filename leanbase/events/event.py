"""Builds events: identity, and the properties that the SDK adds.

Only `build` assembles the dict of an event. `_properties` merges its properties.
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
from .encoding import Written, sanitize, sanitize_properties
from .ids import normalized_uuid, uuid4
from .proxies import resolved
from .timestamps import normalized_timestamp, utc_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")

LIB = "leanbase-python"


class Draft:
    """The arguments of one call, from which its event is built.

    Args:
        name: The event's name.
        properties: The properties from the caller, or created by the call.
        distinct_id: The id of the person; `None` makes the event personless.
        timestamp: The caller's timestamp, or `None` for the current time.
        uuid: The caller's uuid, or `None` for a new one.
        groups: The caller's `{type: key}` mapping, or `None`.
        disable_geoip: Whether the server must not look up the location of the sender's address. `None` means
            the client's option.
        with_tags: Whether context tags become properties.
        with_runtime: Whether properties describe the interpreter and the operating system.
        finalize: Called last, with the merged properties, which it may change.

    Attributes:
        flags: The properties of the feature flags that belong to the event; `None` if there are none.
        is_exception: Whether the event describes an exception, and can be trimmed to fit.
    """

    __slots__ = (
        "disable_geoip",
        "distinct_id",
        "finalize",
        "flags",
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
        self.flags: Mapping[str, Any] | None = None
        self.is_exception = False


def pinned(draft: Draft) -> str:
    """Fix the uuid, timestamp and values of a draft that is built later, and return the uuid."""
    work = idempotency.current()
    if work is not None:
        draft.uuid = work.next_uuid(draft.name) if draft.uuid is None else draft.uuid
        draft.timestamp = work.timestamp if draft.timestamp is None else draft.timestamp
    draft.uuid = uuid = normalized_uuid(draft.uuid)
    draft.timestamp = utc_now() if draft.timestamp is None else draft.timestamp
    draft.properties, draft.groups = sanitize(draft.properties), sanitize(draft.groups)
    return uuid


class Common:
    """The properties that all events of one client have.

    Args:
        disable_geoip: The client's option, used for drafts that have `None`.
        is_server: Whether the events get the property `$is_server`.
        super_properties: Properties of every event of the client, already sanitized.
    """

    def __init__(self, *, disable_geoip: bool, is_server: bool, super_properties: Mapping[str, Any]) -> None:
        self._disable_geoip = disable_geoip
        self._is_server = is_server
        self._super_properties = super_properties
        self._kinds: dict[tuple[bool, bool], tuple[Mapping[str, Any], Written]] = {}

    def of(self, draft: Draft) -> tuple[Mapping[str, Any], Written]:
        """Return the common properties of an event: those that win over its own, then all."""
        without_geoip = self._disable_geoip
        if draft.disable_geoip is not None:
            without_geoip = _flag(draft.disable_geoip, without_geoip)
        kind = (draft.with_runtime, without_geoip)
        found = self._kinds.get(kind)
        if found is None:
            winning = {
                **(runtime_properties() if draft.with_runtime else {}),
                **self._super_properties,
                **({"$is_server": True} if self._is_server else {}),
                **({"$geoip_disable": True} if without_geoip else {}),
            }
            found = self._kinds[kind] = winning, Written({**_OF_THE_SDK, **winning})
        return found


_OF_THE_SDK = {"$lib": LIB, "$lib_version": __version__}


def build(
    draft: Draft, common: Common, *, is_history: bool = False
) -> tuple[dict[str, Any], tuple[Written, ...]]:
    """Return the event of a draft, and its other properties as JSON that many events share.

    All values are plain copies.

    Raises:
        InvalidEventError: `is_history` is set and the timestamp cannot be read.
    """
    uuid, timestamp, distinct_id = draft.uuid, draft.timestamp, draft.distinct_id
    work = idempotency.current()
    if work is not None:
        uuid = work.next_uuid(draft.name) if uuid is None else uuid
        timestamp = work.timestamp if timestamp is None else timestamp
    uuid = normalized_uuid(uuid)
    defaults: dict[str, Any] = {} if draft.flags is None else dict(draft.flags)
    if distinct_id is None:
        distinct_id = uuid4() if work is None else idempotency.derived_uuid(f"personless/{uuid}")
        defaults["$process_person_profile"] = False
    properties, written = _properties(draft, common, defaults)
    event = {
        "event": draft.name,
        "distinct_id": distinct_id,
        "uuid": uuid,
        "timestamp": normalized_timestamp(timestamp, event=draft.name, is_history=is_history),
        "properties": properties,
    }
    return event, written


def _properties(
    draft: Draft, common: Common, defaults: dict[str, Any]
) -> tuple[dict[str, Any], tuple[Written, ...]]:
    """Merge the sources of properties. Values of later sources replace earlier values (E-20).

    Sources that share no name with others are not merged, but returned as the JSON that they already have.
    """
    own: dict[str, Any] = {}
    if draft.properties is not None:
        own = sanitize_properties(_mapping(draft.properties, "properties"))
    if draft.groups is not None and (groups := sanitize(_mapping(draft.groups, "groups"))):
        own["$groups"] = groups
    context = contexts.active()
    tags: Written | None = None
    if context is not None:
        session_id = context.nearest("session_id")
        if session_id is not None:
            defaults["$session_id"] = session_id
        if draft.with_tags:
            tags = context.written_tags()  # at least `$context_tags`
    winning, shared = common.of(draft)
    if draft.finalize is None:
        filled = {**defaults, **own} if defaults else own
        if shared.names.isdisjoint(filled):
            if tags is None:
                return filled, (shared,)
            if tags.names.isdisjoint(filled) and tags.names.isdisjoint(shared.names):
                return filled, (tags, shared)
    merged = {**_OF_THE_SDK, **defaults, **(tags.properties if tags else {}), **own, **winning}
    if draft.finalize is not None:
        draft.finalize(merged)
    return merged, ()


def _mapping(value: object, argument: str) -> dict[str, Any]:
    """Return a mapping argument as a `dict`. Keys and values may still have any type."""
    if type(value) is dict:
        return value
    value = resolved(value)
    if isinstance(value, Mapping):
        plain = sanitize(value)  # it reads every kind of mapping
        if isinstance(plain, dict):
            return plain
    logger.warning("%s must be a mapping, not %s; it is ignored", argument, type(value).__name__)
    return {}


def _flag(value: object, default: bool) -> bool:
    value = resolved(value)
    return value if isinstance(value, bool) else default


def checked(event: object, *, is_history: bool = False) -> dict[str, Any]:
    """Return the result of a `before_send` hook as a valid event (H-6).

    Raises:
        InvalidEventError: The result is not a dict, has no name or `distinct_id`, or its properties are not a
            dict. With `is_history`, also if its timestamp cannot be read.
    """
    plain = sanitize(event)
    if not isinstance(plain, dict):
        raise InvalidEventError("before_send must return the event as a dict")
    if not isinstance(plain.get("properties"), dict):
        raise InvalidEventError("before_send replaced the properties with something that is not a dict")
    distinct_id = coerce_id(plain.get("distinct_id"))
    if distinct_id is None:
        raise InvalidEventError("before_send removed the distinct_id")
    return {
        "event": checked_name(plain.get("event"), "the event name that before_send returned"),
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
        InvalidEventError: The name is not a string, or is blank.
    """
    if type(name) is not str:
        name = resolved(name)
    if not isinstance(name, str) or not name.strip():
        given = "a blank string" if isinstance(name, str) else type(name).__name__
        raise InvalidEventError(f"{what} must be a non-empty string, not {given}")
    return str.__str__(name)


@lru_cache(maxsize=1)
def runtime_properties() -> Mapping[str, str]:
    """Return the properties of the interpreter and the operating system."""
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
        except Exception:  # the file is missing or malformed
            release = {}
        found["$os_distro"] = release.get("NAME", "")
        found["$os_version"] = release.get("VERSION_ID") or found["$os_version"]
    return {name: value for name, value in found.items() if value}
