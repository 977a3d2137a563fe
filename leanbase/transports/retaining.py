"""Keeps what a transport could not deliver and sends it first the next time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

from leanbase.delivery import Deadline, Receipt
from leanbase.encoding import EncodedEvent
from leanbase.errors import DroppedError
from leanbase.transports.base import BaseTransport

logger = logging.getLogger("leanbase")


class RetainingTransport(BaseTransport):
    """Wraps a transport; what it returns as retained is kept here, in order, in bounded memory.

    Each client puts one around its transport, so that an event which no transport could deliver
    waits in exactly one place. Nothing here starts a send of its own.

    Args:
        inner: Where events go.
        limit: Most events kept; above it the oldest are dropped with the reason `"overflow"`.
    """

    def __init__(self, inner: BaseTransport, *, limit: int) -> None:
        self._inner = inner
        self._limit = limit
        self._closed = False
        self._own_process()

    def _own_process(self) -> None:
        """Start over without what a fork copied: the parent's events, and locks that may be held."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._kept: list[EncodedEvent] = []
        self._under_way: set[object] = set()
        self._one_ended = threading.Condition(self._lock)

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what was kept and then `events`. The receipt speaks of both."""
        if self._pid != os.getpid():
            self._own_process()
        ticket = object()
        with self._lock:
            kept, self._kept = self._kept, []
            self._under_way.add(ticket)
        batch = [*kept, *events]
        try:
            try:
                receipt = self._inner.send(batch, deadline=deadline) if batch else Receipt()
            except Exception as error:
                logger.error("the transport raised %s; %d events are kept", type(error).__name__, len(batch))
                logger.debug("the transport failed here:", exc_info=error)
                receipt = Receipt.retaining(batch, "failed", error)
            return self._keep(receipt)
        finally:
            with self._lock:
                self._under_way.discard(ticket)
                self._one_ended.notify_all()

    def keep(self, events: Sequence[EncodedEvent], reason: str, error: Exception) -> Receipt:
        """Keep events without an attempt to send them."""
        return self._keep(Receipt.retaining(events, reason, error))

    def _keep(self, receipt: Receipt) -> Receipt:
        retained = [each.event for each in receipt.undelivered if each.outcome == "retained"]
        if not retained:
            return receipt
        if self._closed:
            return self._give_up(receipt, retained)
        with self._lock:
            # In front: whatever another thread kept meanwhile was captured after these.
            retained = retained + self._kept
            excess = max(0, len(retained) - self._limit)
            self._kept = retained[excess:]
        if not excess:
            return receipt
        gone = retained[:excess]
        error = DroppedError(
            "overflow",
            f"the oldest {excess} undelivered events were dropped: max_queue_size is {self._limit}",
        )
        logger.warning("%s", error)
        return receipt.without(gone) + Receipt.dropping(gone, "overflow", error)

    def waiting(self) -> Receipt:
        """A receipt of what is kept, without an attempt to send it."""
        with self._lock:
            return Receipt.retaining(
                self._kept, "disabled", DroppedError("disabled", "the client is disabled")
            )

    def _join(self, deadline: Deadline) -> None:
        """Wait for the sends of other threads that are under way now."""
        with self._lock:
            others = set(self._under_way)
            self._one_ended.wait_for(lambda: not others & self._under_way, deadline.remaining())

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept, flush the transport inside, and wait for sends that are under way."""
        receipt = self.send((), deadline=deadline) + self._inner.flush(deadline=deadline)
        self._join(deadline)
        return receipt

    def close(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept one last time; what still fails is dropped with the reason `"shutdown"`."""
        self.keep_no_more()
        self._join(deadline)
        return self.send((), deadline=deadline) + self._inner.close(deadline=deadline)

    def keep_no_more(self) -> None:
        """From now on drop what cannot be delivered, with the reason `"shutdown"`."""
        self._closed = True

    def abandon(self) -> Receipt:
        """Drop what was kept, and keep nothing from now on."""
        self.keep_no_more()
        with self._lock:
            kept, self._kept = self._kept, []
        return self._give_up(Receipt(), kept) if kept else Receipt()

    def _give_up(self, receipt: Receipt, retained: list[EncodedEvent]) -> Receipt:
        error = DroppedError("shutdown", f"{len(retained)} events could not be delivered before shutdown")
        logger.warning("%s", error)
        return receipt.without(retained) + Receipt.dropping(retained, "shutdown", error)

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the transport inside."""
        self._inner.warm_up(deadline=deadline)
