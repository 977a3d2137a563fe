"""Keeps what a transport could not deliver and sends it first the next time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from leanbase.delivery import Deadline, Receipt
from leanbase.encoding import EncodedEvent
from leanbase.errors import DroppedError
from leanbase.forking import reset_in_child
from leanbase.transports.base import BaseTransport

logger = logging.getLogger("leanbase")

WAITING = "waiting"
"""The reason of events that a receipt counts as retained because nothing was tried."""


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
        reset_in_child(self)

    def _own_process(self) -> None:
        # Reentrant: a signal handler may flush or shut down while this very thread holds it.
        self._lock = threading.RLock()
        self._one_ended = threading.Condition(self._lock)
        self._kept: list[EncodedEvent] = []
        self._under_way: dict[object, tuple[int, Sequence[EncodedEvent]]] = {}

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what was kept and then `events`. The receipt speaks of both."""
        ticket = object()
        with self._lock:
            batch = [*self._kept, *events]
            self._kept = []
            if not batch:
                return Receipt()
            self._under_way[ticket] = threading.get_ident(), batch
        try:
            return self._keep(self._try(batch, deadline))
        except BaseException as error:
            # An exit or an interrupt, raised by a signal handler: the events are not to go with it.
            self._keep(
                Receipt.retaining(batch, "interrupted", DroppedError("interrupted", repr(type(error))))
            )
            raise
        finally:
            with self._lock:
                del self._under_way[ticket]
                self._one_ended.notify_all()

    def _try(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        try:
            receipt = self._inner.send(batch, deadline=deadline)
            if not isinstance(receipt, Receipt):
                raise TypeError(f"send() must return a Receipt, not {type(receipt).__name__}")
            return receipt
        except Exception as error:
            name = type(self._inner).__name__
            logger.error("%s raised %s; %d event(s) are kept", name, type(error).__name__, len(batch))
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt.retaining(batch, "failed", error)

    def _keep(self, receipt: Receipt) -> Receipt:
        if receipt:
            return receipt
        retained = receipt.retained_events()
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
            f"the oldest {excess} undelivered event(s) were dropped: max_queue_size is {self._limit}",
        )
        logger.warning("%s", error)
        return receipt.without(gone) + Receipt.dropping(gone, "overflow", error)

    def _give_up(self, receipt: Receipt, retained: Sequence[EncodedEvent]) -> Receipt:
        error = DroppedError("shutdown", f"{len(retained)} event(s) could not be delivered before shutdown")
        logger.warning("%s", error)
        return receipt.without(retained) + Receipt.dropping(retained, "shutdown", error)

    def keep(self, events: Sequence[EncodedEvent]) -> Receipt:
        """Keep events without an attempt to send them."""
        return self._keep(Receipt.retaining(events, WAITING, DroppedError(WAITING, "nothing was tried")))

    def waiting(self) -> Receipt:
        """A receipt of all that is kept or under way in other threads, without an attempt to send it."""
        with self._lock:
            waiting = [*self._kept, *(event for _, batch in self._others().values() for event in batch)]
        return Receipt.retaining(waiting, WAITING, DroppedError(WAITING, "nothing was tried"))

    def _others(self) -> dict[object, tuple[int, Sequence[EncodedEvent]]]:
        """Sends under way but this thread's own, which a signal handler may have interrupted."""
        me = threading.get_ident()
        return {ticket: (ident, batch) for ticket, (ident, batch) in self._under_way.items() if ident != me}

    def _join(self, deadline: Deadline) -> bool:
        """Wait for the sends of other threads that are under way now; False when there were none."""
        with self._lock:
            others = set(self._others())
            self._one_ended.wait_for(lambda: not others & set(self._under_way), deadline.remaining())
        return bool(others)

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept, flush the transport inside, and wait for sends that are under way."""
        receipt = self.send((), deadline=deadline) + self._inner.flush(deadline=deadline)
        if self._join(deadline):
            waiting = self.waiting()
            receipt = receipt.without(waiting.retained_events()) + waiting
        return receipt

    def close(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept one last time; what still fails is dropped with the reason `"shutdown"`."""
        return self._end(deadline, last_try=True)

    def abandon(self, *, deadline: Deadline) -> Receipt:
        """Close without a last try."""
        return self._end(deadline, last_try=False)

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        # First of all end waits between retries; what was in them is then kept.
        receipt = self._inner.close(deadline=deadline)
        self._join(deadline)
        self._closed = True
        if last_try:
            return receipt + self.send((), deadline=deadline) + self._inner.close(deadline=deadline)
        with self._lock:
            kept, self._kept = self._kept, []
        return receipt + (self._give_up(Receipt(), kept) if kept else Receipt())

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the transport inside."""
        self._inner.warm_up(deadline=deadline)
