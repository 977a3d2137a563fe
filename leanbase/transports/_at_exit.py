"""The end of the process: what a transport still has gets one more attempt, and what is lost is said.

Nothing is registered before a transport has something that could be lost.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .. import forking
from .deadline import Deadline

if TYPE_CHECKING:
    from ._retaining import RetainingTransport

logger = logging.getLogger("leanbase")

EXIT_SECONDS = 2.0
"""Most time that all clients together may hold up the end of the process (Q-52)."""

_watched: WeakSet[RetainingTransport] = WeakSet()
_registered_in: int | None = None
_deadline: Deadline | None = None
_is_ending = False


def deadline() -> Deadline | None:
    """When the end of the process has begun: the time by which all are to be through with it."""
    return _deadline


def watch(transport: RetainingTransport) -> None:
    """Give a transport its turn at the end of the process, also in children of multiprocessing."""
    global _registered_in, _watched
    if _registered_in != forking.generation:
        _registered_in, _watched = forking.generation, WeakSet()  # a parent's transports are the parent's
        atexit.register(_end)
        _register_in_child()
    _watched.add(transport)


def forget(transport: RetainingTransport) -> None:
    """Take back `watch`."""
    _watched.discard(transport)


def _end() -> None:
    """Give every transport its turn, within the time that all have together."""
    global _deadline, _is_ending
    if _deadline is not None or _registered_in != forking.generation:
        return  # it has begun already, as with a signal, or is a child's that has nothing
    _deadline = Deadline.after(EXIT_SECONDS, "full")
    _is_ending, lost = True, 0
    for transport in list(_watched):
        try:
            end = transport.abandon if transport.is_disabled() else transport.close
            lost += len(end(deadline=_deadline).undelivered)
        except Exception as error:  # the next one is to have its turn
            logger.error("internal error %s; please report it", type(error).__name__)
    _is_ending = False
    if lost:
        logger.error("%d event(s) are lost: they could not be delivered before the process ended", lost)


def say_lost(error: Exception) -> None:
    """Say that events are lost, unless it is said for all clients together in a moment."""
    if not _is_ending:
        logger.log(logging.WARNING if _deadline is None else logging.ERROR, "%s", error)


# --- children of multiprocessing, and of billiard, a copy of it that Celery has -------------------------


def _register_in_child() -> None:
    """Register with multiprocessing as well: its children skip `atexit`, before Python 3.13."""
    process, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
    if process is None or util is None:
        return
    current: Any = process.current_process()
    if getattr(current, "_parent_pid", None) is None:
        return
    util.Finalize(None, _end, exitpriority=0)  # billiard's children run these, too
    _register_in_worker(getattr(current, "_target", None))
    # A pool is ended with SIGTERM, and waits for its workers. By default the signal kills on the spot.
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_by_signal)


def _register_in_worker(worker: Any) -> None:
    """Register with a worker of billiard's pool, which ends its process on the spot when its work is done."""
    billiard = sys.modules.get("billiard.pool")
    if billiard is None or not isinstance(worker, billiard.Worker):
        return
    on_exit = worker.on_exit

    def end(pid: int, exitcode: int) -> None:
        _end()
        if on_exit is not None:
            on_exit(pid, exitcode)

    worker.on_exit = end


def _end_by_signal(signum: int, _: object) -> None:
    _end()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
