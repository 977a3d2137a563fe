"""Retains the events that a transport could not deliver, and sends them first in the next send."""

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
from ..messages import log_internal_error
from . import _at_exit
from ._ledger import Flight, Ledger
from ._repeated import RepeatedLog
from .base import BaseTransport
from .deadline import Deadline
from .receipt import WAITING, OutcomeGroup, Receipt

Report: TypeAlias = Callable[[Sequence[OutcomeGroup]], object]

logger = logging.getLogger("leanbase")

REST_SECONDS = 0.5
"""Seconds that a caller waits between two sends if the first made no room."""

MOST_FOLLOWING = 100
"""The maximum number of sends in a row for events that signal handlers captured during such a send."""

_NOTHING_TRIED = DroppedError(WAITING, "nothing was tried")


class _ReceiptError(Exception):
    """A transport returned something other than a receipt for its events."""


def _checked(receipt: object, call: str) -> Receipt:
    if not isinstance(receipt, Receipt):
        raise _ReceiptError(f"{call}() must return a Receipt, not {type(receipt).__name__}")
    return receipt


def _check_count(receipt: Receipt, count: int) -> None:
    undelivered = sum([len(group.events) for group in receipt.groups])
    reported = receipt.delivered + receipt.handed_off + receipt.spooled + undelivered
    if reported != count:
        raise _ReceiptError(f"the receipt for {count} event(s) reports {reported}")


def _what_is_wrong(call: str, error: Exception) -> str:
    # The message of an exception from other code may quote a property of an event.
    return str(error) if isinstance(error, _ReceiptError) else f"{call}() raised {type(error).__name__}"


def must_not_retain(inner: BaseTransport) -> None:
    """Raise a ConfigError if a transport retains events: the transport around it would retain them too."""
    if isinstance(inner, RetainingTransport):
        raise ConfigError(
            f"{type(inner).__name__} wraps other transports and cannot be inside one; "
            "for a buffer around any transport, set sync_mode=False"
        )


