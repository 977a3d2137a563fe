"""Decides when an event is sent. An outbox stands between a client and its transport.

Every event that a client admits passes `Outbox.put`, and from then on the ledger of the transport counts it.
At any time, captured = delivered + handed off + spooled + retained + dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from ..errors import ClosedError
from ..events.encoding import EncodedEvent
from ..interrupts import is_in_signal_handler, raise_interrupt
from ..messages import log_internal_error
from ..settings import OnError
from ..transports._http.sender import PAUSED
from ..transports.deadline import Deadline
from ..transports.receipt import WAITING, Receipt
from .background import background
from .scope import FULL_BYTES, DeliveryScope, open_scope, send_deadline, warn_of_other_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..transports._ledger import Collected
    from ..transports._retaining import RetainingTransport
    from ..transports.deadline import LastChance
    from ..transports.receipt import OutcomeGroup, Stats

logger = logging.getLogger("leanbase")

_UNTRIED = frozenset({PAUSED, WAITING})
"""With these reasons no send was tried, so there is nothing new to report to `on_error`."""

_reporting: ContextVar[tuple[object, ...]] = ContextVar("leanbase_reporting", default=())
"""The outboxes whose `on_error` is running, outermost first."""


class Outbox:
    """Admits the events of one client, and follows each until it has an outcome.

    Args:
        transport: Sends the events; its ledger counts them.
        owner: Returns an object that lives as long as the client, or `None` once it no longer exists.
        send_seconds: The maximum seconds for one send.
        flush_at: The number of events of a scope that are sent before it closes.
        flush_interval: In a scope that may stay open for long, the seconds after which a capture sends.
        transmits: `False` admits events but drops them, with the reason `"send_off"`.
        on_error: The user's callback for events that were dropped or could not be delivered yet.
    """

    def __init__(
        self,
        transport: RetainingTransport,
        *,
        owner: Callable[[], object],
        send_seconds: float,
        flush_at: int,
        flush_interval: float,
        transmits: bool,
        on_error: OnError | None,
    ) -> None:
        self.disabled = False
        self._transport = transport
        reports_dropped = on_error is not None
        self._ledger = transport.attach(
            self._report, lambda: self.disabled, owner=owner, reports_dropped=reports_dropped
        )
        self.send_seconds = send_seconds
        self.is_buffered = transport.is_buffer
        self._flush_at = flush_at
        self._flush_interval = flush_interval
        self._transmits = transmits
        self._on_error = on_error

    @property
    def closed(self) -> bool:
        """Return True if the outbox admits no more events."""
        return self._ledger.sealed

    # --- one event -------------------------------------------------------------------------------------

    def put(self, event: EncodedEvent) -> bool:
        """Admit an event into the open delivery scope, or send it if no scope collects it.

        A send blocks up to its deadline. A capture that a scope only collects does not block, nor does a
        capture in a scope that forbids blocking. A transport that waits for room may block for one more
        deadline.

        Returns:
            True if the event was admitted, False if there was no room for it.

        Raises:
            ClosedError: The outbox is closed.
        """
        if not self._transmits:
            if self.closed:
                raise ClosedError(event)
            self._ledger.drop("send_off")
            return True
        if self._on_error is not None and self._is_reporting():
            event.is_quiet = not is_in_signal_handler()
        carried = scope = open_scope()
        if scope is not None and (not scope.is_open or (self.is_buffered and not scope.bypasses_buffers)):
            scope = None
        if self._transport.waits_for_room and not self.disabled:
            deadline = send_deadline(self.send_seconds)
            if not self._transport.wait_for_room(event, deadline, scope):
                return False
        if scope is not None:
            event.scope = scope
            scope.senders[self] = None  # before the ledger checks `closed`: a close must find this client
            if scope.latest is not None:
                scope.latest[self] = event
            if scope.collects:
                collected = self._ledger.collect(event, scope)
                if collected is not None:
                    if scope.is_request:
                        self._transport.watch_collected()
                    if self._is_due(collected, scope) and not self._transport.is_sending():
                        self._send_early(scope)
                    return True
        if self.disabled:
            return self._transport.keep(event)
        if carried is None:
            warn_of_other_thread()
        elif not (self.is_buffered or carried.may_block()):
            admitted = self._transport.keep(event)
            self.send_later()
            return admitted
        return self._transport.put(event, send_deadline(self.send_seconds), scope)

    def _is_due(self, collected: Collected, scope: DeliveryScope) -> bool:
        """Return True if the events that a scope has collected must be sent before it closes."""
        if len(collected.events) >= self._flush_at or collected.bytes >= FULL_BYTES:
            return True
        return scope.sends_at_intervals and time.monotonic() - collected.since >= self._flush_interval

    def _send_early(self, scope: DeliveryScope) -> None:
        try:
            if scope.may_block():
                self.send_collected(scope)
            else:
                self.send_later(scope)
        except Exception as error:
            log_internal_error("the outbox", error)

    def drop(self, reason: str) -> None:
        """Count an event that was captured but not admitted."""
        self._ledger.drop(reason)

    # --- calls of a delivery scope ----------------------------------------------------------------------

    def send_collected(
        self, scope: DeliveryScope, deadline: Deadline | None = None, *, take_over: bool = False
    ) -> Receipt:
        """Send pending events, then the events of a scope, in this thread. Blocks up to the deadline.

        With `take_over`, because the process is about to be killed, also resend events that other threads
        have in flight for the scope. Such an event may arrive twice, with the same uuid.
        """
        if self.disabled:
            return self._transport.keep_collected(scope)
        if deadline is None:
            deadline = send_deadline(self.send_seconds, scope.last_chance if scope.closed else None)
        if self._ledger.has_unreported():
            self._report(())
        taking_over = self._ledger.flights(lambda flight: flight.scope is scope) if take_over else None
        return self._transport.send_pending(deadline, scope=scope, taking_over=taking_over)

    def keep_collected(self, scope: DeliveryScope) -> None:
        """Leave the events that a scope has collected to the next send."""
        self._transport.keep_collected(scope)

    def send_later(
        self, scope: DeliveryScope | None = None, done: Callable[[], object] | None = None
    ) -> None:
        """Let a background thread send pending events and the events of a scope. Does not block.

        `done` is called, in any thread, once the send was tried, or if nothing is pending.
        """
        if scope is not None and self in scope.senders:
            self._transport.keep_collected(scope)
        is_pending = self._ledger.kept > 0 if done is None else self.has_pending()
        if is_pending and not self.disabled:
            background.send(self, done)
        elif done is not None:
            done()

    def send_kept(self, *, waits: bool) -> bool:
        """Send pending events and return True if all were passed on. Never raises.

        The background thread of `send_later` calls it. With `waits`, wait for the sends of other threads too.
        """
        try:
            if self.disabled:
                return True
            deadline = send_deadline(self.send_seconds)
            if self._ledger.has_unreported():
                self._report(())
            passed_on = not self._transport.send_pending(deadline).has_retained
            return passed_on and (not waits or self._transport.join(deadline))
        except Exception as error:
            log_internal_error("the outbox", error)
            return False

    def join(self, scope: DeliveryScope | None, deadline: Deadline | None = None) -> None:
        """Wait for the sends of other threads for a scope; `None` means their sends outside of scopes."""
        if self._is_reporting() or not self._ledger.has_flights():
            return
        if deadline is None:
            deadline = send_deadline(self.send_seconds)
        self._transport.join(deadline, lambda flight: flight.scope is scope)

    # --- everything ------------------------------------------------------------------------------------

    def has_pending(self) -> bool:
        """Return True if any event waits for a send or is in flight."""
        return self._ledger.kept > 0 or self._ledger.has_flights()

    def settle(self, deadline: Deadline) -> None:
        """Wait for all sends of other threads, up to the deadline."""
        self._transport.join(deadline)

    def waiting(self) -> Receipt:
        """Return a receipt of the pending events, without trying to send them."""
        return self._transport.waiting()

    def flush(
        self,
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        last_chance: LastChance | None = None,
    ) -> Receipt:
        """Send the events of the open scope for this client, then all pending events of the transport.

        Args:
            timeout: The maximum seconds to block. Default: the limit of one send.
            deadline: When this call must have returned. It replaces `timeout` and `last_chance`.
            last_chance: Allows one attempt even while sends pause; see `Deadline`.
        """
        if self.disabled or self._is_reporting():
            return self.waiting()
        if deadline is None:
            deadline = send_deadline(self.send_seconds if timeout is None else timeout, last_chance)
        if self._ledger.has_unreported():
            self._report(())
        receipt = self._send_open_scope(deadline)
        if receipt.has_retained:
            return receipt  # the send has just failed: an immediate retry would waste time
        return receipt + self._transport.flush(deadline=deadline)

    def close(self, *, timeout: float, last_chance: LastChance) -> Receipt:
        """Refuse new events, send pending events, and close the transport. Blocks up to `timeout` seconds."""
        self._ledger.seal()
        deadline = send_deadline(timeout, last_chance)
        if self.disabled or self._is_reporting():
            return self._transport.abandon(deadline=deadline)
        if self._ledger.has_unreported():
            self._report(())
        receipt = self._send_open_scope(deadline)
        # After a failed send, close without an immediate retry.
        ended = self._transport.abandon if receipt.has_retained else self._transport.close
        last = ended(deadline=deadline)
        return receipt.without(each.event for each in last.undelivered) + last

    def disconnect(self, *, timeout: float) -> Receipt:
        """Send all pending events and close connections. New events open connections again."""
        deadline = Deadline.after(timeout)
        receipt = self.flush(timeout=timeout)
        self._transport.disconnect(deadline=deadline)
        return receipt

    def _send_open_scope(self, deadline: Deadline) -> Receipt:
        scope = open_scope()
        if scope is None or not scope.is_of_this_process or self not in scope.senders:
            return Receipt()
        return self.send_collected(scope, deadline)

    def warm_up(self, *, timeout: float) -> None:
        if not self.disabled and self._transmits:
            self._transport.warm_up(deadline=Deadline.after(timeout))

    def stats(self) -> Stats:
        return self._ledger.stats()

    def _report(self, groups: Sequence[OutcomeGroup]) -> None:
        """Call the user's `on_error` once for each cause of these groups, and for all dropped events.

        `groups` are events that a send has retained, or that a call has refused.
        """
        if self._on_error is None or self._is_reporting():
            return  # the outer call reports dropped events when `on_error` returns
        by_cause: dict[int, OutcomeGroup] = {}
        for group in groups:
            if group.reason not in _UNTRIED:
                known = by_cause.setdefault(id(group.error), group)
                if known is not group:
                    by_cause[id(group.error)] = known.with_events(group.events)
        others = _reporting.get()
        try:
            _reporting.set((*others, self))  # inside the `try`: an interrupt may come right after it
            for group in by_cause.values():
                self._call_on_error(group)
            self._ledger.report_dropped(self._call_on_error)
        finally:
            _reporting.set(others)

    def _is_reporting(self) -> bool:
        """Return True if this call comes from inside `on_error`."""
        return self in _reporting.get()

    def _call_on_error(self, group: OutcomeGroup) -> None:
        events = [event.decode() for event in group.events if not event.is_quiet]
        if events and self._on_error is not None:
            try:
                self._on_error(group.error, events)
            except Exception as error:
                raise_interrupt(error)
                logger.error(
                    "on_error raised %s; the outcome of its events is unchanged", type(error).__name__
                )
