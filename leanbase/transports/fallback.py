"""A transport that tries a second transport for events that the first could not deliver."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..events.encoding import EncodedEvent
from ..interrupts import raise_interrupt
from ._retaining import must_not_retain
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt

logger = logging.getLogger("leanbase")

RESERVE_SECONDS = 0.5
RESERVE_SHARE = 0.1
"""The share of a send's time that is reserved for the second transport, at most RESERVE_SECONDS."""

TOO_LARGE = "too_large"


class FallbackTransport(BaseTransport):
    """Sends events through one transport, and events that it could not deliver through another.

    The second transport gets the events that the first retains or drops as `"too_large"`, in order. It does
    not get events that a server rejected permanently.

    Args:
        first: The transport that gets all events.
        second: The transport that gets the events that `first` could not deliver.

    Raises:
        ConfigError: One of them is a `BufferedTransport`, which cannot be inside another transport.

    Examples:
        >>> from leanbase.transports import HttpTransport, LogTransport
        >>> first = HttpTransport("phc_key", "https://leanbase.example.com")
        >>> transport = FallbackTransport(first, LogTransport())
    """

    def __init__(self, first: BaseTransport, second: BaseTransport) -> None:
        must_not_retain(first)
        must_not_retain(second)
        self._first = first
        self._second = second

    def __repr__(self) -> str:
        return f"FallbackTransport({self._first!r}, {self._second!r})"

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send through the first transport, then send events that it could not deliver through the second.

        Blocks until the deadline at the latest. A part of the time is reserved for the second transport.
        """
        try:
            receipt = self._first.send(events, deadline=with_reserve(deadline))
        except Exception as error:
            raise_interrupt(error)
            logger.error(
                "transport %s raised %s; its events go to the fallback",
                type(self._first).__name__,
                type(error).__name__,
            )
            logger.debug("the first transport failed here:", exc_info=error)
            return self._second.send(events, deadline=deadline)
        rest = _not_delivered(receipt)
        if not rest:
            return receipt
        second = self._second.send(rest, deadline=deadline)
        passed_on = second.delivered + second.handed_off + second.spooled
        if passed_on:
            logger.warning(
                "%d event(s) were passed to the fallback, %s", passed_on, type(self._second).__name__
            )
        return receipt.without(rest) + second

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Flush both transports. Blocks until the deadline at the latest."""
        return self._first.flush(deadline=deadline) + self._second.flush(deadline=deadline)

    def close(self, *, deadline: Deadline) -> Receipt:
        """Close both transports. Blocks until the deadline at the latest."""
        return self._first.close(deadline=deadline) + self._second.close(deadline=deadline)

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the first transport. The second is used only when the first fails."""
        self._first.warm_up(deadline=deadline)


def with_reserve(deadline: Deadline) -> Deadline:
    """Return an earlier deadline for the first transport, so that the second has time left."""
    left = deadline.remaining()
    return Deadline.after(left - min(RESERVE_SECONDS, left * RESERVE_SHARE), deadline.last_chance)


def _not_delivered(receipt: Receipt) -> list[EncodedEvent]:
    return [
        event
        for group in receipt.groups
        if group.outcome == "retained" or group.reason == TOO_LARGE
        for event in group.events
    ]
