"""The end of the process: what a transport still has gets one more attempt, and what is lost is said.

Nothing is registered before a transport has something that could be lost.
"""

from __future__ import annotations

import atexit
import logging
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from .. import forking
from . import _pool_workers
from .deadline import Deadline

if TYPE_CHECKING:
    from ._retaining import RetainingTransport

logger = logging.getLogger("leanbase")

EXIT_SECONDS = 2.0
"""Most time that all clients together may hold up the end of the process (Q-52)."""

MOST_ORPHANS = 100
"""So many transports are kept whose clients were let go with what they could not deliver."""

_watched: dict[RetainingTransport, None] = {}
_collecting: WeakSet[RetainingTransport] = WeakSet()
_registered_in: int | None = None
_deadline: Deadline | None = None
_is_ending = False


def deadline() -> Deadline | None:
    """When the end of the process has begun: the time by which all are to be through with it."""
    global _deadline
    if _deadline is None and _registered_in != forking.generation and _main_thread_is_over():
        # Python calls no hook that is registered now: this is called by one.
        _deadline = Deadline.after(EXIT_SECONDS, "full")
    return _deadline


def _main_thread_is_over() -> bool:
    """Whether Python has ended its main thread, as it does before it calls the hooks of `atexit`."""
    main = threading.main_thread()
    try:
        # Not `is_alive()`: before 3.13 an interrupt in it marks the thread as stopped (python/cpython#90882).
        return main._tstate_lock is None  # type: ignore[attr-defined]
    except AttributeError:
        return not main.is_alive()


def watch(transport: RetainingTransport) -> None:
    """Give a transport that has something its turn at the end of the process, also if its client is gone."""
    _register()
    _watched[transport] = None
    if len(_watched) > MOST_ORPHANS:
        orphan = next((each for each in list(_watched) if each.is_orphan()), None)
        if orphan is not None:
            _lose(orphan)


def watch_collected(transport: RetainingTransport) -> None:
    """Give a transport its turn as well if, at the end, a scope that nobody closes has collected for it."""
    _register()
    _collecting.add(transport)


def _register() -> None:
    global _registered_in, _watched
    if _registered_in != forking.generation:
        _registered_in, _watched = forking.generation, {}  # a parent's transports are the parent's
        _collecting.clear()
        atexit.register(_end)
        _pool_workers.register(_end)


def _lose(orphan: RetainingTransport) -> None:
    count = len(orphan.abandon(deadline=Deadline.after(0)).undelivered)
    logger.error("%d event(s) are lost: their client is gone; keep it, or shut it down", count)


def forget(transport: RetainingTransport) -> None:
    """Take back `watch`: it has nothing any more."""
    _watched.pop(transport, None)


def _end() -> bool:
    """Give every transport its turn, within the time that all have together; false if that is under way."""
    global _deadline, _is_ending
    if _deadline is not None or _registered_in != forking.generation:
        return not _is_ending  # it was done before, or is a child's that has nothing
    _is_ending, lost = True, 0
    _deadline = Deadline.after(EXIT_SECONDS, "full")
    try:
        collecting = [each for each in list(_collecting) if each.ledger.collecting()]
        transports = list(dict.fromkeys([*_watched, *collecting]))
        for number, transport in enumerate(transports):
            # One that hangs is not to take the time of all.
            share = _deadline.remaining() / (len(transports) - number)
            lost += _close(transport, _deadline.at_most(share))
    finally:
        _is_ending = False
    if lost:
        logger.error("%d event(s) are lost: they could not be delivered before the process ended", lost)
    return True


def _close(transport: RetainingTransport, deadline: Deadline) -> int:
    """Send what a transport has, unless its client is switched off; how many events are lost."""
    try:
        end = transport.abandon if transport.is_disabled() else transport.close
        return len(end(deadline=deadline).undelivered)
    except Exception as error:  # the next one is to have its turn
        logger.error("internal error %s; please report it", type(error).__name__)
        return 0


def say_lost(error: Exception) -> None:
    """Say that events are lost, unless it is said for all clients together in a moment."""
    if not _is_ending:
        logger.log(logging.WARNING if _deadline is None else logging.ERROR, "%s", error)
