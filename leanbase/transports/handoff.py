"""The form in which events are handed to a queue or a log, and read again by the relay.

One JSON object: `{"leanbase": 1, "events": [...]}`, or `{"leanbase": 1, "gzip": "<base64>"}`, where the data
are the former. Unknown keys mean nothing; another number is another form.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence

from leanbase.encoding import EncodedEvent

VERSION = 1
COMPRESSION_LEVEL = 1
_HEAD = b'{"leanbase":1,"events":['
_TAIL = b"]}"
_PACKED_HEAD = b'{"leanbase":1,"gzip":"'
_PACKED_TAIL = b'"}'
_OVERHEAD = len(_HEAD) + len(_TAIL)


def plain(events: Sequence[EncodedEvent]) -> bytes:
    """The events as one object, readable."""
    return b"".join((_HEAD, b",".join([event.body for event in events]), _TAIL))


def packed(events: Sequence[EncodedEvent]) -> bytes:
    """The events as one object, compressed."""
    packer = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    data = packer.compress(plain(events)) + packer.flush()
    return b"".join((_PACKED_HEAD, b64encode(data), _PACKED_TAIL))


def runs(events: Sequence[EncodedEvent], limit: int) -> Iterator[Sequence[EncodedEvent]]:
    """Cut into runs of at most `limit` bytes each, when plain; what is above it by itself is alone."""
    start, size = 0, _OVERHEAD
    for position, event in enumerate(events):
        if position > start and size + len(event) + 1 > limit:
            yield events[start:position]
            start, size = position, _OVERHEAD
        size += len(event) + 1
    if start < len(events):
        yield events[start:]
