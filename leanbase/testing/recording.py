"""Where events go in tests, instead of where the configuration says."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence

from ..events.encoding import EncodedEvent
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt
from .captured import CapturedEvents


class RecordingTransport(BaseTransport):
    """Gives events to whoever records them, and forgets them when nobody does.

    Attributes:
        recording: Takes the events, if anything does.
        pipe: A file descriptor that they are written to instead, a line each.
    """

    def __init__(self) -> None:
        self.recording: CapturedEvents | None = None
        self.pipe: int | None = None
        self.lock = threading.RLock()

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Take the events. Counts as delivered."""
        with self.lock:
            if self.pipe is not None:
                for event in events:
                    write_line(self.pipe, {"captured": event.decode()})
            elif self.recording is not None:
                self.recording.extend(event.decode() for event in events)
        return Receipt(delivered=len(events))


_writing = threading.RLock()


def reset_after_fork() -> None:
    """In a forked child: the locks that somebody may have held are the parent's."""
    global _writing
    _writing = threading.RLock()
    recorder.lock = threading.RLock()


def write_line(descriptor: int, message: object) -> None:
    """Write an object to a pipe, as a line of JSON."""
    rest = memoryview(json.dumps(message).encode() + b"\n")
    with _writing:
        while rest:
            rest = rest[os.write(descriptor, rest) :]


recorder = RecordingTransport()
"""The one of this process. What clients were made with stays the same from test to test."""
