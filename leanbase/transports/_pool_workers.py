"""The end of a process that multiprocessing has made, or billiard, a copy of it that Celery has.

Such a process skips `atexit` (before Python 3.13). A worker of billiard's pool ends itself on the spot. One
of multiprocessing's is ended with SIGTERM, which by default kills on the spot as well; its pool waits for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from ..waking import Waker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOOK_SECONDS = 0.01
SECONDS_TO_DIE = 0.2
"""So long the main thread has to run the handler, once everything is sent."""


def register(end: Callable[[], bool]) -> None:
    """Call `end` when this process ends, if it is a child of multiprocessing or of billiard.

    Args:
        end: Called perhaps more than once; false when it has interrupted another call of it.
    """
    process, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
    if process is None or util is None:
        return
    current: Any = process.current_process()
    if getattr(current, "_parent_pid", None) is None:
        return
    util.Finalize(None, end, exitpriority=0)  # billiard's children run these, too
    _register_in_worker(getattr(current, "_target", None), end)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        try:
            _Sigterm(end).install()
        except ValueError:
            pass  # a sub-interpreter's main thread, which has no signals


def _register_in_worker(worker: Any, end: Callable[[], bool]) -> None:
    """Let a worker of billiard's pool call `end` before it ends its process."""
    billiard = sys.modules.get("billiard.pool")
    if billiard is None or not isinstance(worker, billiard.Worker):
        return
    on_exit = worker.on_exit

    def end_first(pid: int, exitcode: int) -> None:
        end()
        if on_exit is not None:
            on_exit(pid, exitcode)

    worker.on_exit = end_first


class _Sigterm:
    """Handles SIGTERM: calls `end`, then dies of the signal.

    The work is done in a thread that hears of the signal at once: the main thread may be in the middle of a
    long call of C, and runs the handler only after it.
    """

    def __init__(self, end: Callable[[], bool]) -> None:
        self._end = end
        self._process = os.getpid()  # the signal may come before a forked child has counted itself

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._handle)
        Waker(signal.SIGTERM, self._heard).start()

    def _handle(self, signum: int, _: object) -> None:
        if self._process == os.getpid() and not self._end():
            return  # it is under way: in the thread, or because this process ends anyway
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def _heard(self) -> None:
        if signal.getsignal(signal.SIGTERM) != self._handle:
            return
        while not self._end():
            time.sleep(LOOK_SECONDS)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(SECONDS_TO_DIE)
        os.kill(os.getpid(), signal.SIGKILL)
