"""Keeps pending events and open connections out of a SnapStart snapshot."""

from __future__ import annotations

import logging

from ...client import Leanbase

logger = logging.getLogger("leanbase")

_registered: set[int] = set()


def register(client: Leanbase) -> None:
    """Send pending events before the snapshot, and close connections before it and after a restore.

    Ids stay unique: their random bits come from the operating system at each call.
    """
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        logger.debug(
            "snapshot_restore_py is not installed: a snapshot's connections are replaced at their first use"
        )
        return
    if id(client) not in _registered:  # once, even if several handlers are decorated
        _registered.add(id(client))
        register_before_snapshot(client.disconnect)
        register_after_restore(client.disconnect, 0.0)