class RetainingTransport(BaseTransport):
    """Wraps a client's transport and retains in a ledger, in order, the events that it could not deliver.

    So an undelivered event is pending in exactly one place. This class never starts a send by itself.

    Args:
        inner: The transport that delivers the events.
        limit: The maximum number of retained events. Above it, the oldest are dropped as `"overflow"`.
        limit_bytes: The maximum size of the retained events, in bytes.
        waits_for_room: Whether a caller waits for room, instead of dropping retained events.

    Attributes:
        ledger: Where each event is, and the list of sends in flight.
        report: Called with the events that a send retained or a call refused. It also reports the dropped
            events that the ledger has not reported yet.
        is_disabled: Returns True while the client is disabled, so that nothing may be sent.
        is_buffer: Whether a thread of this transport sends retained events.

    Raises:
        ConfigError: `inner` also retains events, so each event would be retained twice.
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
        self.inner = inner
        self._is_attached = False
        self._is_watched = False
        self._watches_collected = False
        self._owner: Callable[[], object] | None = None
        self._repeated = RepeatedLog()
        self._scopes: set[Any] = set()  # the open scopes that have retained events
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self.ledger.reset_after_fork()
        self._is_watched = False
        self._watches_collected = False
        self._scopes = set()

    def attach(
        self,
        report: Report,
        is_disabled: Callable[[], bool],
        *,
        owner: Callable[[], object],
        reports_dropped: bool,
    ) -> Ledger:
        """Attach this transport to its client, and return the ledger. A closed transport gets a new ledger.

        Args:
            report: See the attribute.
            is_disabled: See the attribute.
            owner: Returns an object that lives as long as the client, or `None` once it no longer exists.
            reports_dropped: Whether the client reports dropped events to `on_error`.

        Raises:
            ConfigError: The transport belongs to another client, or another client is still closing it.
        """
        if self._is_attached:
            raise ConfigError(f"this {type(self).__name__} belongs to another client; create one for each")
        if self.ledger.closed:
            self.ledger = Ledger(
                self.ledger.limit, self.ledger.limit_bytes, drops_oldest=self.ledger.drops_oldest
            )
            self._is_watched = False
        self._is_attached = True
        self._owner = owner
        self.ledger.reports_dropped = reports_dropped
        self.report = report
        self.is_disabled = is_disabled
        return self.ledger

    # --- one event -------------------------------------------------------------------------------------

    def put(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Admit an event and send it, after the retained events. Blocks until the deadline at the latest.

        If a signal handler or a callback calls this inside a send of the same thread, the event is retained.
        The interrupted send then sends it.

        Returns:
            True if the event was admitted.

        Raises:
            ClosedError: The client was shut down.
        """
        if self.ledger.has_flights() and (interrupted := self._interrupted()) is not None:
            flight, is_logged = interrupted
            flight.has_followers = flight.has_followers or not is_logged
            return self.keep(event)
        flight = Flight(scope)
        try:
            self._fly(flight, deadline, event)
        except Exception as error:
            if not flight.admitted:
                raise
            if not isinstance(error, RecursionError):  # at the recursion limit another call would fail
                log_internal_error("a transport", error)  # the ledger has the event
        return True

    def keep(self, event: EncodedEvent) -> bool:
        """Admit and retain an event for the next send; False if there is no room. Does not block."""
        if event.scope is not None:
            self._scopes.add(event.scope)
        if not self.ledger.keep(event):
            return self._refuse(event)
        self._watch()
        return True

    def wait_for_room(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Send pending events until there is room for `event`. Blocks until the deadline at the latest.

        Inside a send of the same thread it returns at once: that send makes the room.

        Returns:
            False if there was no room in time. The event is then dropped as `"overflow"`.
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
        """Return True if a signal handler or a callback called this inside a send of its thread."""
        return self.ledger.has_flights() and self._interrupted() is not None

    def _interrupted(self) -> tuple[Flight, bool] | None:
        """Return the send that this call is inside of, and whether a log record of that send led here.

        An exception such as a RecursionError may remove an in-flight send from the stack of its thread. The
        next `send_pending` of the thread then takes over its events.
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
        """Send the retained events and then `events`. The receipt covers both."""
        if self.ledger.closed:
            for _ in events:
                self.ledger.drop("shutdown")
            return Receipt.dropping(events, "shutdown", DroppedError("shutdown", "the transport is closed"))
        refused = [event for event in events[:-1] if not self.ledger.keep(event)]
        receipt = Receipt.dropping(refused, "overflow", DroppedError("overflow", "there is no room"))
        return receipt + self._fly(Flight(), deadline, events[-1])

    def send_pending(
        self, deadline: Deadline, *, scope: Any = None, taking_over: Sequence[Flight] | None = None
    ) -> Receipt:
        """Send the retained events and the collected events of a delivery scope. Blocks up to the deadline.

        `taking_over` are in-flight sends whose events this send takes over. By default these are the sends of
        this thread that a signal handler interrupted, because the process may end when the handler does. (A
        log handler that flushes takes over nothing.)
        """
        flight = Flight(scope)
        if taking_over is None:
            taking_over = self._own_flights() if self.ledger.has_flights() else ()
            interrupted = self._interrupted() if taking_over else None
            if interrupted is not None:
                flight.interrupted, is_logged = interrupted
                if is_logged or not flight.interrupted.may_be_replaced():
                    pending = Receipt.retaining(flight.interrupted.events, WAITING, _NOTHING_TRIED)
                    return pending + self._fly(Flight(scope), deadline, scope=scope)
        return self._fly(flight, deadline, scope=scope, taking_over=taking_over)

    def keep_collected(self, scope: Any) -> Receipt:
        """Move the collected events of a delivery scope to the retained events. Does not block."""
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
        """Return a receipt for the retained events and events in flight in other threads. Does not send."""
        return Receipt.retaining(self.ledger.pending(self._others()), WAITING, _NOTHING_TRIED)

    def _others(self, wanted: Callable[[Flight], bool] = lambda _: True) -> list[Flight]:
        """Return the in-flight sends of other threads."""
        if not self.ledger.has_flights():
            return []
        me = threading.get_ident()
        return self.ledger.flights(lambda flight: flight.thread != me and wanted(flight))

    def join(self, deadline: Deadline, wanted: Callable[[Flight], bool] = lambda _: True) -> bool:
        """Wait for in-flight sends of other threads. Return True if all passed on all events in time."""
        return not self._joined(self._others(wanted), deadline).groups

    def _joined(self, flights: Sequence[Flight], deadline: Deadline) -> Receipt:
        """Wait for in-flight sends. Return a receipt for the events that they did not pass on."""
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
        """Send the retained events, flush the inner transport, and wait for the sends in flight."""
        if not self.ledger.kept and not self.ledger.has_flights():
            return self._call_inner("flush", deadline)
        others = self._others()
        receipt = self.send_pending(deadline) + self._call_inner("flush", deadline)
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
        taking_over: Sequence[Flight] = (),
        follow: bool = True,
    ) -> Receipt:
        """Run one send: launch it, transmit its events, and land it even if an exception interrupts it."""
        receipt: Receipt | None = None
        ledger = self.ledger  # `self.ledger` changes when another client attaches
        try:
            ledger.launch(flight, event, scope=scope, first=first, taking_over=taking_over)
            receipt = self._transmit(flight.events, deadline)
            flight.failed = receipt.has_retained
            booked = self._land(ledger, flight, receipt)
            if flight.has_followers and follow:
                self._follow(flight, booked, deadline)
            return booked
        except BaseException as error:
            # Raised by a signal handler or at the recursion limit: no event may be lost because of it.
            if receipt is None:
                cut_off = DroppedError("interrupted", f"{type(error).__name__} ended the send")
                receipt = Receipt.retaining(flight.events, "interrupted", cut_off)
            if flight.receipt is not None and not flight.is_recorded:
                self._record(flight, flight.events, flight.receipt)  # landed, but not recorded in its scopes
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
                        logger.warning("the memory for pending events is full: %s", group.error)
                    elif group.reason == "shutdown":
                        _at_exit.say_lost(group.error)
            self._watch()
            self.report([group for group in booked.groups if group.outcome == "retained"])
        return booked

    def _record(self, flight: Flight, events: Sequence[EncodedEvent], receipt: Receipt) -> None:
        """Record in each delivery scope its part of a receipt."""
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
        """Send the events that signal handlers captured during a send, and during these sends in turn."""
        for _ in range(MOST_FOLLOWING):
            if not flight.has_followers or receipt.has_retained or deadline.expired:
                return
            flight = Flight()
            receipt = self._fly(flight, deadline, follow=False)

    def _transmit(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        if not batch:
            return Receipt()
        try:
            receipt = _checked(self.inner.send(batch, deadline=deadline), "send")
            _check_count(receipt, len(batch))
            return receipt
        except Exception as error:
            raise_interrupt(error)
            name = type(self.inner).__name__
            logger.error(
                "transport %s: %s; %d event(s) are retained", name, _what_is_wrong("send", error), len(batch)
            )
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt.retaining(batch, "failed", error)

    def _call_inner(self, call: Literal["flush", "close"], deadline: Deadline) -> Receipt:
        """Call a method of the inner transport. Log its errors, because the caller needs a receipt."""
        try:
            return _checked(getattr(self.inner, call)(deadline=deadline), call)
        except Exception as error:
            raise_interrupt(error)
            logger.error("transport %s: %s", type(self.inner).__name__, _what_is_wrong(call, error))
            logger.debug("the transport failed here:", exc_info=error)
            return Receipt()

    # --- the end ---------------------------------------------------------------------------------------

    def disconnect(self, *, deadline: Deadline) -> None:
        """Close idle connections but keep accepting events."""
        self._call_inner("close", deadline)

    def close(self, *, deadline: Deadline) -> Receipt:
        """Send the retained events a last time, up to the deadline. Drop the rest as `"shutdown"`."""
        return self._end(deadline, last_try=True)

    def abandon(self, *, deadline: Deadline) -> Receipt:
        """Close without a last attempt: pending events are dropped as `"shutdown"`."""
        return self._end(deadline, last_try=False)

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        try:
            # Close the inner transport first: this ends retry back-offs. Their events come back as retained.
            receipt = self._call_inner("close", deadline)
            for scope in self.ledger.collecting():  # scopes that close too late or never
                self.ledger.keep_collected(scope)
                self._scopes.add(scope)
            self.join(deadline)
            self.ledger.closed = True
            self._forget()
            # A signal handler may run this inside a send of its own thread, which may never continue.
            own = self._own_flights()
            if last_try:
                receipt += self.send_pending(deadline, taking_over=own) + self._call_inner("close", deadline)
            else:
                receipt += self._give_up(own)
            # A thread may have begun to send retained events just before the ledger was closed.
            others = self._joined(self._others(), deadline)
            return receipt + others + self.waiting().without(others.retained_events())
        finally:
            self._is_attached = False

    def _give_up(self, taking_over: Sequence[Flight], scope: Any = None) -> Receipt:
        """Drop the pending events, because the ledger is closed."""
        ledger, flight = self.ledger, Flight(scope)
        try:
            ledger.launch(flight, taking_over=taking_over, scope=scope)
        finally:
            given_up = self._land(ledger, flight, Receipt.retaining(flight.events, WAITING, _NOTHING_TRIED))
        return given_up

    def _watch(self) -> None:
        """Ensure that retained events are sent at the end of the process, or that their loss is logged."""
        if self._is_watched or not self.ledger.kept:
            return
        if _at_exit.deadline() is None:
            self._is_watched = True
            _at_exit.watch(self)
        else:  # captured after the exit hook began
            self.ledger.closed = True
            self._give_up(())

    def watch_collected(self) -> None:
        """Ensure that collected events are sent at the end of the process if their scope is never closed."""
        if not self._watches_collected:
            self._watches_collected = True
            _at_exit.watch_collected(self)

    def _forget(self) -> None:
        self._is_watched = False
        _at_exit.forget(self)
        if not self.ledger.closed:
            self._watch()  # a signal handler may have captured an event just now

    def is_orphan(self) -> bool:
        """Return True if the client of this transport was garbage-collected."""
        return self._owner is not None and self._owner() is None

    def warm_up(self, *, deadline: Deadline) -> None:
        self.inner.warm_up(deadline=deadline)


_FLY = RetainingTransport._fly.__code__
