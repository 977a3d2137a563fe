"""Keeps what a transport could not deliver and sends it first the next time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from leanbase.delivery import Deadline, Receipt
from leanbase.encoding import EncodedEvent
from leanbase.errors import DroppedError
from leanbase.forking import reset_in_child
from leanbase.transports.base import BaseTransport

logger = logging.getLogger("leanbase")

WAITING = "waiting"
"""The reason of events that a receipt counts as retained because nothing was tried."""


class _UnderWay:
    """One send of one thread, and whether its events have been taken over by somebody else."""

    __slots__ = ("events", "taken", "thread")

    def __init__(self, events: Sequence[EncodedEvent]) -> None:
        self.events = events
        self.thread = threading.get_ident()
        self.taken = False


class RetainingTransport(BaseTransport):
    """Wraps a transport; what it returns as retained is kept here, in order, in bounded memory.

    Each client puts one around its transport, so that an event which no transport could deliver
    waits in exactly one place. Nothing here starts a send of its own.

    Args:
        inner: Where events go.
        limit: Most events kept; above it the oldest are dropped with the reason `"overflow"`.

    Attributes:
        settle: Takes the receipts that nobody else gets: of a send that an exit or interrupt ended, or
            that a thread made.
        is_paused: Says whether nothing may be sent for now.
    """

    def __init__(self, inner: BaseTransport, *, limit: int) -> None:
        self.settle: Callable[[Receipt], object] = lambda _: None
        self.is_paused: Callable[[], bool] = lambda: False
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
        self._under_way: set[_UnderWay] = set()

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what was kept and then `events`. The receipt speaks of both."""
        return self.send_now(events, deadline=deadline)

    def send_now(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """The same, also where `send` only takes the events."""
        with self._lock:
            batch = [*self._kept, *events]
            self._kept = []
            if not batch:
                return Receipt()
            this = _UnderWay(batch)
            self._under_way.add(this)
        try:
            return self._keep(self._try(batch, deadline), this)
        except BaseException as error:
            # An exit or an interrupt, raised by a signal handler: the events are not to go with it.
            cut_off = DroppedError("interrupted", f"{type(error).__name__} ended the send")
            self.settle(self._keep(Receipt.retaining(batch, "interrupted", cut_off), this))
            raise
        finally:
            with self._lock:
                self._under_way.discard(this)
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

    def _keep(self, receipt: Receipt, this: _UnderWay | None = None) -> Receipt:
        if this is not None and this.taken:
            return Receipt()  # a shutdown has taken the events over, and accounts for them
        if receipt:
            return receipt
        retained = receipt.retained_events()
        with self._lock:
            closed = self._closed
            if not closed:
                # In front: whatever another thread kept meanwhile was captured after these.
                retained = retained + self._kept
                excess = max(0, len(retained) - self._limit)
                self._kept = retained[excess:]
        if closed:
            return self._give_up(receipt, retained)
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
            waiting = [*self._kept, *(event for other in self._others() for event in other.events)]
        return Receipt.retaining(waiting, WAITING, DroppedError(WAITING, "nothing was tried"))

    def _others(self) -> set[_UnderWay]:
        """Sends under way but this thread's own, which a signal handler may have interrupted."""
        me = threading.get_ident()
        return {each for each in self._under_way if each.thread != me}

    def _join(self, deadline: Deadline) -> bool:
        """Wait for the sends of other threads that are under way now; False when there were none."""
        with self._lock:
            others = self._others()
            self._one_ended.wait_for(lambda: not others & self._under_way, deadline.remaining())
        return bool(others)

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept, flush the transport inside, and wait for sends that are under way."""
        receipt = self.send_now((), deadline=deadline) + self._inner.flush(deadline=deadline)
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
        with self._lock:
            self._closed = True
            for own in self._under_way - self._others():
                # A signal handler that will rather exit than let the interrupted send go on.
                own.taken = True
                self._kept = [*own.events, *self._kept]
            if not last_try:
                kept, self._kept = self._kept, []
        if last_try:
            receipt += self.send_now((), deadline=deadline) + self._inner.close(deadline=deadline)
        elif kept:
            receipt += self._give_up(Receipt(), kept)
        return receipt + self.waiting()

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the transport inside."""
        self._inner.warm_up(deadline=deadline)
