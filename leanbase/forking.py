"""What a forked child must not share with its parent: locks that may be held, sockets, waiting events.

Objects that hold such things are told in the child, before anything else runs there. Others remember
the `generation` they were made in and compare. Nothing is installed before the first of either.
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
            """Start over in this process."""


generation = 0
"""How many forks lie between this process and the one that was started. Cheaper than the process id."""

importing = threading.RLock()
"""Held around imports that a thread of ours may make: a fork in another thread waits for it.

The child would inherit the lock of a half imported module, and nobody there would ever release it.
"""

LONGEST_IMPORT_SECONDS = 5.0
"""So long a fork waits: the import may itself wait for one that the forking thread is in the middle of."""

_told: WeakSet[ForkAware] = WeakSet()
_installed = False


def watch() -> int:
    """See to it that `generation` is right in children, and return it."""
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
    with contextlib.suppress(RuntimeError):  # the wait for it had timed out
        importing.release()


def _in_child() -> None:
    global generation, importing
    generation += 1
    importing = threading.RLock()
    for thing in list(_told):
        thing._reset_after_fork()
