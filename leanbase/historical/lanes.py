"""Sends batches in parallel, and waits until an outage of the server is over."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ..errors import RejectedError, TransportError
from ..events.encoding import EncodedEvent
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.http import REFUSALS_OF_AN_EVENT
from ..transports.receipt import OutcomeGroup, Receipt

LANES = 8
"""The maximum number of requests in flight. More do not help: encoding fully uses one core."""

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
CLOSE_SECONDS = 5.0


class StoppedError(Exception):
    """The import must end: the user has to correct something first, or has interrupted it."""


class Lanes:
    """Threads that each send one batch at a time over kept-alive connections.

    While the server is unavailable, one lane retries, and the others wait for its result.

    Args:
        transport: The transport. It must not retain events.
        seconds: The maximum seconds for one send.
        has_passed_on: Whether the server has accepted events of this import before.
    """

    def __init__(self, transport: BaseTransport, seconds: float, *, has_passed_on: bool) -> None:
        self._transport = transport
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(LANES, thread_name_prefix="leanbase-import")
        self._changed = threading.Condition()
        self._failures = 0
        self._is_trying = False
        self._next_try = 0.0
        self._problem = ""
        self._reason = ""
        self._has_passed_on = has_passed_on

    def send(self, events: Sequence[EncodedEvent]) -> Future[Receipt]:
        """Start sending a batch. The future returns the receipt, or raises `StoppedError`.

        The receipt's dropped events are those that the server refuses permanently.
        """
        return self._pool.submit(self._batch, events)

    @property
    def waiting_for(self) -> str | None:
        """A description of what the import waits for, or `None`."""
        with self._changed:
            if not self._failures:
                return None
            seconds = self._next_try - time.monotonic()
            when = f"next try in {math.ceil(seconds)} s" if seconds > 0 else "trying again"
            return f"{self._problem}; {when}"

    def stop(self, reason: str = "the import was interrupted") -> StoppedError:
        """Prevent new requests, and return the error to raise. The reason of the first call is kept."""
        with self._changed:
            self._reason = self._reason or reason
            self._changed.notify_all()
            return StoppedError(self._reason)

    def close(self) -> None:
        """Wait for the requests in flight, and close the connections."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)
        self._transport.close(deadline=Deadline.after(CLOSE_SECONDS))

    def _batch(self, events: Sequence[EncodedEvent]) -> Receipt:
        receipt = self._delivered(events)
        refused = [each for each in receipt.undelivered if isinstance(each.error, RejectedError)]
        if len(refused) == len(events) > 1 and not self._has_passed_on:
            raise self.stop(f"the server refuses every event of the first batch: {refused[0].error}")
        return receipt

    def _delivered(self, events: Sequence[EncodedEvent]) -> Receipt:
        receipt = Receipt()
        while events:
            part = self._attempt(events)
            refused = [group for group in part.groups if group.outcome == "dropped"]
            events = part.retained_events()
            receipt += Receipt(part.delivered, part.handed_off, part.spooled)
            for group in refused:
                receipt += self._refused(group)
        return receipt

    def _refused(self, group: OutcomeGroup) -> Receipt:
        """Send a refused batch in halves, because one bad event makes the server refuse a whole request."""
        error = group.error
        if isinstance(error, RejectedError) and error.status not in REFUSALS_OF_AN_EVENT:
            raise self.stop(str(error))
        if len(group.events) == 1 or not isinstance(error, RejectedError):
            return Receipt.dropping(group.events, group.reason, error)
        middle = len(group.events) // 2
        return self._delivered(group.events[:middle]) + self._delivered(group.events[middle:])

    def _attempt(self, events: Sequence[EncodedEvent]) -> Receipt:
        """Send once. While the server is unavailable, only one lane sends at a time."""
        is_trial = self._wait_for_turn()
        try:
            # "full" skips the circuit breaker's pauses: the lanes have waits of their own.
            receipt = self._transport.send(events, deadline=Deadline.after(self._seconds, "full"))
        except Exception as error:  # a transport should not raise
            receipt = Receipt.retaining(events, "failed", error)
        if getattr(self._transport, "is_over_quota", False):
            raise self.stop("the project is over its quota: the server accepts events and discards them")
        with self._changed:
            self._is_trying = self._is_trying and not is_trial
            self._changed.notify_all()
            if receipt.delivered or receipt.handed_off or receipt.spooled:
                self._has_passed_on = True
            if receipt.has_retained:
                group = [each for each in receipt.groups if each.outcome == "retained"][-1]
                self._note_failure(group, is_trial)
            elif is_trial:  # another send that succeeds may have begun before the outage
                self._failures = 0
        return receipt

    def _wait_for_turn(self) -> bool:
        """Wait until this lane may send. Return True if it is the lane that retries during an outage."""
        with self._changed:
            while not self._reason:
                if not self._failures:
                    return False
                seconds = self._next_try - time.monotonic()
                if seconds <= 0 and not self._is_trying:
                    self._is_trying = True
                    return True
                self._changed.wait(max(seconds, 0.0) or None)
            raise StoppedError(self._reason)

    def _note_failure(self, group: OutcomeGroup, is_trial: bool) -> None:
        error = group.error
        self._problem = str(error)
        if isinstance(error, TransportError) and (error.reason == "refused" or not error.mends_soon):
            raise self.stop(self._problem)
        if self._failures and not is_trial:
            return  # this send began before the outage was known
        self._failures += 1
        backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(self._failures - 1, 10))
        wait = backoff * (1 - random.random() / 2)  # noqa: S311 - jitter
        self._next_try = time.monotonic() + max(wait, getattr(error, "retry_after", None) or 0.0)
