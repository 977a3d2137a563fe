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

from .. import forking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAKE_UP_SECONDS = 0.05


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
        _Sigterm(end).install()


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

    Python runs handlers between two instructions of the main thread. A signal that comes in the moment before
    this thread blocks in a lock would wait with it, and the pool for both. So a thread of its own hears of
    the signal as well, by a pipe, and wakes the main thread.
    """

    def __init__(self, end: Callable[[], bool]) -> None:
        self._end = end
        self._process = os.getpid()  # the signal may come before a forked child has counted itself
        self._has_begun = False
        self._is_muted = False
        self._reading = self._writing = -1

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._handle)
        if not hasattr(signal, "pthread_kill"):
            return
        others = signal.set_wakeup_fd(-1)
        if others != -1:
            signal.set_wakeup_fd(others)
            return
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # What a child hears is not for its parent.
        os.register_at_fork(before=self._mute, after_in_parent=self._unmute)
        forking.reset_in_child(self)
        threading.Thread(target=self._wake_up, name="leanbase-sigterm", daemon=True).start()

    def _handle(self, signum: int, _: object) -> None:
        self._has_begun = True
        if self._process == os.getpid() and not self._end():
            return  # a pool signals twice, also workers that are about to end
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def _wake_up(self) -> None:
        main = threading.main_thread().ident or 0
        while signal.SIGTERM not in os.read(self._reading, 512):
            pass
        while not self._has_begun:
            time.sleep(WAKE_UP_SECONDS)
            signal.pthread_kill(main, signal.SIGTERM)

    def _mute(self) -> None:
        """Stop listening, unless somebody else listens by now."""
        try:
            current = signal.set_wakeup_fd(-1)
            self._is_muted = current == self._writing
            if not self._is_muted:
                signal.set_wakeup_fd(current)
        except ValueError:  # only the main thread can
            pass

    def _unmute(self) -> None:
        if self._is_muted:
            self._is_muted = False
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def _reset_after_fork(self) -> None:
        self._mute()
