"""On SIGTERM, flush pending events within the platform's grace period, then run the previous handler."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterable
from weakref import WeakSet

from ..client import Leanbase
from ..delivery.scope import DeliveryScope, unfinished_scopes
from ..forking import reset_in_child
from ..messages import log_lost_at_exit
from ..transports import _at_exit
from ..transports.deadline import Deadline
from ..waking import Waker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..transports.receipt import Receipt

WAIT_SECONDS = 1.0
"""Seconds beyond the limit of a flush for which the exit of the process waits for it.

Also the maximum seconds of a flush under uvicorn.
"""

SHARE = 0.8
"""The maximum share of the grace period for a flush. The rest is for other work before the exit."""


def grace_seconds(clients: Iterable[Leanbase]) -> float:
    """Return the maximum seconds for a flush of these clients at SIGTERM.

    The grace period is the shortest `sigterm_grace` of the clients. Default: that of the platform.
    """
    from .platforms import current_platform

    chosen = [seconds for client in clients if (seconds := client._sigterm_grace()) is not None]
    return SHARE * min(chosen, default=current_platform().grace)


class Termination:
    """Handles SIGTERM before the previous handler does.

    A thread sends while the program continues: the signal may have interrupted the program while it held a
    lock, or during a send. After the send, the thread raises the signal again, and the previous handler runs.
    A second SIGTERM runs the previous handler earlier. (An asyncio event loop has already received the first
    signal, through its own pipe. So the thread does not raise it again.)
    """

    def __init__(self) -> None:
        self._clients: WeakSet[Leanbase] = WeakSet()
        self._holders = 0
        self._previous: list[Any] = []  # oldest first; more than one if another handler wraps this one
        self._passing = 0
        self._waits_at_exit = False
        self._waker: Waker | None = None
        # Not the fork generation: in a forked child, the signal may arrive before its update.
        self._process = os.getpid()
        self._flushing: threading.Thread | None = None

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process created it, not the parent from which this process was forked."""
        return self._process == os.getpid()

    def install(self, client: Leanbase) -> bool:
        """Handle SIGTERM, and send the events of `client` when it arrives.

        Return False outside the main thread, or if the current handler was not installed from Python.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        current = signal.getsignal(signal.SIGTERM)
        if current is None:
            return False
        # Import now: if the signal interrupts an import, an import in the flush would wait for its lock.
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
        """Do not send for this client at SIGTERM: its server is ending and has sent all events."""
        self._clients.discard(client)

    def _reset_after_fork(self) -> None:
        """Restore the previous handler in a forked child, which must not send its parent's events."""
        if self._previous and signal.getsignal(signal.SIGTERM) == self._handle:
            with contextlib.suppress(ValueError):  # raised outside the main thread
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
                # Register again, so that this exit hook runs first: the exit hooks of the transports would
                # report events as lost that this flush is sending.
                atexit.register(self.wait)
                return
            except RuntimeError:
                pass  # the interpreter is shutting down
        self._flushing = None
        self._pass_on(signum, frame)

    def _pass_on(self, signum: int, frame: Any) -> None:
        """Call the previous handler. If it calls this handler in turn, call the one before it."""
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
            _at_exit.begin(seconds, seconds / SHARE)  # limits the sends after this flush, too
            flush_all(
                clients,
                Deadline.after(min(seconds, WAIT_SECONDS) if is_waited_for else seconds, "full"),
                is_last=not callable(previous),
            )
        finally:
            if self._previous and _is_of_asyncio(self._previous[-1]):
                self._flushing = None  # no second signal follows that would reset it
            else:
                # To the main thread, to interrupt its blocking calls.
                signal.pthread_kill(threading.main_thread().ident or 0, signum)


def _is_of_asyncio(handler: Any) -> bool:
    """Return True if `handler` is the placeholder that `loop.add_signal_handler` installs."""
    named = getattr(handler, "__module__", ""), getattr(handler, "__name__", "")
    return named == ("asyncio.unix_events", "_sighandler_noop")


def flush_all(clients: Collection[Leanbase], deadline: Deadline, *, is_last: bool) -> None:
    """Send all events that open scopes have collected or in flight, or that the clients have retained.

    With `is_last`, no exit hook runs after this flush, so it logs how many events are lost.
    """
    latest: dict[Leanbase, Receipt] = {}
    for scope in unfinished_scopes() or [DeliveryScope()]:
        scope.closed = True  # events that are captured from now on are sent at once
        for client in clients:
            latest[client] = client._send_scope(scope, deadline)  # with the events retained so far
    retained = {
        each.uuid
        for receipt in latest.values()
        for each in receipt.undelivered
        if each.outcome == "retained"  # other events were reported when they were dropped
    }
    if retained and is_last:
        log_lost_at_exit(len(retained))


_latest: Termination | None = None


def termination() -> Termination:
    """Return the `Termination` of this process."""
    global _latest
    if _latest is None or not _latest.is_of_this_process:
        _latest = Termination()
    return _latest
