"""Wakes the main thread for a signal.

Python runs handlers between two instructions of the main thread. If a signal comes immediately before that
thread blocks, in a lock or in a read, the handler waits until the block ends. So a helper thread receives
the signal as well, through a pipe. It interrupts the main thread with a second signal, which does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from . import forking

PAUSES_SECONDS = (0.02, 0.1, 0.5)
"""Seconds before each attempt to wake the main thread. The first is enough if it is already blocked."""


class Waker:
    """Listens for one signal, only in this process. Create and start it in the main thread.

    It does nothing if other code uses SIGURG, which wakes the main thread, or the wakeup pipe of signals, as
    an asyncio event loop does. The helper thread calls `heard` before it wakes the main thread.
    """

    def __init__(self, signum: int, heard: Callable[[], object] = lambda: None) -> None:
        self._signum = signum
        self._heard = heard
        self._is_muted = False
        self._reading = self._writing = -1

    def start(self) -> None:
        if not hasattr(signal, "pthread_kill"):
            return
        if signal.getsignal(signal.SIGURG) not in (signal.SIG_DFL, _do_nothing):  # a child inherits it
            return
        others = signal.set_wakeup_fd(-1)
        if others != -1:
            signal.set_wakeup_fd(others)
            return
        signal.signal(signal.SIGURG, _do_nothing)
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # A signal to a forked child must not reach the parent through the shared pipe.
        os.register_at_fork(before=self._mute, after_in_parent=self._unmute)
        forking.reset_in_child(self)
        threading.Thread(target=self._listen, name="leanbase-signals", daemon=True).start()

    def _listen(self) -> None:
        main = threading.main_thread().ident or 0
        while numbers := os.read(self._reading, 512):
            if self._signum in numbers:
                self._heard()
                for pause in PAUSES_SECONDS:
                    time.sleep(pause)
                    signal.pthread_kill(main, signal.SIGURG)

    def _mute(self) -> None:
        """Stop listening, unless other code listens by now."""
        try:
            current = signal.set_wakeup_fd(-1)
            self._is_muted = current == self._writing
            if not self._is_muted:
                signal.set_wakeup_fd(current)
        except ValueError:  # only the main thread can set it
            pass

    def _unmute(self) -> None:
        if self._is_muted:
            self._is_muted = False
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def _reset_after_fork(self) -> None:
        self._mute()


def _do_nothing(signum: int, frame: object) -> None:
    pass
