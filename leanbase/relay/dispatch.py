"""Sends the events of many records in few requests, and reports which records failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..errors import RejectedError
from ..events.encoding import EncodedEvent
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt

MALFORMED = 400

READING_SHARE = 0.5
"""The maximum share of an invocation's time for reading. The rest is for sending."""

Key = TypeVar("Key", int, str)


class Delivery:
    """Delivers the events of one invocation.

    Args:
        transport_for: Returns the transport for historical events (`True`) or all others (`False`). It must
            not retain events.
        deadline: The time by which the invocation must end.
    """

    def __init__(self, transport_for: Callable[[bool], BaseTransport], deadline: Deadline) -> None:
        self._transport_for = transport_for
        self._deadline = deadline
        self._reading_until = deadline.remaining() * (1 - READING_SHARE)

    def must_send(self) -> bool:
        """Return True if reading has used its share of the time."""
        return self._deadline.remaining() < self._reading_until

    def deliver(self, records: Mapping[Key, Sequence[EncodedEvent]]) -> dict[Key, Exception]:
        """Send the events of all records together. Return the records that failed, with the reason.

        The server rejects a whole request, with status 400, for a single malformed event. The records of
        such a request are resent one by one, so that only the record with the malformed event fails.
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
        receipt = Receipt()
        for historical in (False, True):  # in requests of their own
            events = [
                each for events in records.values() for each in events if each.is_historical is historical
            ]
            if events:
                receipt += self._transport_for(historical).send(events, deadline=self._deadline)
        return receipt


def _failed(records: Mapping[Key, Sequence[EncodedEvent]], receipt: Receipt) -> dict[Key, Exception]:
    owner = {id(event): key for key, events in records.items() for event in events}
    return {owner[id(event)]: group.error for group in receipt.groups for event in group.events}
