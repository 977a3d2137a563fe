"""A bounded buffer in memory and one thread that empties it, for services that live long."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from leanbase.delivery import Deadline, Elapsed, Receipt
from leanbase.encoding import EncodedEvent
from leanbase.errors import DroppedError
from leanbase.transports.base import BaseTransport
from leanbase.transports.retaining import WAITING, RetainingTransport

if TYPE_CHECKING:
    from leanbase.settings import Settings

logger = logging.getLogger("leanbase")

EXIT_SECONDS = 2.0
"""Most time that all buffers together may hold up the end of the interpreter (Q-52)."""

CAPACITY_WARNING_SECONDS = 60.0


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
        self._flush_at = flush_at
        self._flush_interval = flush_interval
        self._send_seconds = send_deadline
        self._waits_for_room = waits_for_room
        self._cannot_start = False
        super().__init__(inner, limit=max_queue_size)

    def _own_process(self) -> None:
        super()._own_process()
        self._changed = threading.Condition(self._lock)
        self._worker: threading.Thread | None = None
        self._stopping = False
        self._new = 0
        self._new_since = 0.0
        self._warned: Elapsed | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> BufferedTransport:
        """Make one around HTTP."""
        from leanbase.transports.http import HttpTransport

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
        with self._lock:
            if self._closed:
                return self.keep(events)
            if self._waits_for_room:
                self._changed.wait_for(
                    lambda: self._closed or self._room() >= len(events), deadline.remaining()
                )
            taken, refused = events[: self._room()], events[self._room() :]
            self._kept.extend(taken)
            if taken:
                self._new_since = self._new_since if self._new else time.monotonic()
                self._new += len(taken)
                self._start()
                if self._new == len(taken) or self._new >= self._flush_at:
                    self._changed.notify_all()
        receipt = Receipt.retaining(taken, WAITING, DroppedError(WAITING, "it waits in the buffer"))
        return receipt if not refused else receipt + self._refuse(refused)

    def send_now(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send what is in the buffer and then `events`, in this thread."""
        with self._lock:
            self._new = 0
        try:
            return super().send_now(events, deadline=deadline)
        finally:
            with self._lock:
                self._changed.notify_all()  # there may be room now

    def _room(self) -> int:
        return max(0, self._limit - len(self._kept))

    def _refuse(self, events: Sequence[EncodedEvent]) -> Receipt:
        error = DroppedError("overflow", f"the buffer is full: max_queue_size is {self._limit}")
        if self._warned is None or self._warned.seconds() >= CAPACITY_WARNING_SECONDS:
            self._warned = Elapsed()
            logger.warning("%s; new events are dropped", error)
        return Receipt.dropping(events, "overflow", error)

    def _start(self) -> None:
        """Start the thread, unless it runs. Called with the lock held."""
        if self._worker is not None and self._worker.is_alive():
            return
        _at_exit.add(self)
        worker = threading.Thread(target=self._run, name="leanbase-buffer", daemon=True)
        try:
            worker.start()
        except RuntimeError:  # the interpreter is ending, or there are too many
            if not self._cannot_start:
                logger.warning("no thread can be started; events are sent on flush() and shutdown()")
            self._cannot_start = True
        else:
            self._worker = worker

    def _run(self) -> None:
        while self._wait_until_due():
            try:
                self.settle(self.send_now((), deadline=Deadline.after(self._send_seconds)))
            except Exception as error:
                logger.error("internal error %s; please report it", type(error).__name__)

    def _wait_until_due(self) -> bool:
        """Wait until there is something to send; false when there will be nothing any more."""
        with self._lock:
            while not self._stopping:
                if not self._new or self.is_paused():
                    self._changed.wait(None if not self._new else self._flush_interval)
                    continue
                left = self._new_since + self._flush_interval - time.monotonic()
                if self._new >= self._flush_at or left <= 0:
                    return True
                self._changed.wait(left)
            return False

    def _end(self, deadline: Deadline, *, last_try: bool) -> Receipt:
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
        _at_exit.discard(self)
        return super()._end(deadline, last_try=last_try)


_at_exit: WeakSet[BufferedTransport] = WeakSet()


def _flush_all() -> None:
    deadline = Deadline.after(EXIT_SECONDS)
    for transport in list(_at_exit):
        if not transport.is_paused():
            transport.settle(transport.flush(deadline=deadline))


atexit.register(_flush_all)
