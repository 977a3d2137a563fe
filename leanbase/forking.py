"""What a forked child must not share with its parent: locks that may be held, sockets, waiting events.

Objects that hold such things register here when they are made. Nothing is installed before the first.
"""

from __future__ import annotations

import os
from weakref import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class ForkAware(Protocol):
        def _own_process(self) -> None:
            """Start over in this process. Runs in the child before anything else does."""


_registered: WeakSet[ForkAware] | None = None


def reset_in_child(thing: ForkAware) -> None:
    """Call `thing._own_process()` in every child that is forked while `thing` is alive."""
    global _registered
    if _registered is None:
        _registered = WeakSet()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_reset_all)
    _registered.add(thing)


def _reset_all() -> None:
    for thing in list(_registered or ()):
        thing._own_process()
