"""Wakes the main thread for a signal.

Python runs handlers between two instructions of the main thread. A signal that comes just before that
blocks, in a lock or in a read, waits with it. So a thread of its own hears of the signal as well, by a pipe,
and interrupts the main thread with another signal that does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from . import forking

PAUSES_SECONDS = (0.02, 0.1, 0.5)
"""After these the main thread is woken. Once is enough, unless it was not blocked yet."""


class Waker:
    """Listens for one signal, in this process alone. To be made and started in the main thread.

    It steps back where somebody else listens to signals by a pipe, as an event loop of asyncio does, or uses
    SIGURG, which wakes.

    Args:
        signum: The signal.
        heard: Called in the thread, before the main thread is woken.
    """

    def __init__(self, signum: int, heard: Callable[[], object] = lambda: None) -> None:
        self._signum = signum
        self._heard = heard
        self._is_muted = False
        self._reading = self._writing = -1

    def start(self) -> None:
        """Begin to listen."""
        if not hasattr(signal, "pthread_kill"):
            return
        if signal.getsignal(signal.SIGURG) not in (signal.SIG_DFL, _do_nothing):  # or inherited
            return
        others = signal.set_wakeup_fd(-1)
        if others != -1:
            signal.set_wakeup_fd(others)
            return
        signal.signal(signal.SIGURG, _do_nothing)
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # What a child hears is not for its parent.
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


def _do_nothing(signum: int, frame: object) -> None:
    pass
