"""A transport that stores events in a list, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..events.encoding import EncodedEvent
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt


class MemoryTransport(BaseTransport):
    """Stores every event as a dict in a list. Nothing leaves the process; the events count as delivered.

    Attributes:
        events: All events in the order of their captures. Clear the list with `events.clear()`.

    Examples:
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
        self.events += [event.decode() for event in events]  # one `+=`: safe with threads and signal handlers
        return Receipt(delivered=len(events))
