"""The format of the messages that hand events to a queue or a log, and that the relay reads.

A message is one JSON object: `{"leanbase": 1, "events": [...]}`, or `{"leanbase": 1, "gzip": "<base64>"}`,
which contains a compressed message of the first kind. With `"historical_migration": true` the events are a
historical import. Readers ignore unknown keys. Any other version number means an incompatible format.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..errors import EventTooLargeError, InvalidEventError
from ..events.encoding import MAX_EVENT_BYTES, EncodedEvent, HistoricalEncodedEvent
from ..events.encoding import encode as encode_event
from ..events.event import checked

VERSION = 1
COMPRESSION_LEVEL = 1
MAX_UNPACKED_BYTES = 8 * 1024 * 1024
"""Eight times the limit of the transports. Without a limit, 1 MB of gzip can decompress to a gigabyte."""

MAX_OTHER_CHARACTERS = 64 * 1024
"""The maximum length of a value outside the list of events, unless it is a string."""

HISTORICAL = b'"historical_migration":true,'
"""The argument `more` of `encode` for a historical import."""

_HEAD = b'{"leanbase":1,'
_EVENTS = b'"events":['
_TAIL = b"]}"
_GZIP = b'"gzip":"'
_GZIP_TAIL = b'"}'
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
_OVERHEAD = len(_HEAD) + len(_EVENTS) + len(_TAIL)


def encode(events: Sequence[EncodedEvent], more: bytes = b"") -> bytes:
    """Encode events as one uncompressed message; `more` are other members, each followed by a comma."""
    return b"".join((_HEAD, more, _EVENTS, b",".join([event.body for event in events]), _TAIL))


def encode_gzip(events: Sequence[EncodedEvent], more: bytes = b"") -> bytes:
    """Encode events as one compressed message."""
    packer = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    data = packer.compress(encode(events)) + packer.flush()
    return b"".join((_HEAD, more, _GZIP, b64encode(data), _GZIP_TAIL))


def split_by_size(events: Sequence[EncodedEvent], limit: int) -> Iterator[Sequence[EncodedEvent]]:
    """Split events into messages of at most `limit` bytes, uncompressed. Larger events stay alone."""
    start, size = 0, _OVERHEAD
    for position, event in enumerate(events):
        if position > start and size + len(event) + 1 > limit:
            yield events[start:position]
            start, size = position, _OVERHEAD
        size += len(event) + 1
    if start < len(events):
        yield events[start:]


class UnreadableError(Exception):
    """A message can never be delivered. The exception says why, and quotes nothing from the message."""


def decode(message: str | bytes, position: int | None = None) -> list[EncodedEvent]:
    """Return the events of a message, each validated and encoded again.

    Events are read one after the other, so that an invalid event is found before the rest takes memory. With
    `position`, the message begins there and may end before the string does.

    Raises:
        UnreadableError: The message is malformed, has an unsupported version, is too large once decompressed,
            or contains an invalid event.
    """
    reader = _Reader(message)
    reader.read(position)
    is_historical = reader.is_historical
    if reader.gzip is not None:
        reader = _Reader(_unpacked(reader.gzip))
        reader.read()
    if reader.events is None:
        raise UnreadableError("the message has no list of events")
    if is_historical:
        return [HistoricalEncodedEvent(event.uuid, event.body) for event in reader.events]
    return reader.events


class _Reader:
    """Reads one JSON object from its start to its end."""

    def __init__(self, text: str | bytes) -> None:
        try:
            self._text = text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError:
            raise UnreadableError("the message is not UTF-8") from None
        self.events: list[EncodedEvent] | None = None
        self.gzip: object = None
        self.is_historical = False

    def read(self, start: int | None = None) -> None:
        """Read the object that begins at `start`. By default the whole string must be the object."""
        version: object = None
        position = self._skip(self._expect("{", self._skip(start or 0)))
        while self._peek(position) != "}":
            name, position = self._value(position)
            position = self._skip(self._expect(":", position))
            if name == "leanbase":
                version, position = self._value(position)
                _check_version(version)
            elif name == "historical_migration":
                found, position = self._value(position)
                self.is_historical = found is True
            elif name == "gzip":
                self.gzip, position = self._value(position)
            elif name == "events" and self._peek(position) == "[":
                position = self._read_events(position)
            else:
                _, position = self._value(position)
            position = self._after(position, "}")
        _check_version(version)
        if start is None and self._skip(position + 1) < len(self._text):
            raise UnreadableError("the message is not valid JSON: something follows it")

    def _read_events(self, position: int) -> int:
        self.events = []
        position = self._skip(position + 1)
        while self._peek(position) != "]":
            value, position = self._value(position, MAX_EVENT_BYTES)
            self.events.append(_event(value, len(self.events)))
            position = self._after(position, "]")
        return self._skip(position + 1)

    def _after(self, position: int, end: str) -> int:
        """Return the position of the next member or item, or of the `end` character."""
        if self._peek(position) == end:
            return position
        position = self._skip(self._expect(",", position))
        if self._peek(position) == end:
            raise UnreadableError("the message is not valid JSON")
        return position

    def _value(self, position: int, limit: int = MAX_OTHER_CHARACTERS) -> tuple[Any, int]:
        """Return the value that begins at a position, and the position of what follows it."""
        # A string takes as much memory as its length, any other value up to a hundred times as much.
        text = self._text
        window = text if text.startswith('"', position) else text[position : position + limit]
        start = position if window is text else 0
        try:
            value, end = _DECODER.raw_decode(window, start)
        except (ValueError, RecursionError):
            raise UnreadableError("the message is not valid JSON, or a part of it is too large") from None
        return value, self._skip(position + end - start)

    def _expect(self, character: str, position: int) -> int:
        if self._peek(position) != character:
            raise UnreadableError("the message is not valid JSON, or not an object")
        return position + 1

    def _peek(self, position: int) -> str:
        if position >= len(self._text):
            raise UnreadableError("the message is not valid JSON: it ends early")
        return self._text[position]

    def _skip(self, position: int) -> int:
        found = _SPACE.match(self._text, position)
        return found.end() if found else position


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress gzip data to at most `limit` bytes.

    Raises:
        UnreadableError: The data is not gzip, is incomplete, or is too large once decompressed.
    """
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, limit)
    except zlib.error:
        raise UnreadableError("the data is not gzip") from None
    if not stream.eof:
        raise UnreadableError(
            f"the data is above {limit} bytes when decompressed"
            if len(plain) == limit
            else "the data ends early"
        )
    return plain


def _check_version(version: object) -> None:
    if type(version) is not int:
        raise UnreadableError("this is not a Leanbase message")
    if version != VERSION:
        raise UnreadableError(
            f"the message has version {version}, this relay reads version {VERSION}: "
            "is the relay older than the sender?"
        )


def _unpacked(text: object) -> bytes:
    try:
        data = b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        raise UnreadableError("the data is not base64") from None
    return gunzip(data, MAX_UNPACKED_BYTES)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_SPACE = re.compile(r"[ \t\r\n]*")


def _event(value: Any, position: int) -> EncodedEvent:
    # Never invent a uuid or timestamp here: every redelivery would then look like a new event.
    for name, form in (("uuid", _UUID), ("timestamp", _UTC)):
        given = value.get(name) if isinstance(value, dict) else None
        if not isinstance(given, str) or not form.fullmatch(given):
            raise UnreadableError(f"event {position} of the message has a missing or invalid {name}")
    try:
        return encode_event({**checked(value), "timestamp": value["timestamp"]})
    except (InvalidEventError, EventTooLargeError):
        raise UnreadableError(f"event {position} of the message is not valid") from None
