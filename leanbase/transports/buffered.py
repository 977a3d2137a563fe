"""A bounded buffer in memory and one thread that empties it, for long-running services."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from .. import event_loop
from ..errors import DroppedError, TransportError
from ..events.encoding import EncodedEvent
from ..messages import log_internal_error
from . import _at_exit
from ._ledger import Flight, Ledger
from ._retaining import REST_SECONDS, Report, RetainingTransport
from .base import BaseTransport
from .deadline import Deadline
from .receipt import WAITING, Receipt

if TYPE_CHECKING:
    from ..settings import Settings

logger = logging.getLogger("leanbase")

LONGEST_WAIT_SECONDS = 60.0
"""The maximum seconds until the thread checks again whether its transport still exists."""


class BufferedTransport(RetainingTransport):
    """Accepts events without blocking. A thread sends them when enough are pending or the oldest is due.

    Events that could not be delivered are retained in the same buffer, and the next send takes them first.
    Only new events, a flush or the end of the process start a send. A full buffer refuses new events.

    The thread starts with the first event. When the interpreter exits, the exit hook sends pending events
    within 2 s. For more time, call the client's `shutdown()` before. A delivery scope that collects events
    bypasses the buffer and sends them when it closes. (The scope of a web request does so only if it sends
    before the response.)

    Args:
        inner: The transport that delivers the events.
        flush_at: The number of new events that starts a send. One send of the thread takes at most this many.
        flush_interval: Seconds after which a new event is sent, at the latest.
        max_queue_size: The maximum number of events in the buffer.
        max_queue_bytes: The maximum size of the events in the buffer, in bytes.
        send_deadline: The maximum number of seconds for one send of the thread.
        waits_for_room: Whether this is an import. The calling thread then sends each full batch itself,
            except on an event loop. If the buffer is full, it waits for room, at most for the time of a send.
            Events in flight count as well.

    Examples:
        >>> from leanbase.transports import HttpTransport
        >>> transport = BufferedTransport(HttpTransport("phc_key", "https://leanbase.example.com"))
    """

    requires = ("api_key", "host")
    is_buffer = True

    def __init__(
        self,
        inner: BaseTransport,
        *,
        flush_at: int = 100,
        flush_interval: float = 5.0,
        max_queue_size: int = 10_000,
        max_queue_bytes: int = 64 * 1024 * 1024,
        send_deadline: float = 10.0,
        waits_for_room: bool = False,
    ) -> None:
        self._flush_at = max(1, min(flush_at, max_queue_size))
        self._flush_interval = flush_interval
        self._send_seconds = send_deadline
        self._cannot_start = False
        super().__init__(
            inner, limit=max_queue_size, limit_bytes=max_queue_bytes, waits_for_room=waits_for_room
        )
        self._begin()

    def _reset_after_fork(self) -> None:
        super()._reset_after_fork()
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition(self.ledger.lock)
        self._worker: threading.Thread | None = None
        self._stopping = self.ledger.closed
        self._new = 0
        self._new_since = 0.0
        self._not_before = 0.0
        self._wakes_at = math.inf
        self._flushing: set[object] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> BufferedTransport:
        """Create a buffer around an `HttpTransport` with the client's options."""
        from .http import HttpTransport

        return cls.around(HttpTransport.from_settings(settings), settings)

    @classmethod
    def around(cls, inner: BaseTransport, settings: Settings) -> BufferedTransport:
        """Create a buffer around any transport, with the client's limits."""
        return cls(
            inner,
            flush_at=settings.flush_at,
            flush_interval=settings.flush_interval,
            max_queue_size=settings.max_queue_size,
            max_queue_bytes=settings.max_queue_bytes,
            send_deadline=settings.send_deadline,
            waits_for_room=settings.historical_migration,
        )

    def put(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Put an event into the buffer. Does not block while the thread runs, unless an import sends a batch.

        Returns:
            True if the event was admitted. If it does not fit, it is dropped as `"overflow"`.

        Raises:
            ClosedError: The client was shut down.
        """
        if self._start():
            if event.scope is not None:
                self._scopes.add(event.scope)
            with self.ledger.lock:
                buffered = not self._stopping
                if buffered:
                    admitted = self.ledger.keep(event)
                    self._note_new()
            if buffered:
                self._watch()  # outside the lock: gevent may switch to another greenlet here
                if self._new >= self._flush_at and self._sends_here():
                    self._send_here()
                return admitted or self._refuse(event)
        # Send now, because no thread will empty the buffer any more.
        return super().put(event, deadline.earlier(_at_exit.deadline()), scope)

    def _sends_here(self) -> bool:
        """Return True if a full batch is sent in the caller's thread.

        An import keeps its thread busy, so that the sending thread would hardly get the interpreter's lock.
        """
        return self.waits_for_room and not event_loop.is_running()

    def _send_here(self) -> None:
        seconds = self._seconds_until_due(self._changed)
        if seconds is not None and seconds <= 0 and not self.is_sending():
            self._send_due()

    def wait_for_room(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Wait until the thread has made room. Without a thread, or in a scope, send in this thread."""
        size = len(event)
        if self.ledger.has_room(size):
            return True
        if scope is None and self._start() and not self._cannot_start:
            while not (self._stopping or deadline.expired or self.ledger.has_room(size) or self.is_sending()):
                with self.ledger.lock:
                    self._new = max(self._new, self._flush_at)  # this makes the thread send
                    self._changed.notify_all()
                seconds = min(REST_SECONDS, deadline.remaining())
                self.ledger.wait_until(lambda: self._stopping or self.ledger.has_room(size), seconds)
        return super().wait_for_room(event, deadline, scope)

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Put events into the buffer; the receipt counts them as retained, or dropped as `"overflow"`."""
        if self.ledger.closed or not self._start():
            return super().send(events, deadline=deadline.earlier(_at_exit.deadline()))
        refused = [event for event in events if not self.put(event, deadline)]
        error = DroppedError("overflow", "there is no room in the buffer")
        waiting = Receipt.retaining(events, WAITING, DroppedError(WAITING, "the event is in the buffer"))
        return waiting.giving_up(refused, error) if refused else waiting

    def send_pending(
        self, deadline: Deadline, *, scope: Any = None, taking_over: Sequence[Flight] | None = None
    ) -> Receipt:
        """Send the events in the buffer and the collected events of a delivery scope, in this thread."""
        receipt = Receipt()
        for _ in range((self.ledger.kept - 1) // self._flush_at):
            part = Flight()
            receipt += self._fly(part, deadline, first=self._flush_at)
            if part.failed:
                return receipt + self.keep_collected(scope)
        return receipt + super().send_pending(deadline, scope=scope, taking_over=taking_over)

    def _transmit(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        with self.ledger.lock:
            self._new = min(self._new, self.ledger.kept)
        return super()._transmit(batch, deadline)

    def _note_new(self) -> None:
        """Count new events, including rejected ones; otherwise a full buffer would never be flushed again."""
        if not self._new:
            self._new_since = time.monotonic()
        self._new += 1
        wakes_too_late = self._new == 1 and self._wakes_at > self._new_since + self._flush_interval
        if wakes_too_late or (self._new >= self._flush_at and not self._sends_here()):
            self._changed.notify_all()

    def _start(self) -> bool:
        """Start the thread unless it runs. Return False at the end of the client or the process."""
        with self.ledger.lock:
            if self._stopping or _at_exit.deadline() is not None:
                return False
            # Not `is_alive()`: an interrupt in it marks a running thread as stopped (python/cpython#90882).
            if self._worker is not None:
                return True
            try:
                worker = self._worker = self._made_thread()
            except RuntimeError:  # a sub-interpreter may have no daemon threads
                return self._start_failed()
        try:
            # Outside the lock: an RLock created before gevent's monkey-patching is owned by every greenlet.
            worker.start()
        except RuntimeError as error:
            self._worker = None
            if "shutdown" in str(error):  # Python 3.12 and later
                return False
            return self._start_failed()
        return True

    def _made_thread(self) -> threading.Thread:
        lock, changed = self.ledger.lock, self._changed

        def wake(_: object) -> None:
            with lock:
                changed.notify_all()

        arguments = ref(self, wake), changed
        return threading.Thread(target=_empty, args=arguments, name="leanbase-buffer", daemon=True)

    def _start_failed(self) -> Literal[True]:
        if not self._cannot_start:
            self._cannot_start = True
            logger.warning("the sending thread cannot be started; events are sent by flush() and shutdown()")
        return True

    def _seconds_until_due(self, changed: threading.Condition) -> float | None:
        """Return the seconds until the next send, infinite without new events; `None` ends the thread."""
        if self._stopping or changed is not self._changed:  # closed, or reopened with a new ledger
            return None
        if not self._new:
            return math.inf
        if self._flushing or self.is_disabled():
            return self._flush_interval
        now = time.monotonic()
        due = now if self._new >= self._flush_at else self._new_since + self._flush_interval
        return max(due, self._not_before) - now

    def _send_due(self) -> None:
        with self.ledger.lock:
            untried = min(self._new, max(0, self.ledger.kept - self._flush_at))
        flight = Flight()
        try:
            receipt = self._fly(flight, Deadline.after(self._send_seconds), first=self._flush_at)
        except Exception as error:
            log_internal_error("the sending thread", error)
        else:
            if flight.failed:
                self._rest(receipt, untried)

    def _rest(self, receipt: Receipt, untried: int) -> None:
        """Do not retry until new events arrive, and not before `Retry-After` has elapsed (Q-12, Q-21)."""
        error = receipt.groups[-1].error
        with self.ledger.lock:
            self._new -= min(self._new, untried)
            self._new_since = time.monotonic()
            if isinstance(error, TransportError) and error.retry_after:
                self._not_before = self._new_since + error.retry_after

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Wait for the sends in flight. If they succeed, send the rest and flush the inner transport.

        Blocks until the deadline at the latest.
        """
        this = object()
        try:
            self._flushing.add(this)
            before = self._joined(self._others(), deadline)
            if before.has_retained:
                return before + self.waiting().without(before.retained_events())
            return before + super().flush(deadline=deadline)
        finally:
            self._flushing.discard(this)
            with self.ledger.lock:
                self._changed.notify_all()

    def attach(
        self,
        report: Report,
        is_disabled: Callable[[], bool],
        *,
        owner: Callable[[], object],
        reports_dropped: bool,
    ) -> Ledger:
        ledger = super().attach(report, is_disabled, owner=owner, reports_dropped=reports_dropped)
        self._begin()
        return ledger

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        with self.ledger.lock:
            self._stopping = True
            self._changed.notify_all()
        return super()._end(deadline, last_try=last_try)


def _empty(reference: ref[BufferedTransport], changed: threading.Condition) -> None:
    """Send events that are due until the buffer is closed or garbage-collected. Runs in the thread."""
    try:
        while True:
            with changed:
                transport = reference()
                seconds = None if transport is None else transport._seconds_until_due(changed)
                if transport is None or seconds is None:
                    return
                if seconds > 0:
                    if not transport.ledger.kept:
                        transport._forget()  # so that it can be garbage-collected with its client
                    seconds = min(seconds, LONGEST_WAIT_SECONDS)
                    transport._wakes_at = time.monotonic() + seconds
                    transport = None
                    changed.wait(seconds)
                    continue
            transport._send_due()
            transport = None  # otherwise this variable keeps it alive during the wait
    finally:
        transport = reference()
        if transport is not None and transport._changed is changed:
            transport._worker = None
