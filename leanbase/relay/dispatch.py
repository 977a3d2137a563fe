"""Events of many records in few requests, and which of the records failed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..errors import RejectedError
from ..events.encoding import EncodedEvent
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt

logger = logging.getLogger("leanbase")

MALFORMED = 400

READING_SHARE = 0.5
"""Of an invocation's time, reading takes no more; the rest is for sending what was read."""

Key = TypeVar("Key", int, str)


class Delivery:
    """Delivers what one invocation matches.

    Args:
        transport: Where events go. It keeps none.
        deadline: When the invocation must end.
    """

    def __init__(self, transport: BaseTransport, deadline: Deadline) -> None:
        self._transport = transport
        self._deadline = deadline
        self._reading_until = deadline.remaining() * (1 - READING_SHARE)

    def must_send(self) -> bool:
        """Whether what is read by now has to be sent: reading has taken its share of the time."""
        return self._deadline.remaining() < self._reading_until

    def deliver(self, records: Mapping[Key, Sequence[EncodedEvent]]) -> dict[Key, Exception]:
        """Send the events of all records together, and say which records failed and why.

        The endpoint refuses a request for a single event that it finds malformed. The records of a request
        refused for that are sent once more, each by itself, so that only the one it is about fails.
        """
        receipt = self._send(records)
        failures = _failed(records, receipt)
        suspects = [
            key
            for key, error in failures.items()
            if isinstance(error, RejectedError) and error.status == MALFORMED
        ]
        if len(records) > 1:
            for key in suspects:
                del failures[key]
                failures |= _failed({key: records[key]}, self._send({key: records[key]}))
        return failures

    def _send(self, records: Mapping[Key, Sequence[EncodedEvent]]) -> Receipt:
        events = [event for events in records.values() for event in events]
        return self._transport.send(events, deadline=self._deadline) if events else Receipt()


def _failed(records: Mapping[Key, Sequence[EncodedEvent]], receipt: Receipt) -> dict[Key, Exception]:
    owner = {id(event): key for key, events in records.items() for event in events}
    return {owner[id(event)]: group.error for group in receipt.groups for event in group.events}
