"""The end of a child process of multiprocessing, or of billiard, which is Celery's copy of it.

Such a process skips `atexit` before Python 3.13. A worker of a billiard pool calls `os._exit`.
A multiprocessing pool ends its workers with SIGTERM, which by default kills them immediately.
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
"""Seconds that the main thread has to run the signal handler after all events are sent."""


def register(end: Callable[[], bool]) -> None:
    """Call `end` when this process ends, if it is a child process of multiprocessing or billiard.

    `end` may be called more than once. It returns False if another call of it is still running.
    """
    process, util = map(sys.modules.get, ("multiprocessing.process", "multiprocessing.util"))
    if process is None or util is None:
        return
    current: Any = process.current_process()
    if getattr(current, "_parent_pid", None) is None:
        return
    util.Finalize(None, end, exitpriority=0)  # billiard's child processes run these finalizers, too
    _register_in_worker(getattr(current, "_target", None), end)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        try:
            _Sigterm(end).install()
        except ValueError:
            pass  # the main thread of a sub-interpreter cannot handle signals


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
    """Handles SIGTERM: calls `end`, then lets the signal kill the process.

    A helper thread, which gets the signal at once, calls `end`. The main thread may be in a long call of
    C code, and runs the signal handler only after that.
    """

    def __init__(self, end: Callable[[], bool]) -> None:
        self._end = end
        # A forked child inherits the handler, and may get the signal before `forking.generation` changes.
        self._process = os.getpid()

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._handle)
        Waker(signal.SIGTERM, self._heard).start()

    def _handle(self, signum: int, _: object) -> None:
        if self._process == os.getpid() and not self._end():
            return  # another call of `end` is running; its caller ends the process
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
