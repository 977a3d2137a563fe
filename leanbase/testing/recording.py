"""Records the events of tests, in place of the configured transport."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..default import default_client
from ..delivery import factory
from ..events.encoding import EncodedEvent
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt
from .captured import CapturedEvents


class RecordingTransport(BaseTransport):
    """Records events in a list, or writes them to a pipe. With neither, it discards them.

    Attributes:
        recordings: The lists of the open blocks. The last one receives the events.
        pipe: A file descriptor, to which events are written as lines instead, or `None`.
    """

    def __init__(self) -> None:
        self.recordings: list[CapturedEvents] = []
        self.pipe: int | None = None
        self.lock = threading.RLock()

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        with self.lock:
            if self.pipe is not None:
                for event in events:
                    write_line(self.pipe, {"captured": event.decode()})
            elif self.recordings:
                self.recordings[-1].extend(event.decode() for event in events)
        return Receipt(delivered=len(events))


_writing = threading.RLock()


def reset_after_fork() -> None:
    """Replace the locks in a forked child, because threads of the parent may have held them."""
    global _writing
    _writing = threading.RLock()
    recorder.lock, _override.lock = threading.RLock(), threading.RLock()


def write_line(descriptor: int, message: object) -> None:
    """Write an object to a pipe as one line of JSON."""
    rest = memoryview(json.dumps(message).encode() + b"\n")
    with _writing:
        while rest:
            rest = rest[os.write(descriptor, rest) :]


recorder = RecordingTransport()
"""The recording transport of this process, for all tests."""


class _Override:
    """Makes clients use the recorder while any block of `capture_events` is open."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._is_ours = False

    def enter(self, events: CapturedEvents) -> None:
        with self.lock:
            recorder.recordings.append(events)
            if not factory.is_overridden():
                self._is_ours = True
                factory.override_transport(recorder, spares_memory=False)
                default_client.shutdown()  # the next call creates it with the recorder

    def leave(self, events: CapturedEvents) -> None:
        with self.lock:
            if self._is_ours and len(recorder.recordings) == 1:
                self._is_ours = False
                factory.override_transport(None)
                default_client.shutdown()  # its pending events belong to the block
            recorder.recordings[:] = [each for each in recorder.recordings if each is not events]


_override = _Override()


@contextmanager
def capture_events() -> Iterator[CapturedEvents]:
    """Record the events captured in the block. None of them is sent, and no key or host is needed.

    It records events of the default client, and of clients that are created in the block. A client that was
    created before keeps its transport. If several blocks are open, nested or in several threads, the one that
    was entered last records all events. Entering the outermost block sends the default client's pending
    events, and blocks for that, as `leanbase.shutdown()` does.

    Yields:
        The events, as dicts, in the order in which they were sent.

    Examples:
        >>> import leanbase
        >>> with capture_events() as events:
        ...     uuid = leanbase.capture("order created", distinct_id="user_1")
        >>> events.assert_captured("order created", distinct_id="user_1")["uuid"] == uuid
        True
    """
    events = CapturedEvents()
    _override.enter(events)
    try:
        yield events
    finally:
        _override.leave(events)
