"""A call_with_timeout buffer in memory and one thread that empties it, for services that live long."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from .. import forking
from ..errors import TransportError
from ..events.encoding import EncodedEvent
from ._retaining import RetainingTransport, UnderWay
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt

if TYPE_CHECKING:
    from ..settings import Settings

logger = logging.getLogger("leanbase")

EXIT_SECONDS = 2.0
"""Most time that all buffers together may hold up the end of the interpreter (Q-52)."""


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
        send_deadline: Most seconds for one send of the thread.
        waits_for_room: Whether a full buffer makes the caller wait, up to the deadline of its send.

    Example:
        >>> from leanbase.transports import HttpTransport
        >>> transport = BufferedTransport(HttpTransport("phc_key", "https://leanbase.example.com"))
    """

    requires = ("api_key", "host")

    def __init__(
        self,
        inner: BaseTransport,
        *,
        flush_at: int = 100,
        flush_interval: float = 5.0,
        max_queue_size: int = 10_000,
        send_deadline: float = 10.0,
        waits_for_room: bool = False,
    ) -> None:
        self._flush_at = max(1, min(flush_at, max_queue_size))
        self._flush_interval = flush_interval
        self._send_seconds = send_deadline
        self._waits_for_room = waits_for_room
        self._cannot_start = False
        super().__init__(inner, limit=max_queue_size)

    def _reset_after_fork(self) -> None:
        super()._reset_after_fork()
        self._changed = threading.Condition(self._lock)
        self._worker: threading.Thread | None = None
        self._stopping = self._closed
        self._new = 0
        self._new_since = 0.0
        self._not_before = 0.0
        self._flushing = 0

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
            send_deadline=settings.send_deadline,
            waits_for_room=settings.historical_migration,
        )

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Put events into the buffer: retained for now. What does not fit is dropped as `"overflow"`."""
        if self._start():
            with self._lock:
                if self._waits_for_room and not self._has_room():
                    self._note_new(1)  # a reason to try again what fills the buffer
                    self._changed.wait_for(lambda: self._stopping or self._has_room(), deadline.remaining())
                if not self._stopping:
                    receipt = self.keep(events)
                    self._note_new(len(events))
                    return receipt
        # Nobody would empty the buffer any more.
        return self.send_now(events, deadline=deadline.earlier(_exit))

    def send_now(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what is in the buffer and then `events`, in this thread and past the buffer."""
        with self._lock:
            count = len(self._kept)
        receipt = Receipt()
        while count > self._flush_at:
            part = self._finish(self._take(self._flush_at), deadline)
            receipt += part
            count -= self._flush_at
            if not part:
                return receipt + self.keep(events)
        return receipt + self._finish(self._take(count, events), deadline)

    def _take(self, count: int, events: Sequence[EncodedEvent] = ()) -> UnderWay:
        """Begin to send the oldest in the buffer, and `events` with them."""
        with self._lock:
            taken, self._kept = self._kept[:count], self._kept[count:]
            self._new = min(self._new, len(self._kept))
            self._changed.notify_all()  # there is room
            return self._begin([*taken, *events])

    def _has_room(self) -> bool:
        return len(self._kept) < self._limit

    def _note_new(self, count: int) -> None:
        """Count what is new, also what did not fit: or a full buffer would never be tried again."""
        if not self._new:
            self._new_since = time.monotonic()
        self._new += count
        if self._new == count or self._new >= self._flush_at:
            self._changed.notify_all()

    def _start(self) -> bool:
        """Start the thread, unless it runs; false at the end of the client or the process."""
        with self._lock:
            if self._stopping or _exit is not None:
                return False
            worker = self._worker
            if worker is not None and (worker.is_alive() or worker.ident is None):
                return True
            worker = self._worker = threading.Thread(target=self._run, name="leanbase-buffer", daemon=True)
        _at_exit.add(self)
        try:
            # Without the lock: one from before a patch by gevent all greenlets own together.
            worker.start()
        except RuntimeError as error:
            self._worker = None
            if "shutdown" in str(error):  # says Python from 3.12 on
                return False
            if not self._cannot_start:
                logger.warning("no thread can be started; events are sent on flush() and shutdown()")
            self._cannot_start = True
        else:
            _close_all_in_child()
        return True

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wait_until_due():
                    return
                batch = self._take(self._flush_at)
                untried = self._new
            receipt = self._finish(batch, Deadline.after(self._send_seconds))
            try:
                self.settle(receipt)
            except Exception as error:
                logger.error("internal error %s; please report it", type(error).__name__)
            if not receipt:
                self._rest(receipt, untried)

    def _wait_until_due(self) -> bool:
        """Wait until there is something to send; false when it is time to end. Called with the lock held."""
        while not self._stopping:
            if not self._new or self._flushing or self.is_paused():
                self._changed.wait(self._flush_interval if self._new else None)
                continue
            now = time.monotonic()
            due = now if self._new >= self._flush_at else self._new_since + self._flush_interval
            wait = max(due, self._not_before) - now
            if wait <= 0:
                return True
            self._changed.wait(wait)
        return False

    def _rest(self, receipt: Receipt, untried: int) -> None:
        """Leave it at that until there are new events, and as long as the server asked for (Q-12, Q-21)."""
        error = receipt.groups[-1].error
        with self._lock:
            self._new -= min(self._new, untried)
            self._new_since = time.monotonic()
            if isinstance(error, TransportError) and error.retry_after:
                self._not_before = self._new_since + error.retry_after

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Wait for what is under way, and if that goes well, send the rest and flush the inner transport."""
        with self._lock:
            self._flushing += 1
        try:
            return super().flush(deadline=deadline) if self.join(deadline) else self.waiting()
        finally:
            with self._lock:
                self._flushing -= 1
                self._changed.notify_all()

    def attach(self, settle: Callable[[Receipt], object], is_paused: Callable[[], bool]) -> None:
        """Belong to one client from now on. One that was closed opens again."""
        super().attach(settle, is_paused)
        self._stopping = False

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
        _at_exit.discard(self)
        return super()._end(deadline, last_try=last_try)


_at_exit: WeakSet[BufferedTransport] = WeakSet()
_exit: Deadline | None = None
"""When the end of the process has begun: the time by which all buffers are to be through with it."""


def _close_all() -> None:
    global _exit
    _exit = Deadline.after(EXIT_SECONDS)
    for transport in list(_at_exit):
        try:
            if not transport.is_paused():
                transport.settle(transport.close(deadline=_exit))
        except Exception as error:  # the next one is to have its turn
            logger.error("internal error %s; please report it", type(error).__name__)


atexit.register(_close_all)

_closes_after: int | None = None


def _close_all_in_child() -> None:
    """Forked children of multiprocessing are to come by here, too: before 3.13 they skip `atexit`."""
    global _closes_after
    process, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
    if process and util and process.parent_process() is not None and _closes_after != forking.generation:
        _closes_after = forking.generation
        util.Finalize(None, _close_all, exitpriority=0)
