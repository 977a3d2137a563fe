"""SIGTERM: send what there is within the platform's grace, then do what would have been done without us."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterable
from weakref import WeakSet

from ..client import Leanbase
from ..default import default_client
from ..delivery.scope import DeliveryScope, unfinished_scopes
from ..forking import reset_in_child
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt
from ..waking import Waker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")

GRACES = (
    # With an internal extension Lambda waits 500 ms, with an external one 300 ms for the runtime.
    ("AWS_LAMBDA_FUNCTION_NAME", 0.3),
    ("VERCEL", 0.5),
    ("K_SERVICE", 10.0),  # Cloud Run services
    ("CLOUD_RUN_JOB", 10.0),
    ("RENDER", 30.0),
)
"""Seconds from SIGTERM to SIGKILL, by an environment variable that the platform sets."""

DEFAULT_GRACE_SECONDS = 10.0
"""That of `docker stop`, the shortest among those that set no variable."""

WAIT_SECONDS = 1.0
"""Most time that the end of the process waits beyond that for a flush that is under way."""

SHARE = 0.8
"""Of the grace; the rest is for what else the process has to end."""


def grace_seconds() -> float:
    """How long a flush at SIGTERM may take on this platform."""
    return SHARE * next((seconds for name, seconds in GRACES if name in os.environ), DEFAULT_GRACE_SECONDS)


class Termination:
    """Handles SIGTERM in front of whoever handles it already.

    The work is done in a thread while the program goes on: it may have been interrupted while it held a
    lock, or half-way through a send. The thread raises the signal again when it is done, and then, or if it
    comes a second time from outside, the previous handler has its turn. (An event loop of asyncio hears of
    signals in a way of its own, and has heard of this one.)
    """

    def __init__(self) -> None:
        self._clients: WeakSet[Leanbase] = WeakSet()
        self._holders = 0
        self._previous: list[Any] = []  # oldest first; more than one if somebody has wrapped ours
        self._passing = 0
        self._waits_at_exit = False
        self._waker: Waker | None = None
        # Not the generation: the signal may come before a forked child has counted itself.
        self._process = os.getpid()
        self._flushing: threading.Thread | None = None

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made here, and not in the process that this one was forked from."""
        return self._process == os.getpid()

    def install(self, client: Leanbase) -> bool:
        """Begin to handle the signal, for the events of this client as well; false where that is impossible.

        Only the main thread can; and a handler that is not of Python's cannot be followed by ours.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        current = signal.getsignal(signal.SIGTERM)
        if current is None:
            return False
        # The import lock must not be held when the signal comes: its flush would wait for it.
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
        """Undo one `install`; after the last the previous handler has the signal back, unless it is taken."""
        self._holders -= 1
        if not self._holders and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous.pop())

    def forget(self, client: Leanbase) -> None:
        """Let the signal take its course for a client that has sent everything, as its server has ended."""
        self._clients.discard(client)

    def _reset_after_fork(self) -> None:
        """Give the signal back in a forked child: what that inherits is not for it to send."""
        if self._previous and signal.getsignal(signal.SIGTERM) == self._handle:
            with contextlib.suppress(ValueError):  # only the main thread can
                signal.signal(signal.SIGTERM, self._previous[-1])

    def wait(self) -> None:
        """Wait for a flush that is under way; the signal that ends the process comes during it."""
        flushing = self._flushing
        if flushing is not None and self.is_of_this_process:
            flushing.join(grace_seconds() + WAIT_SECONDS)

    def _handle(self, signum: int, frame: Any) -> None:
        # What a forked child inherits is not for it to send.
        if self._clients and not self._passing and self._flushing is None and self.is_of_this_process:
            self._flushing = threading.Thread(target=self._flush, args=(signum,), daemon=True)
            try:
                self._flushing.start()
                # Once more, so that it is the first of the exit hooks: those of the transports would say that
                # what this flush is just sending is lost.
                atexit.register(self.wait)
                return
            except RuntimeError:
                pass  # the interpreter is shutting down
        self._flushing = None
        self._pass_on(signum, frame)

    def _pass_on(self, signum: int, frame: Any) -> None:
        """Let the previous handler have it; and if that one calls us, the one before."""
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
        # uvicorn goes on taking requests until it hears of the signal, and then waits for those in hand.
        is_waited_for = "uvicorn" in getattr(previous, "__module__", "")
        seconds = min(grace_seconds(), WAIT_SECONDS) if is_waited_for else grace_seconds()
        try:
            flush_all(list(self._clients), Deadline.after(seconds, "full"))
        finally:
            if self._previous and _is_of_asyncio(self._previous[-1]):
                self._flushing = None  # there is no second signal that would find it done
            else:
                # To the main thread: it wakes from whatever it waits for.
                signal.pthread_kill(threading.main_thread().ident or 0, signum)


def _is_of_asyncio(handler: Any) -> bool:
    """Whether it only stands for what `loop.add_signal_handler` was given."""
    named = getattr(handler, "__module__", ""), getattr(handler, "__name__", "")
    return named == ("asyncio.unix_events", "_sighandler_noop")


def flush_all(clients: Iterable[Leanbase], deadline: Deadline) -> None:
    """Send everything that is collected in open scopes, in flight for them, or retained by the clients."""
    latest: dict[Leanbase, Receipt] = {}
    lost: set[str] = set()
    for scope in unfinished_scopes() or [DeliveryScope()]:
        scope.closed = True  # events that are captured from now on leave at once
        for client in clients:
            receipt = latest[client] = client._send_scope(scope, deadline)  # with what was retained so far
            lost |= {each.uuid for each in receipt.undelivered if each.outcome == "dropped"}
    lost |= {each.uuid for receipt in latest.values() for each in receipt.undelivered}
    if lost:
        logger.error("%d event(s) are not delivered, and lost when the process ends", len(lost))


_latest: Termination | None = None


def termination() -> Termination:
    """The one of this process."""
    global _latest
    if _latest is None or not _latest.is_of_this_process:
        _latest = Termination()
    return _latest


def install_sigterm_handler(client: Leanbase | None = None) -> bool:
    """Send what there is when the process gets SIGTERM, before it ends.

    `lambda_handler` and `job` do this by themselves. For other programs on Render, Cloud Run, Vercel or in
    a container, call it in the main thread, after anything else that handles SIGTERM is installed: that
    handler has its turn when the events are sent (one of an asyncio loop at once, while they are sent, and
    the end of the process waits for them). It takes at most 80 % of the platform's grace (Lambda
    0.3 s, Vercel 0.5 s, Cloud Run 10 s, Render 30 s, elsewhere 10 s); what is not delivered in that time
    goes to the fallback or the spool, if there is one, and is lost if there is none.

    Args:
        client: Whose retained and buffered events are sent, besides what open delivery scopes have collected.
            Default: the default client. Call it again for another one.

    Returns:
        Whether it is installed: not outside the main thread, and not behind a handler that is not Python's.
        Does not block. Never raises.

    Example:
        >>> import leanbase
        >>> leanbase.install_sigterm_handler()
        True
    """
    if client is not None and not isinstance(client, Leanbase):
        logger.error("install_sigterm_handler() takes a Leanbase, not %s", type(client).__name__)
        return False
    try:
        installed = termination().install(client or default_client)
        if not installed:
            logger.warning(
                "SIGTERM is not handled: that takes the main thread, and no handler but Python's before it"
            )
        return installed
    except Exception as error:
        logger.error("install_sigterm_handler(): internal error %s; please report it", type(error).__name__)
        return False
