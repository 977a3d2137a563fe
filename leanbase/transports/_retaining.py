"""Keeps what a transport could not deliver, and sends it first the next time."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Literal, TypeAlias

from ..errors import ConfigError, DroppedError
from ..events.encoding import EncodedEvent
from ..forking import reset_in_child
from ..interrupts import raise_interrupt
from . import _at_exit
from ._ledger import Flight, Ledger
from ._repeated import RepeatedLog
from .base import BaseTransport
from .deadline import Deadline
from .receipt import WAITING, OutcomeGroup, Receipt

Report: TypeAlias = Callable[[Sequence[OutcomeGroup]], object]

logger = logging.getLogger("leanbase")

REST_SECONDS = 0.5
"""So long a caller that waits for room leaves a transport alone that has just failed."""

MOST_FOLLOWING = 100
"""So many times in a row a call sends what signal handlers have captured during its sends."""

_NOTHING_TRIED = DroppedError(WAITING, "nothing was tried")


class _ReceiptError(Exception):
    """What a transport returned is not a receipt for what it was given."""


def _checked(receipt: object, call: str) -> Receipt:
    if not isinstance(receipt, Receipt):
        raise _ReceiptError(f"{call}() must return a Receipt, not {type(receipt).__name__}")
    return receipt


def _check_count(receipt: Receipt, count: int) -> None:
    undelivered = sum([len(group.events) for group in receipt.groups])
    reported = receipt.delivered + receipt.handed_off + receipt.spooled + undelivered
    if reported != count:
        raise _ReceiptError(f"the receipt of {count} event(s) tells of {reported}")


def _what_is_wrong(call: str, error: Exception) -> str:
    # The text of somebody else's exception may quote a property.
    return str(error) if isinstance(error, _ReceiptError) else f"{call}() raised {type(error).__name__}"


def must_not_retain(inner: BaseTransport) -> None:
    """Ensure that a transport can be inside another one.

    Raises:
        ConfigError: It keeps events itself; the transport around it would take them for undelivered.
    """
    if isinstance(inner, RetainingTransport):
        raise ConfigError(
            f"{type(inner).__name__} goes around the other transports, not into one; "
            "for a buffer around any transport, set sync_mode=False"
        )


class RetainingTransport(BaseTransport):
    """Wraps a transport; what it returns as retained is kept in the ledger, in order, in bounded memory.

    Each client puts one around its transport, so that an event which no transport could deliver is pending
    in exactly one place. Nothing here starts a send of its own.

    Args:
        inner: Where events go.
        limit: Most events kept; above it the oldest are dropped with the reason `"overflow"`.
        limit_bytes: Most bytes of them.
        waits_for_room: Whether a caller waits for room instead, so that none of them is dropped.

    Attributes:
        ledger: Where each event is, and the one list of sends in flight.
        report: Receives what a send has retained, or a call refused; tells what the ledger has not told.
        is_disabled: Whether nothing may be sent for now.
        is_buffer: Whether it sends by itself what it keeps.

    Raises:
        ConfigError: `inner` retains as well; two would keep each event twice.
    """

    is_buffer = False

    def __init__(
        self, inner: BaseTransport, *, limit: int, limit_bytes: int, waits_for_room: bool = False
    ) -> None:
        must_not_retain(inner)
        self.report: Report = lambda _: None
        self.is_disabled: Callable[[], bool] = lambda: False
        self.ledger = Ledger(limit, limit_bytes, drops_oldest=not waits_for_room)
        self.waits_for_room = waits_for_room
        self._inner = inner
        self._is_attached = False
        self._is_watched = False
        self._watches_collected = False
        self._owner: Callable[[], object] | None = None
        self._repeated = RepeatedLog()
        self._scopes: set[Any] = set()  # open ones, of which events are retained
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self.ledger.reset_after_fork()
        self._is_watched = False
        self._watches_collected = False
        self._scopes = set()

    def attach(
        self, report: Report, is_disabled: Callable[[], bool], *, owner: Callable[[], object], tells: bool
    ) -> Ledger:
        """Attach this transport to the client that owns it. Reopens a closed transport, with new books.

        Args:
            report: See the attribute.
            is_disabled: Whether nothing may be sent for now.
            owner: Gives the client, or something that lives as long; `None` when it is gone.
            tells: Whether the client wants to be told of what is dropped.

        Returns:
            The books of that client.

        Raises:
            ConfigError: It belongs to another client, or that is still closing it.
        """
        if self._is_attached:
            raise ConfigError(f"this {type(self).__name__} belongs to another client; make one for each")
        if self.ledger.closed:
            self.ledger = Ledger(
                self.ledger.limit, self.ledger.limit_bytes, drops_oldest=self.ledger.drops_oldest
            )
            self._is_watched = False
        self._is_attached = True
        self._owner = owner
        self.ledger.tells = tells
        self.report = report
        self.is_disabled = is_disabled
        return self.ledger

    # --- one event -------------------------------------------------------------------------------------

    def put(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Admit an event and send it, after what was kept. Blocks up to the deadline.

        Inside a send of the same thread, where a signal handler or a callback captures, it is kept, and the
        call that was interrupted sends it.

        Returns:
            Whether it was admitted.

        Raises:
            ClosedError: The client was shut down.
        """
        if self.ledger.has_flights() and (interrupted := self._interrupted()) is not None:
            flight, is_logged = interrupted
            flight.is_followed = flight.is_followed or not is_logged
            return self.keep(event)
        flight = Flight(scope)
        try:
            self._fly(flight, deadline, event)
        except Exception as error:
            if not flight.admitted:
                raise
            if not isinstance(error, RecursionError):  # with which there is no room for more calls
                raise_interrupt(error)
                _log_internal(error)  # the event is in the books
        return True

    def keep(self, event: EncodedEvent) -> bool:
        """Admit an event and keep it for the next send; false when there is no room. Does not block."""
        if event.scope is not None:
            self._scopes.add(event.scope)
        if not self.ledger.keep(event):
            return self._refuse(event)
        self._watch()
        return True

    def wait_for_room(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Send what is pending until there is room for an event. Blocks up to the deadline.

        Not inside a send of the same thread: that makes the room.

        Returns:
            Whether there is room; else the event is dropped.
        """
        size = len(event)
        while not self.ledger.has_room(size) and not self.is_sending():
            if deadline.expired or self.ledger.sealed:
                self.ledger.drop("overflow")
                return self._refuse(event)
            others, before = self._others(), self.ledger.settled
            receipt = self.send_pending(deadline, scope=scope)
            for other in self.ledger.collecting():
                receipt += self.send_pending(deadline, scope=other)
            if others and not receipt.has_retained:
                self.ledger.wait_for(others, deadline.remaining())
            elif self.ledger.settled == before:
                time.sleep(min(REST_SECONDS, deadline.remaining()))
        return True

    def _refuse(self, event: EncodedEvent) -> Literal[False]:
        error = DroppedError("overflow", f"there is no room: {self.ledger.limits}")
        self._repeated.log(logging.WARNING, "overflow", 1, f"dropped: {error}")
        self.report(Receipt.dropping((event,), "overflow", error).groups)
        return False

    def is_sending(self) -> bool:
        """Whether this thread is inside a send, which a signal handler or a callback has interrupted."""
        return self.ledger.has_flights() and self._interrupted() is not None

    def _interrupted(self) -> tuple[Flight, bool] | None:
        """The send that this call is inside of, and whether a log record of that send has led here.

        A flight of this thread that is not on its stack any more lost its frame to an exception, as at the
        limit of recursion. The next launch takes over its events.
        """
        flights = self._own_flights()
        if not flights:
            return None
        frame: FrameType | None = sys._getframe()
        is_logged = False
        while frame is not None:
            if frame.f_code is _FLY and (flight := frame.f_locals.get("flight")) in flights:
                return flight, is_logged
            is_logged = is_logged or frame.f_globals.get("__name__") == "logging"
            frame = frame.f_back
        return None

    def _own_flights(self) -> list[Flight]:
        me = threading.get_ident()
        return self.ledger.flights(lambda flight: flight.thread == me)

    # --- everything ------------------------------------------------------------------------------------

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what was kept and then `events`. The receipt is about both."""
        if self.ledger.closed:
            for _ in events:
                self.ledger.drop("shutdown")
            return Receipt.dropping(events, "shutdown", DroppedError("shutdown", "the transport is closed"))
        refused = [event for event in events[:-1] if not self.ledger.keep(event)]
        receipt = Receipt.dropping(refused, "overflow", DroppedError("overflow", "there is no room"))
        return receipt + self._fly(Flight(), deadline, events[-1])

    def send_pending(
        self, deadline: Deadline, *, scope: Any = None, over: Sequence[Flight] | None = None
    ) -> Receipt:
        """Send what is kept and what a delivery scope has collected. Blocks up to the deadline.

        Args:
            deadline: When the caller must have its thread back.
            scope: The delivery scope.
            over: Flights to take over. Default: those of this thread, which a signal handler has interrupted:
                the process may end when the handler does. (Not for a log record that a send has written.)
        """
        flight = Flight(scope)
        if over is None:
            over = self._own_flights() if self.ledger.has_flights() else ()
            interrupted = self._interrupted() if over else None
            if interrupted is not None:
                flight.interrupted, is_logged = interrupted
                if is_logged or not flight.interrupted.may_be_replaced():
                    pending = Receipt.retaining(flight.interrupted.events, WAITING, _NOTHING_TRIED)
                    return pending + self._fly(Flight(scope), deadline, scope=scope)
        return self._fly(flight, deadline, scope=scope, over=over)

    def keep_collected(self, scope: Any) -> Receipt:
        """Leave what a delivery scope has collected to the next send."""
        if self.ledger.closed:
            return self._give_up((), scope)
        collected = self.ledger.keep_collected(scope)
        receipt = Receipt.retaining(collected, WAITING, _NOTHING_TRIED)
        if collected:
            self._scopes.add(scope)
            scope.record(collected, receipt)
            self._watch()
        excess = self.ledger.excess()
        if excess:
            flight = Flight()
            self.ledger.launch(flight, first=excess)
            error = DroppedError("overflow", f"there is no room: {self.ledger.limits}")
            self._land(self.ledger, flight, Receipt.dropping(flight.events, "overflow", error))
        return receipt

    def waiting(self) -> Receipt:
        """A receipt of all that is kept or in flight in other threads, without an attempt to send it."""
        return Receipt.retaining(self.ledger.pending(self._others()), WAITING, _NOTHING_TRIED)

    def _others(self, wanted: Callable[[Flight], bool] = lambda _: True) -> list[Flight]:
        """The flights of other threads."""
        if not self.ledger.has_flights():
            return []
        me = threading.get_ident()
        return self.ledger.flights(lambda flight: flight.thread != me and wanted(flight))

    def join(self, deadline: Deadline, wanted: Callable[[Flight], bool] = lambda _: True) -> bool:
        """Wait for sends that are in flight in other threads; whether all passed everything on, in time."""
        return not self._joined(self._others(wanted), deadline).groups

    def _joined(self, flights: Sequence[Flight], deadline: Deadline) -> Receipt:
        """Wait for flights; a receipt of what they did not pass on, or still have."""
        if not flights:
            return Receipt()
        self.ledger.wait_for(flights, deadline.remaining())
        flying = [flight for flight in flights if flight.receipt is None]
        receipt = Receipt.retaining(
            [event for flight in flying for event in flight.events], WAITING, _NOTHING_TRIED
        )
        for flight in flights:
            if flight.receipt is not None:
                receipt += Receipt(groups=flight.receipt.groups)
        return receipt

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept, flush the transport inside, and wait for sends that are in flight."""
        if not self.ledger.kept and not self.ledger.has_flights():
            return self._ask("flush", deadline)
        others = self._others()
        receipt = self.send_pending(deadline) + self._ask("flush", deadline)
        return receipt + self._joined(others, deadline).without(receipt.retained_events())

    # --- one send --------------------------------------------------------------------------------------

    def _fly(
        self,
        flight: Flight,
        deadline: Deadline,
        event: EncodedEvent | None = None,
        *,
        scope: Any = None,
        first: int | None = None,
        over: Sequence[Flight] = (),
        follow: bool = True,
    ) -> Receipt:
        """Launch a flight, transmit its events and land it, whatever happens in between."""
        receipt: Receipt | None = None
        ledger = self.ledger  # of the client that owns the transport now
        try:
            ledger.launch(flight, event, scope=scope, first=first, over=over)
            receipt = self._transmit(flight.events, deadline)
            flight.failed = receipt.has_retained
            booked = self._land(ledger, flight, receipt)
            if flight.is_followed and follow:
                self._follow(flight, booked, deadline)
            return booked
        except BaseException as error:
            # Raised by a signal handler, or at the limit of recursion: the events are not to go with it.
            if receipt is None:
                cut_off = DroppedError("interrupted", f"{type(error).__name__} ended the send")
                receipt = Receipt.retaining(flight.events, "interrupted", cut_off)
            if flight.receipt is not None and not flight.is_recorded:
                self._record(flight, flight.events, flight.receipt)  # it was booked, and no more
            self._land(ledger, flight, receipt)
            self._watch()
            raise

    def _land(self, ledger: Ledger, flight: Flight, receipt: Receipt) -> Receipt:
        events, booked = ledger.land(flight, receipt)
        if flight.scope is not None or self._scopes:
            self._record(flight, events, booked)
            flight.is_recorded = True
        if self._is_watched and not ledger.kept:
            self._forget()
        if booked.groups:
            if booked is not receipt:
                for group in booked.groups:
                    if group.reason == "overflow":
                        logger.warning("%s", group.error)
                    elif group.reason == "shutdown":
                        _at_exit.say_lost(group.error)
            self._watch()
            self.report([group for group in booked.groups if group.outcome == "retained"])
        return booked

    def _record(self, flight: Flight, events: Sequence[EncodedEvent], receipt: Receipt) -> None:
        """Give each delivery scope its part of a receipt."""
        if flight.scope is not None and receipt.has_retained:
            self._scopes.add(flight.scope)
        if not flight.has_backlog:
            if events and flight.scope is not None:
                flight.scope.record(events, receipt)
            return
        for scope in {flight.scope, *self._scopes} - {None}:
            own = [event for event in events if event.scope is scope]
            if own:
                scope.record(own, receipt.about(own, events))
            if scope.finished:
                self._scopes.discard(scope)

    def _follow(self, flight: Flight, receipt: Receipt, deadline: Deadline) -> None:
        """Send what signal handlers have captured during a send, and during the sends of that."""
        for _ in range(MOST_FOLLOWING):
            if not flight.is_followed or receipt.has_retained or deadline.expired:
                return
            flight = Flight()
            receipt = self._fly(flight, deadline, follow=False)

    def _transmit(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        if not batch:
            return Receipt()
        try:
            receipt = _checked(self._inner.send(batch, deadline=deadline), "send")
            _check_count(receipt, len(batch))
            return receipt
        except Exception as error:
            raise_interrupt(error)
            name = type(self._inner).__name__
            logger.error("%s: %s; %d event(s) are kept", name, _what_is_wrong("send", error), len(batch))
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt.retaining(batch, "failed", error)

    def _ask(self, call: Literal["flush", "close"], deadline: Deadline) -> Receipt:
        """Call the inner transport's method; what it raises is not to cost what is around it."""
        try:
            return _checked(getattr(self._inner, call)(deadline=deadline), call)
        except Exception as error:
            raise_interrupt(error)
            logger.error("%s: %s", type(self._inner).__name__, _what_is_wrong(call, error))
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt()

    # --- the end ---------------------------------------------------------------------------------------

    def disconnect(self, *, deadline: Deadline) -> None:
        """Close idle connections but keep accepting events."""
        self._ask("close", deadline)

    def close(self, *, deadline: Deadline) -> Receipt:
        """Send what was kept one last time; what still fails is dropped with the reason `"shutdown"`."""
        return self._end(deadline, last_try=True)

    def abandon(self, *, deadline: Deadline) -> Receipt:
        """Close without a last try."""
        return self._end(deadline, last_try=False)

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        try:
            # The inner transport first: this ends retry back-offs, whose events then come back as retained.
            receipt = self._ask("close", deadline)
            for scope in self.ledger.collecting():  # which close too late, or never
                self.ledger.keep_collected(scope)
                self._scopes.add(scope)
            self.join(deadline)
            self.ledger.closed = True
            self._forget()
            # This signal handler may have interrupted the thread's own send, which may never go on.
            own = self._own_flights()
            if last_try:
                receipt += self.send_pending(deadline, over=own) + self._ask("close", deadline)
            else:
                receipt += self._give_up(own)
            # A thread may have begun to send what was kept just before the books were closed.
            others = self._joined(self._others(), deadline)
            return receipt + others + self.waiting().without(others.retained_events())
        finally:
            self._is_attached = False

    def _give_up(self, over: Sequence[Flight], scope: Any = None) -> Receipt:
        """Drop what is pending: the books are closed."""
        ledger, flight = self.ledger, Flight(scope)
        try:
            ledger.launch(flight, over=over, scope=scope)
        finally:
            given_up = self._land(ledger, flight, Receipt.retaining(flight.events, WAITING, _NOTHING_TRIED))
        return given_up

    def _watch(self) -> None:
        """See to it that what is kept has its turn at the end of the process, and is not lost in silence."""
        if self._is_watched or not self.ledger.kept:
            return
        if _at_exit.deadline() is None:
            self._is_watched = True
            _at_exit.watch(self)
        else:  # this was captured after it
            self.ledger.closed = True
            self._give_up(())

    def watch_collected(self) -> None:
        """See to it that what a scope collects is not lost if nobody closes it."""
        if not self._watches_collected:
            self._watches_collected = True
            _at_exit.watch_collected(self)

    def _forget(self) -> None:
        """Undo `_watch`: there is nothing to lose any more."""
        self._is_watched = False
        _at_exit.forget(self)
        if not self.ledger.closed:
            self._watch()  # a signal handler may have captured just now

    def is_orphan(self) -> bool:
        """Whether the client that owns it is gone."""
        return self._owner is not None and self._owner() is None

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the transport inside."""
        self._inner.warm_up(deadline=deadline)


def _log_internal(error: Exception) -> None:
    logger.error("internal error %s; please report it", type(error).__name__)
    logger.debug("it happened here:", exc_info=error)


_FLY = RetainingTransport._fly.__code__
