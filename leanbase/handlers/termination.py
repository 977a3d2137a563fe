"""On SIGTERM, flush pending events within the platform's grace period, then run the previous handler."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from weakref import WeakSet

from ..client import Leanbase
from ..delivery.scope import DeliveryScope, unfinished_scopes
from ..forking import reset_in_child
from ..messages import log_lost_at_exit
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt
from ..waking import Waker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAIT_SECONDS = 1.0
"""Seconds that the exit of the process waits for a running flush, beyond the limit of the flush.

Also the limit of a flush under uvicorn.
"""

SHARE = 0.8
"""The share of the grace period that a flush may take. The rest is for other work before the exit."""


def grace_seconds(clients: Iterable[Leanbase]) -> float:
    """Return the maximum number of seconds that a flush of these clients at SIGTERM may take.

    The shortest `sigterm_grace` of the clients counts. Without one, the platform's usual grace period counts.
    """
    from .platforms import current_platform

    chosen = [seconds for client in clients if (seconds := client._sigterm_grace()) is not None]
    return SHARE * min(chosen, default=current_platform().grace)


class Termination:
    """Handles SIGTERM before the previous handler does.

    A thread sends while the program goes on: the signal may have interrupted the program while it held a
    lock, or half-way through a send. When the thread has finished, it raises the signal again, and the
    previous handler runs. The previous handler also runs if a second SIGTERM arrives earlier. (An asyncio
    event loop receives signals through a pipe of its own. It already knows of the first signal, so the
    thread does not raise it again.)
    """

    def __init__(self) -> None:
        self._clients: WeakSet[Leanbase] = WeakSet()
        self._holders = 0
        self._previous: list[Any] = []  # oldest first; more than one if another handler wraps this one
        self._passing = 0
        self._waits_at_exit = False
        self._waker: Waker | None = None
        # Not the fork generation: the signal may arrive before a forked child has updated it.
        self._process = os.getpid()
        self._flushing: threading.Thread | None = None

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was created in this process, and not in the process that this one was forked from."""
        return self._process == os.getpid()

    def install(self, client: Leanbase) -> bool:
        """Handle SIGTERM, and send the events of `client` when it arrives.

        Return False where this is impossible: outside the main thread, or if the current handler was not
        installed from Python.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        current = signal.getsignal(signal.SIGTERM)
        if current is None:
            return False
        # Import what the flush needs now: if the signal interrupted an import, it would wait for its lock.
        from . import platforms  # noqa: F401

        client._warm_up(0.0)
        self._clients.add(client)
        self._holders += 1
        if current != self._handle:
            self._previous.append(current)
            signal.signal(signal.SIGTERM, self._handle)
        if self._waker is None:
            reset_in_child(self)
            self._waker = Waker(signal.SIGTERM)
            self._waker.start()
        if not self._waits_at_exit:
            self._waits_at_exit = True
            atexit.register(self.wait)
        return True

    def uninstall(self) -> None:
        """Undo one `install`. The last one restores the previous handler, unless a newer one is set."""
        self._holders -= 1
        if not self._holders and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous.pop())

    def forget(self, client: Leanbase) -> None:
        """Stop sending for a client at SIGTERM: its server is ending, and it has sent everything."""
        self._clients.discard(client)

    def _reset_after_fork(self) -> None:
        """Restore the previous handler in a forked child, which must not send its parent's events."""
        if self._previous and signal.getsignal(signal.SIGTERM) == self._handle:
            with contextlib.suppress(ValueError):  # only the main thread can
                signal.signal(signal.SIGTERM, self._previous[-1])

    def wait(self) -> None:
        """Wait for a running flush. The signal that ends the process arrives during the wait."""
        flushing = self._flushing
        if flushing is not None and self.is_of_this_process:
            flushing.join(grace_seconds(list(self._clients)) + WAIT_SECONDS)

    def _handle(self, signum: int, frame: Any) -> None:
        # A forked child must not send the events that it inherited from its parent.
        if self._clients and not self._passing and self._flushing is None and self.is_of_this_process:
            self._flushing = threading.Thread(target=self._flush, args=(signum,), daemon=True)
            try:
                self._flushing.start()
                # Registered again, so that it runs first of all exit hooks: those of the transports would
                # report events as lost that this flush is sending.
                atexit.register(self.wait)
                return
            except RuntimeError:
                pass  # the interpreter is shutting down
        self._flushing = None
        self._pass_on(signum, frame)

    def _pass_on(self, signum: int, frame: Any) -> None:
        """Call the previous handler. If that one calls this one, call the handler before it."""
        position = len(self._previous) - 1 - self._passing
        previous = self._previous[position] if position >= 0 else signal.SIG_IGN
        self._passing += 1
        try:
            if callable(previous):
                previous(signum, frame)
            elif previous == signal.SIG_DFL:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
        finally:
            self._passing -= 1

    def _flush(self, signum: int) -> None:
        previous = self._previous[-1] if self._previous else None
        # uvicorn accepts requests until it receives the signal, and then waits for the requests in progress.
        is_waited_for = "uvicorn" in getattr(previous, "__module__", "")
        try:
            clients = list(self._clients)
            seconds = grace_seconds(clients)
            flush_all(
                clients, Deadline.after(min(seconds, WAIT_SECONDS) if is_waited_for else seconds, "full")
            )
        finally:
            if self._previous and _is_of_asyncio(self._previous[-1]):
                self._flushing = None  # no second signal follows, which would reset it
            else:
                # Sent to the main thread, because that interrupts its blocking calls.
                signal.pthread_kill(threading.main_thread().ident or 0, signum)


def _is_of_asyncio(handler: Any) -> bool:
    """Return True if `handler` is the placeholder that `loop.add_signal_handler` installs."""
    named = getattr(handler, "__module__", ""), getattr(handler, "__name__", "")
    return named == ("asyncio.unix_events", "_sighandler_noop")


def flush_all(clients: Iterable[Leanbase], deadline: Deadline) -> None:
    """Send all events that are collected in open scopes, in flight for them, or retained by the clients."""
    latest: dict[Leanbase, Receipt] = {}
    lost: set[str] = set()
    for scope in unfinished_scopes() or [DeliveryScope()]:
        scope.closed = True  # events that are captured from now on leave at once
        for client in clients:
            receipt = latest[client] = client._send_scope(scope, deadline)  # with the events retained so far
            lost |= {each.uuid for each in receipt.undelivered if each.outcome == "dropped"}
    lost |= {each.uuid for receipt in latest.values() for each in receipt.undelivered}
    if lost:
        log_lost_at_exit(len(lost))


_latest: Termination | None = None


def termination() -> Termination:
    """Return the `Termination` of this process."""
    global _latest
    if _latest is None or not _latest.is_of_this_process:
        _latest = Termination()
    return _latest
