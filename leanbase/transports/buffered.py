"""A bounded buffer in memory and one thread that empties it, for services that live long."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from ..errors import DroppedError, TransportError
from ..events.encoding import EncodedEvent
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
"""So often at least the thread looks whether its buffer is still there."""


class BufferedTransport(RetainingTransport):
    """Takes events without a wait; a thread sends them when enough have gathered or waited long enough.

    What could not be delivered waits in the same buffer and goes out first with the next send; nothing is
    sent without new events, a flush, or the end of the process. A full buffer refuses new events.

    The thread starts with the first event. At the exit of the interpreter what is left is sent, within 2 s; a
    `shutdown()` of the client before that has more time. Inside a delivery scope nothing is buffered:
    its events leave when it closes.

    Args:
        inner: Where events go.
        flush_at: As many new events are sent at once.
        flush_interval: Most seconds that a new event waits.
        max_queue_size: Most events in the buffer.
        max_queue_bytes: Most bytes of them.
        send_deadline: Most seconds for one send of the thread.
        waits_for_room: Whether a full buffer, with what is in flight, makes the caller wait for room, up to
            the deadline of its send.

    Example:
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
        self._flushing: set[object] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> BufferedTransport:
        """Make one around HTTP."""
        from .http import HttpTransport

        return cls.around(HttpTransport.from_settings(settings), settings)

    @classmethod
    def around(cls, inner: BaseTransport, settings: Settings) -> BufferedTransport:
        """Make one around any transport, with the client's limits."""
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
        """Put an event into the buffer; false, and dropped as `"overflow"`, when it does not fit."""
        if self._start():
            if event.scope is not None:
                self._scopes.add(event.scope)
            with self.ledger.lock:
                buffered = not self._stopping
                if buffered:
                    admitted = self.ledger.keep(event)
                    self._note_new()
            if buffered:
                self._watch()  # not under the lock: under gevent another greenlet may have its turn in this
                return admitted or self._refuse(event)
        # Nobody would empty the buffer any more.
        return super().put(event, deadline.earlier(_at_exit.deadline()), scope)

    def wait_for_room(self, event: EncodedEvent, deadline: Deadline, scope: Any = None) -> bool:
        """Let the thread make room for an event; else, and in a scope, as every transport."""
        if scope is None and self._start() and not self._cannot_start:
            size = len(event)
            while not (self._stopping or deadline.expired or self.ledger.has_room(size) or self.is_sending()):
                with self.ledger.lock:
                    self._new = max(self._new, self._flush_at)  # a reason to send what fills the buffer
                    self._changed.notify_all()
                seconds = min(REST_SECONDS, deadline.remaining())
                self.ledger.wait_until(lambda: self._stopping or self.ledger.has_room(size), seconds)
        return super().wait_for_room(event, deadline, scope)

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Put events into the buffer: retained for now. What does not fit is dropped as `"overflow"`."""
        if self.ledger.closed or not self._start():
            return super().send(events, deadline=deadline.earlier(_at_exit.deadline()))
        refused = [event for event in events if not self.put(event, deadline)]
        error = DroppedError("overflow", "there is no room in the buffer")
        waiting = Receipt.retaining(events, WAITING, DroppedError(WAITING, "it is in the buffer"))
        return waiting.giving_up(refused, error) if refused else waiting

    def send_pending(
        self, deadline: Deadline, *, scope: Any = None, over: Sequence[Flight] | None = None
    ) -> Receipt:
        """Send what is in the buffer, and what a delivery scope has collected, in this thread."""
        receipt = Receipt()
        for _ in range((self.ledger.kept - 1) // self._flush_at):
            part = Flight()
            receipt += self._fly(part, deadline, first=self._flush_at)
            if part.failed:
                return receipt + self.keep_collected(scope)
        return receipt + super().send_pending(deadline, scope=scope, over=over)

    def _transmit(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        with self.ledger.lock:
            self._new = min(self._new, self.ledger.kept)
        return super()._transmit(batch, deadline)

    def _note_new(self) -> None:
        """Count new events, including rejected ones; otherwise a full buffer would never be flushed again."""
        if not self._new:
            self._new_since = time.monotonic()
        self._new += 1
        if self._new == 1 or self._new >= self._flush_at:
            self._changed.notify_all()

    def _start(self) -> bool:
        """Start the thread, unless it runs; false at the end of the client or the process."""
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
            # Outside the lock: an RLock made before gevent's monkey-patching is owned by every greenlet.
            worker.start()
        except RuntimeError as error:
            self._worker = None
            if "shutdown" in str(error):  # says Python from 3.12 on
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
            logger.warning("no thread can be started; events are sent on flush() and shutdown()")
        return True

    def _seconds_until_due(self, changed: threading.Condition) -> float | None:
        """How long there is nothing to send: infinite if nothing waits; `None` when it is time to end."""
        if self._stopping or changed is not self._changed:  # the books were closed, or made anew
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
            logger.error("internal error %s; please report it", type(error).__name__)
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
        """Wait for what is in flight, and if that goes well, send the rest and flush the inner transport."""
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
        self, report: Report, is_disabled: Callable[[], bool], *, owner: Callable[[], object], tells: bool
    ) -> Ledger:
        """Attach this transport to the client that owns it. Reopens a closed transport, with new books."""
        ledger = super().attach(report, is_disabled, owner=owner, tells=tells)
        self._begin()
        return ledger

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        with self.ledger.lock:
            self._stopping = True
            self._changed.notify_all()
        return super()._end(deadline, last_try=last_try)


def _empty(reference: ref[BufferedTransport], changed: threading.Condition) -> None:
    """Send what is due, until the buffer is closed, or gone with its client. Runs in the thread."""
    try:
        while True:
            with changed:
                transport = reference()
                seconds = None if transport is None else transport._seconds_until_due(changed)
                if transport is None or seconds is None:
                    return
                if seconds > 0:
                    if not transport.ledger.kept:
                        transport._forget()  # so that it can go with its client
                    transport = None
                    changed.wait(min(seconds, LONGEST_WAIT_SECONDS))
                    continue
            transport._send_due()
            transport = None  # or it would be kept alive until the loop comes round
    finally:
        transport = reference()
        if transport is not None and transport._changed is changed:
            transport._worker = None
