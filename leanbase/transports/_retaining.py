"""Keeps what a transport could not deliver and sends it first the next time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from ..delivery.scope import open_scope
from ..errors import ConfigError, DroppedError
from ..events.encoding import EncodedEvent
from ..forking import reset_in_child
from .base import BaseTransport
from .deadline import Deadline, Stopwatch
from .receipt import Receipt

logger = logging.getLogger("leanbase")

WAITING = "waiting"
"""The reason of events that a receipt counts as retained because nothing was tried."""

CAPACITY_WARNING_SECONDS = 60.0

_NOTHING_TRIED = DroppedError(WAITING, "nothing was tried")


class _ReceiptError(Exception):
    """What a transport returned is no receipt for what it was given."""


def _checked(receipt: object, call: str) -> Receipt:
    if not isinstance(receipt, Receipt):
        raise _ReceiptError(f"{call}() must return a Receipt, not {type(receipt).__name__}")
    return receipt


def _check_count(receipt: Receipt, count: int) -> None:
    undelivered = sum(len(group.events) for group in receipt.groups)
    told_of = receipt.delivered + receipt.handed_off + receipt.spooled + undelivered
    if told_of != count:
        raise _ReceiptError(f"the receipt of {count} event(s) tells of {told_of}")


def _what_is_wrong(call: str, error: Exception) -> str:
    # The text of somebody else's exception may quote a property.
    return str(error) if isinstance(error, _ReceiptError) else f"{call}() raised {type(error).__name__}"


class UnderWay:
    """One send of one thread, how it ended, and whether somebody else has taken over its events."""

    __slots__ = ("events", "of_a_scope", "taken", "thread", "went_well")

    def __init__(self, events: Sequence[EncodedEvent]) -> None:
        self.events = events
        self.thread = threading.get_ident()
        self.of_a_scope = open_scope() is not None
        self.taken = False
        self.went_well = False


def must_not_retain(inner: BaseTransport) -> None:
    """See to it that a transport can be inside another one.

    Raises:
        ConfigError: It keeps events itself; whoever is around it would take them for undelivered.
    """
    if isinstance(inner, RetainingTransport):
        raise ConfigError(
            f"{type(inner).__name__} goes around the other transports, not into one; "
            "for a buffer around any transport, set sync_mode=False"
        )


class RetainingTransport(BaseTransport):
    """Wraps a transport; what it returns as retained is kept here, in order, in call_with_timeout memory.

    Each client puts one around its transport, so that an event which no transport could deliver
    waits in exactly one place. Nothing here starts a send of its own.

    Args:
        inner: Where events go.
        limit: Most events kept; above it the oldest are dropped with the reason `"overflow"`.

    Attributes:
        settle: Takes the receipts that nobody else gets: of a send that an exit or interrupt ended, or
            that a thread made.
        is_paused: Says whether nothing may be sent for now.

    Raises:
        ConfigError: `inner` is one that retains, too; two would keep each event twice.
    """

    def __init__(self, inner: BaseTransport, *, limit: int) -> None:
        must_not_retain(inner)
        self.settle: Callable[[Receipt], object] = lambda _: None
        self.is_paused: Callable[[], bool] = lambda: False
        self._inner = inner
        self._limit = limit
        self._is_adopted = False
        self._closed = False
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        # Reentrant: a signal handler may flush or shut down while this very thread holds it.
        self._lock = threading.RLock()
        self._one_ended = threading.Condition(self._lock)
        self._kept: list[EncodedEvent] = []
        self._warned: Stopwatch | None = None
        self._under_way: set[UnderWay] = set()

    def attach(self, settle: Callable[[Receipt], object], is_paused: Callable[[], bool]) -> None:
        """Belong to one client from now on. One that was closed opens again.

        Raises:
            ConfigError: It belongs to another client.
        """
        with self._lock:
            if self._is_adopted and not self._closed:
                raise ConfigError(f"this {type(self).__name__} belongs to another client; make one for each")
            self._is_adopted = True
            self._closed = False
            self.settle = settle
            self.is_paused = is_paused

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what was kept and then `events`. The receipt speaks of both."""
        return self.send_now(events, deadline=deadline)

    def send_now(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """The same, also where `send` only takes the events."""
        with self._lock:
            this = self._begin([*self._kept, *events])
            self._kept = []
        return self._finish(this, deadline)

    def _begin(self, batch: Sequence[EncodedEvent]) -> UnderWay:
        """Note that these events are on their way. Called with the lock held."""
        this = UnderWay(batch)
        self._under_way.add(this)
        return this

    def _finish(self, this: UnderWay, deadline: Deadline) -> Receipt:
        """Send what was begun."""
        batch = this.events
        try:
            receipt = self._try(batch, deadline) if batch else Receipt()
            this.went_well = bool(receipt)
            return self._keep(receipt, this)
        except BaseException as error:
            # An exit or an interrupt, raised by a signal handler: the events are not to go with it.
            cut_off = DroppedError("interrupted", f"{type(error).__name__} ended the send")
            self.settle(self._keep(Receipt.retaining(batch, "interrupted", cut_off), this))
            raise
        finally:
            with self._lock:
                self._under_way.discard(this)
                self._one_ended.notify_all()

    def resend(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send events once more that another send has, which keeps what neither could deliver."""
        return self._try(events, deadline)

    def _try(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        try:
            receipt = _checked(self._inner.send(batch, deadline=deadline), "send")
            _check_count(receipt, len(batch))
            return receipt
        except Exception as error:
            name = type(self._inner).__name__
            logger.error("%s: %s; %d event(s) are kept", name, _what_is_wrong("send", error), len(batch))
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt.retaining(batch, "failed", error)

    def _ask(self, call: Literal["flush", "close"], deadline: Deadline) -> Receipt:
        """Call the inner transport's method; what it raises is not to cost what is around it."""
        try:
            return _checked(getattr(self._inner, call)(deadline=deadline), call)
        except Exception as error:
            logger.error("%s: %s", type(self._inner).__name__, _what_is_wrong(call, error))
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt()

    def _keep(self, receipt: Receipt, this: UnderWay | None = None) -> Receipt:
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
        """Keep new events, behind the others, without an attempt to send them.

        What there is no room for is dropped with the reason `"overflow"`.
        """
        with self._lock:
            if self._closed:
                return self._give_up(Receipt(), events)
            room = max(0, self._limit - len(self._kept))
            self._kept.extend(events[:room])
        kept = Receipt.retaining(events[:room], WAITING, _NOTHING_TRIED)
        return kept + self._refuse(events[room:]) if events[room:] else kept

    def _refuse(self, events: Sequence[EncodedEvent]) -> Receipt:
        error = DroppedError("overflow", f"there is no room: max_queue_size is {self._limit}")
        if self._warned is None or self._warned.seconds() >= CAPACITY_WARNING_SECONDS:
            self._warned = Stopwatch()
            logger.warning("%s; new events are dropped", error)
        return Receipt.dropping(events, "overflow", error)

    def waiting(self) -> Receipt:
        """A receipt of all that is kept or under way in other threads, without an attempt to send it."""
        with self._lock:
            waiting = [*self._kept, *(event for other in self._others() for event in other.events)]
        return Receipt.retaining(waiting, WAITING, _NOTHING_TRIED)

    def _others(self) -> set[UnderWay]:
        """Sends under way but this thread's own, which a signal handler may have interrupted."""
        me = threading.get_ident()
        return {each for each in self._under_way if each.thread != me}

    def join(self, deadline: Deadline, *, of_scopes: bool = True) -> bool:
        """Wait for the sends of other threads that are under way now; whether all went well and in time.

        Args:
            deadline: When to go on without them.
            of_scopes: Whether to wait for those of delivery scopes, who wait for themselves.
        """
        with self._lock:
            others = {each for each in self._others() if of_scopes or not each.of_a_scope}
            self._one_ended.wait_for(lambda: not others & self._under_way, deadline.remaining())
        return all(each.went_well for each in others)

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept, flush the transport inside, and wait for sends that are under way."""
        receipt = self.send_now((), deadline=deadline) + self._ask("flush", deadline)
        if not self.join(deadline):
            receipt += self.waiting().without(receipt.retained_events())
        return receipt

    def release(self, *, deadline: Deadline) -> None:
        """Let go of connections, without an end of anything."""
        self.settle(self._ask("close", deadline))

    def close(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept one last time; what still fails is dropped with the reason `"shutdown"`."""
        return self._end(deadline, last_try=True)

    def abandon(self, *, deadline: Deadline) -> Receipt:
        """Close without a last try."""
        return self._end(deadline, last_try=False)

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        # First of all end waits between retries; what was in them is then kept.
        receipt = self._ask("close", deadline)
        self.join(deadline)
        with self._lock:
            self._closed = True
            for own in self._under_way - self._others():
                # A signal handler that will rather exit than let the interrupted send go on.
                own.taken = True
                self._kept = [*own.events, *self._kept]
            if not last_try:
                kept, self._kept = self._kept, []
        if last_try:
            receipt += self.send_now((), deadline=deadline) + self._ask("close", deadline)
        elif kept:
            receipt += self._give_up(Receipt(), kept)
        return receipt + self.waiting()

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the transport inside."""
        self._inner.warm_up(deadline=deadline)
