"""A transport that keeps events in a list, for tests."""

from __future__ import annotations

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

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Append the events to `events`. Never blocks."""
        self.events += [event.decode() for event in events]  # in one step, for threads and signal handlers
        return Receipt(delivered=len(events))
