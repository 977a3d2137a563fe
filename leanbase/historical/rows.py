"""Rows, their events, and ids that are the same in every run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha1
from itertools import islice
from typing import Any, Protocol
from uuid import NAMESPACE_URL, UUID

from ..errors import EventTooLargeError, InvalidEventError
from ..events.contexts import coerce_id
from ..events.encoding import json_writer, sanitize
from ..events.event import checked_name

MAX_CHARACTERS_SHOWN = 1000
FIELDS = ("event", "distinct_id", "timestamp", "properties", "uuid", "groups")

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EPOCH = re.compile(r"\s*\d{9,}(?:\.\d*)?\s*", re.ASCII)
"""Seconds or milliseconds since the epoch. A number of eight digits is a date, such as 20240131."""

_write = json_writer(",", ":")


class UnusableRowError(Exception):
    """A row makes no event. The message says why, and quotes no value of the row."""


class Rows(Protocol):
    """Rows from a file or from code, in the same order each time.

    The ids of a row are derived from `namespace` and `content`. A resumed import computes only these for the
    rows that it skips. `fields` reads a row. `names` are the names of cells that `content` has without names.
    """

    name: str
    names: Sequence[str]
    namespace: bytes

    def __iter__(self) -> Iterator[Any]: ...
    def content(self, row: Any) -> bytes: ...
    def fields(self, row: Any) -> Mapping[str, Any]: ...
    def position(self) -> int: ...


@dataclass(slots=True)
class HistoricalEvent:
    """A past event, as a format maps it.

    Attributes:
        timestamp: When the event happened, in any form that `capture` accepts.
        own_id: The id of the event at its origin, or `None`.
        previous_id: Another id of the same person, such as the id of a device. The import links the two ids.
    """

    name: object
    distinct_id: object
    timestamp: object
    properties: dict[str, Any] = field(default_factory=dict)
    own_id: object = None
    previous_id: object = None

    def check(self, *, personless: bool) -> None:
        """Normalize the fields as `capture` does, but raise where `capture` would insert a default.

        Raises:
            UnusableRowError: The event has no name, no timestamp, or no person unless `personless`.
        """
        try:
            self.name = checked_name(self.name)
        except InvalidEventError as error:
            raise UnusableRowError(str(error)) from None
        self.distinct_id = coerce_id(self.distinct_id)
        if self.distinct_id is None and not personless:
            raise UnusableRowError("the row has no person: its distinct_id is missing or blank")
        if self.timestamp is None or self.timestamp == "":
            raise UnusableRowError("the row has no timestamp")
        if isinstance(self.timestamp, str):
            self.timestamp = _read_timestamp(self.timestamp)


def _read_timestamp(text: str) -> datetime | float | str:
    """Return a timestamp that `capture` accepts. A timestamp without an offset is in UTC."""
    if text[10:11] in ("T", " ") and text[4:5] == "-":  # the usual format, for which Python is fast
        try:
            found = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1] in "Zz" else text)
            return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
        except ValueError:
            return text
    return float(text) if _EPOCH.fullmatch(text) else text


class CodeRows:
    """The rows that the caller passes to `import_events`."""

    name = "rows"
    names: Sequence[str] = ()
    namespace = b""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = rows
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        for row in self._rows:
            self._count += 1
            yield row

    def content(self, row: Any) -> bytes:
        return content_of(row)

    def fields(self, row: Any) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            raise UnusableRowError(f"the row is not a mapping: {type(row).__name__}")
        return row

    def position(self) -> int:
        return self._count


def event_of(fields: Mapping[str, Any]) -> HistoricalEvent:
    """Return the event of a row from code. Its keys must be in `FIELDS`."""
    unknown = [str(name) for name in fields if name not in FIELDS]
    if unknown:
        raise UnusableRowError(f"unknown key(s) {', '.join(unknown)}: put them into properties")
    properties = fields.get("properties")
    if properties is not None and not isinstance(properties, Mapping):
        raise UnusableRowError(f"properties must be a mapping, not {type(properties).__name__}")
    return HistoricalEvent(
        fields.get("event"),
        fields.get("distinct_id"),
        fields.get("timestamp"),
        with_groups(properties or {}, fields.get("groups")),
        fields.get("uuid"),
    )


def with_groups(properties: Mapping[str, Any], groups: Any) -> dict[str, Any]:
    """Return a copy of properties, with `$groups` if there are groups."""
    found = dict(properties)
    if isinstance(groups, Mapping) and groups:
        others = found.get("$groups")
        found["$groups"] = {**others, **groups} if isinstance(others, Mapping) else dict(groups)
    return found


def content_of(value: Any) -> bytes:
    """Return the same bytes for equal values."""
    try:
        return to_json(_ordered(sanitize(value)))
    except EventTooLargeError:
        return to_json(_shortened(value))


def to_json(value: Any) -> bytes:
    """Return plain values as JSON, with lone surrogates escaped."""
    return _write(value).encode("utf-8", "backslashreplace")


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


decode_json = json.JSONDecoder(parse_constant=_refuse).decode
"""Decodes JSON without `NaN` and `Infinity`. `json.loads` with options would make a decoder for each call."""


def _shortened(value: Any) -> Any:
    """Return the start of each value of a row that is too large for an event."""
    if isinstance(value, Mapping):
        value = {str(name): str(each)[:MAX_CHARACTERS_SHOWN] for name, each in islice(value.items(), 100)}
    return _ordered(sanitize(value)) if isinstance(value, dict) else type(value).__name__


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


_NAMESPACE = NAMESPACE_URL.bytes + b"leanbase:import/"


def digest_of(content: bytes) -> bytes:
    """Return the 20 bytes that identify a row."""
    return sha1(_NAMESPACE + content, usedforsecurity=False).digest()


def uuid_of(digest: bytes) -> str:
    """Return the UUIDv5 (RFC 9562) of a digest from `digest_of`."""
    digits = digest[:16].hex()
    variant = "89ab"[digest[8] >> 4 & 0x3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def derived_uuid(*parts: object) -> str:
    """Return the same UUIDv5 for the same values."""
    return uuid_of(digest_of(content_of(list(parts))))


def own_uuid(event: HistoricalEvent) -> str | None:
    """Return the uuid for the id that the event has at its origin, or `None` if it has no id."""
    own = event.own_id
    if own is None or own == "":
        return None
    if isinstance(own, UUID):
        return str(own)
    text = str(own)
    if _UUID.fullmatch(text):
        return text
    # An id such as Mixpanel's `$insert_id` is unique only together with the event's name, person and time.
    return derived_uuid("id", event.name, str(event.distinct_id), str(event.timestamp), text)
