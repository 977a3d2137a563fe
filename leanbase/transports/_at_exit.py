"""The end of the process: pending events get one more attempt, and lost events are reported.

No exit hook is registered before a transport has events that could be lost.
"""

from __future__ import annotations

import atexit
import logging
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from .. import forking
from ..messages import log_internal_error
from . import _pool_workers
from .deadline import Deadline, Stopwatch

if TYPE_CHECKING:
    from ._retaining import RetainingTransport

logger = logging.getLogger("leanbase")

EXIT_SECONDS = 2.0
"""The maximum number of seconds that all clients together may delay the end of the process (Q-52)."""

MOST_ORPHANS = 100
"""The number of watched transports above which the oldest orphan loses its pending events.

An orphan is a transport whose client was garbage-collected.
"""

_watched: dict[RetainingTransport, None] = {}
_collecting: WeakSet[RetainingTransport] = WeakSet()
_registered_in: int | None = None
_deadline: Deadline | None = None
_begun: tuple[Deadline, Stopwatch, float] | None = None
_is_ending = False


def begin(seconds: float = EXIT_SECONDS, within: float = EXIT_SECONDS + 1) -> Deadline:
    """Start and return the deadline of all sends after something that usually ends the process.

    Args:
        seconds: The time for these sends, those of the exit hook included.
        within: The seconds after which the process is not ending after all. The deadline no longer counts.
    """
    global _begun
    _begun = Deadline.after(seconds), Stopwatch(), within
    return _begun[0]


def near() -> Deadline | None:
    """Return the deadline of `begin` while it counts."""
    return _begun[0] if _begun is not None and _begun[1].seconds() < _begun[2] else None


def deadline() -> Deadline | None:
    """Return the deadline of all work at the end of the process; `None` before the end has begun."""
    global _deadline
    if _deadline is None and _registered_in != forking.generation and _main_thread_is_over():
        # Exit hooks already run. Python would not call a hook that is registered now.
        _deadline = Deadline.after(EXIT_SECONDS, "full")
    return _deadline


def _main_thread_is_over() -> bool:
    """Return True if Python has ended its main thread, as it does before it calls `atexit` hooks."""
    main = threading.main_thread()
    try:
        # Not `is_alive()`: before 3.13 an interrupt in it marks the thread as stopped (python/cpython#90882).
        return main._tstate_lock is None  # type: ignore[attr-defined]
    except AttributeError:
        return not main.is_alive()


def watch(transport: RetainingTransport) -> None:
    """Close a transport at the end of the process, even if its client was garbage-collected."""
    _register()
    _watched[transport] = None
    if len(_watched) > MOST_ORPHANS:
        orphan = next((each for each in list(_watched) if each.is_orphan()), None)
        if orphan is not None:
            _lose(orphan)


def watch_collected(transport: RetainingTransport) -> None:
    """Close a transport at the end of the process if an unclosed scope still has events for it."""
    _register()
    _collecting.add(transport)


def _register() -> None:
    global _registered_in, _watched
    if _registered_in != forking.generation:
        _registered_in, _watched = forking.generation, {}  # the parent closes its own transports
        _collecting.clear()
        atexit.register(_end)
        _pool_workers.register(_end)


def _lose(orphan: RetainingTransport) -> None:
    count = len(orphan.abandon(deadline=Deadline.after(0)).undelivered)
    logger.error(
        "%d event(s) are lost: their client was garbage collected; keep a reference to it, or shut it down",
        count,
    )


def forget(transport: RetainingTransport) -> None:
    _watched.pop(transport, None)


def _end() -> bool:
    """Close all watched transports within EXIT_SECONDS. Return False if another call is doing that."""
    global _deadline, _is_ending
    if _deadline is not None or _registered_in != forking.generation:
        return not _is_ending  # the hook has run, or this is a forked child without events
    _is_ending, lost = True, 0
    _deadline = Deadline.after(EXIT_SECONDS, "full").earlier(near())
    try:
        collecting = [each for each in list(_collecting) if each.ledger.collecting()]
        transports = list(dict.fromkeys([*_watched, *collecting]))
        for number, transport in enumerate(transports):
            # A transport that hangs must not take the time of the others.
            share = _deadline.remaining() / (len(transports) - number)
            lost += _close(transport, _deadline.at_most(share))
    finally:
        _is_ending = False
    if lost:
        logger.error("%d event(s) are lost: they could not be delivered before the process ended", lost)
    return True


def _close(transport: RetainingTransport, deadline: Deadline) -> int:
    """Send the events of a transport, unless its client is disabled. Return how many events are lost."""
    try:
        end = transport.abandon if transport.is_disabled() else transport.close
        return len(end(deadline=deadline).undelivered)
    except Exception as error:  # the next transport must still be closed
        log_internal_error("the exit hook", error)
        return 0


def say_lost(error: Exception) -> None:
    """Log that events are lost, unless `_end` is about to log it for all clients together."""
    if not _is_ending:
        level = logging.WARNING if _deadline is None else logging.ERROR
        logger.log(level, "shut down with pending events: %s", error)
