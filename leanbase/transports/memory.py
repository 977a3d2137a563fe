"""A transport that keeps events in a list, for tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ..events.encoding import EncodedEvent
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt


class MemoryTransport(BaseTransport):
    """Keeps every event as a dict; nothing leaves the process. Counts as delivered.

    Attributes:
        events: All events in capture order. Clear it with `events.clear()`.

    Example:
        >>> from leanbase import Leanbase
        >>> transport = MemoryTransport()
        >>> _ = Leanbase("phc_test", transport=transport).capture("signed up", distinct_id="u1")
        >>> transport.events[0]["event"]
        'signed up'
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Append the events to `events`. Never blocks."""
        with self._lock:
            self.events.extend(event.decode() for event in events)
        return Receipt(delivered=len(events))
