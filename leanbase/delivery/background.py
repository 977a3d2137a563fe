"""Sends in background threads, for callers that must not wait: event loops and threaded servers.

The ledger of a client's transport holds the events to send. One send takes all of them, so scopes that close
while all threads are busy share the next send.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..forking import reset_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..transports.deadline import LastChance
    from ..transports.receipt import Receipt

    class Sender(Protocol):
        """A client's outbox."""

        def flush(self, *, timeout: float, last_chance: LastChance) -> Receipt: ...

        def send_kept(self, *, waits: bool) -> bool: ...


logger = logging.getLogger("leanbase")

MOST_THREADS = 4
"""The maximum number of clients that send at the same time. The sends of one client never overlap."""

IDLE_SECONDS = 10.0
"""Seconds that an idle thread waits for more work before it ends."""

REST_SECONDS = 0.5
"""Seconds that a client is skipped after a failed send, unless a caller waits for its events."""


class _Task:
    """The scheduled or running send of one client."""

    __slots__ = ("callbacks", "is_running", "is_wanted", "not_before")

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], object]] = []
        self.is_wanted = False
        self.is_running = False
        self.not_before = 0.0

    def seconds_until_due(self, now: float) -> float | None:
        """Return the seconds until the send is due, or `None` if there is nothing to start."""
        if self.is_running or not self.is_wanted:
            return None
        return 0.0 if self.callbacks else max(0.0, self.not_before - now)


class BackgroundSender:
    """Up to MOST_THREADS daemon threads, which start when there are events to send and end when idle."""

    def __init__(self) -> None:
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._tasks: dict[Sender, _Task] = {}
        self._threads = 0
        self._idle = 0

    def send(self, sender: Sender, done: Callable[[], object] | None = None) -> None:
        """Schedule a send of a client's pending events. Does not block.

        Args:
            sender: The client's outbox.
            done: Called, in any thread, once a send of all events pending now was tried. Because its caller
                waits, the send does not wait `REST_SECONDS` after a failure.
        """
        with self._lock:
            task = self._tasks.setdefault(sender, _Task())
            task.is_wanted = True
            if done is not None:
                task.callbacks.append(done)
            starts = not self._idle and self._threads < MOST_THREADS
            self._threads += starts
            self._changed.notify()
        if starts:
            self._start()

    def pending(self) -> list[Sender]:
        """Return the outboxes that have a send scheduled or running."""
        with self._lock:
            return [sender for sender, task in self._tasks.items() if task.is_wanted or task.is_running]

    def _start(self) -> None:
        reset_in_child(self)
        try:
            threading.Thread(target=self._work, name="leanbase-sender", daemon=True).start()
        except RuntimeError:  # at the end of the process, or in a sub-interpreter
            with self._lock:
                self._threads -= 1
                tasks = list(self._tasks.values())
                self._tasks.clear()
            for task in tasks:  # the next send, or the exit hook, sends the pending events
                for done in task.callbacks:
                    done()

    def _work(self) -> None:
        while (chosen := self._next()) is not None:
            sender, task, callbacks = chosen
            try:
                failed = not sender.send_kept(waits=bool(callbacks))
            except BaseException as error:  # a callback of the application may even raise SystemExit
                logger.error(
                    "a background send was ended by %s; its events are retained", type(error).__name__
                )
                failed = True
            with self._lock:
                task.is_running = False
                task.not_before = time.monotonic() + REST_SECONDS if failed else 0.0
                self._changed.notify()
            for done in callbacks:
                done()

    def _next(self) -> tuple[Sender, _Task, list[Callable[[], object]]] | None:
        """Wait for the next due send and take it; return `None` when this thread must end."""
        with self._lock:
            until = time.monotonic() + IDLE_SECONDS
            while True:
                now = time.monotonic()
                soonest = until - now
                for sender, task in list(self._tasks.items()):
                    seconds = task.seconds_until_due(now)
                    if seconds == 0.0:
                        callbacks, task.callbacks = task.callbacks, []
                        task.is_wanted, task.is_running = False, True
                        return sender, task, callbacks
                    if seconds is not None:
                        soonest = min(soonest, seconds)
                        until = max(until, now + seconds)
                    elif not task.is_running and now >= task.not_before:
                        del self._tasks[sender]
                if soonest <= 0:
                    self._threads -= 1
                    return None
                self._idle += 1
                try:
                    self._changed.wait(soonest)
                finally:
                    self._idle -= 1


background = BackgroundSender()
