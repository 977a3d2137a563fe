"""The form in which events are handed to a queue or a log, and read again by the relay.

One JSON object: `{"leanbase": 1, "events": [...]}`, or `{"leanbase": 1, "gzip": "<base64>"}`, where the data
are the former. Unknown keys mean nothing; another number is another form.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..errors import EventTooLargeError, InvalidEventError
from ..events.encoding import EncodedEvent
from ..events.encoding import encode as encode_event
from ..events.event import checked

VERSION = 1
COMPRESSION_LEVEL = 1
MAX_UNPACKED_BYTES = 8 * 1024 * 1024
"""Eight times what a transport of ours puts into a message. A few hundred KB can hold a gigabyte of zeros."""

_HEAD = b'{"leanbase":1,"events":['
_TAIL = b"]}"
_PACKED_HEAD = b'{"leanbase":1,"gzip":"'
_PACKED_TAIL = b'"}'
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
_OVERHEAD = len(_HEAD) + len(_TAIL)


def encode(events: Sequence[EncodedEvent]) -> bytes:
    """The events as one object, readable."""
    return b"".join((_HEAD, b",".join([event.body for event in events]), _TAIL))


def encode_gzip(events: Sequence[EncodedEvent]) -> bytes:
    """The events as one object, compressed."""
    packer = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    data = packer.compress(encode(events)) + packer.flush()
    return b"".join((_PACKED_HEAD, b64encode(data), _PACKED_TAIL))


def split_by_size(events: Sequence[EncodedEvent], limit: int) -> Iterator[Sequence[EncodedEvent]]:
    """Cut into runs of at most `limit` bytes each, when plain; what is above it by itself is alone."""
    start, size = 0, _OVERHEAD
    for position, event in enumerate(events):
        if position > start and size + len(event) + 1 > limit:
            yield events[start:position]
            start, size = position, _OVERHEAD
        size += len(event) + 1
    if start < len(events):
        yield events[start:]


class UnreadableError(Exception):
    """A message that can never be delivered; the text says what is wrong with it, and quotes nothing."""


def decode(message: str | bytes) -> list[EncodedEvent]:
    """The events of a message, each made valid and within the limits again.

    Raises:
        UnreadableError: It is none, of another version, too large when unpacked, or one of its events is
            not valid.
    """
    return decode_parsed(_object(message))


def decode_parsed(message: dict[str, Any]) -> list[EncodedEvent]:
    """The events of a message that is parsed already.

    Raises:
        UnreadableError: As `decode`.
    """
    _check_version(message)
    if "gzip" in message:
        message = _unpacked(message["gzip"])
        _check_version(message)
    events = message.get("events")
    if not isinstance(events, list):
        raise UnreadableError("the message has no list of events")
    return [_event(each, position) for position, each in enumerate(events)]


def gunzip(data: bytes, limit: int) -> bytes:
    """Undo gzip.

    Raises:
        UnreadableError: It is no gzip, or it ends too early, or there is more in it than the limit.
    """
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, limit)
    except zlib.error as error:
        raise UnreadableError("the data are no gzip") from error
    if not stream.eof:
        raise UnreadableError(
            f"the data are above {limit} bytes when unpacked" if len(plain) == limit else "the data end early"
        )
    return plain


def _check_version(message: dict[str, Any]) -> None:
    version = message.get("leanbase")
    if type(version) is not int:
        raise UnreadableError("this is no message of Leanbase")
    if version != VERSION:
        raise UnreadableError(
            f"the message is of version {version}, this reads {VERSION}: is the relay older than the sender?"
        )


def _unpacked(text: object) -> dict[str, Any]:
    try:
        data = b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError as error:
        raise UnreadableError("the data are no base64") from error
    return _object(gunzip(data, MAX_UNPACKED_BYTES))


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("the message is no JSON") from error
    if not isinstance(found, dict):
        raise UnreadableError("the message is no JSON object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _event(value: Any, position: int) -> EncodedEvent:
    # With made up ones it would be another event each time that it comes.
    for name, form in (("uuid", _UUID), ("timestamp", _UTC)):
        given = value.get(name) if isinstance(value, dict) else None
        if not isinstance(given, str) or not form.fullmatch(given):
            raise UnreadableError(f"event {position} of the message has no {name}, or another form of one")
    try:
        return encode_event({**checked(value), "timestamp": value["timestamp"]})
    except (InvalidEventError, EventTooLargeError) as error:
        raise UnreadableError(f"event {position} of the message is not valid") from error
