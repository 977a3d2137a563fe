"""Resets what a forked child must not share with its parent: held locks, sockets, pending events.

Objects that hold such state are reset in the child before any other code runs there. Other objects remember
the `generation` in which they were created, and compare it. The fork hooks are installed on first use.
"""

from __future__ import annotations

import contextlib
import os
import threading
from weakref import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class ForkAware(Protocol):
        def _reset_after_fork(self) -> None:
            """Reset the state that belongs to the parent process."""


generation = 0
"""The number of forks between the first `watch` and this process. Cheaper to read than the process id."""

importing = threading.RLock()
"""Held during imports in threads of the SDK. A fork in another thread waits for it.

Otherwise the child could inherit the lock of a half-imported module, which nothing there ever releases.
"""

LONGEST_IMPORT_SECONDS = 5.0
"""Maximum seconds that a fork waits: the import may itself wait for the forking thread."""

_told: WeakSet[ForkAware] = WeakSet()
_installed = False


def watch() -> int:
    """Ensure that `generation` is correct in forked children, and return it."""
    global _installed
    if not _installed:
        _installed = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
    return generation


def reset_in_child(thing: ForkAware) -> None:
    """Call `thing._reset_after_fork()` in every child that is forked while `thing` is alive."""
    watch()
    _told.add(thing)


def _before() -> None:
    importing.acquire(timeout=LONGEST_IMPORT_SECONDS)


def _in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # the wait in `_before` had timed out
        importing.release()


def _in_child() -> None:
    global generation, importing
    generation += 1
    importing = threading.RLock()
    for thing in list(_told):
        with contextlib.suppress(Exception):  # the others must be reset all the same
            thing._reset_after_fork()
