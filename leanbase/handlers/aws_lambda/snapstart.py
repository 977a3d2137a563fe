"""SnapStart: what a snapshot must not hold."""

from __future__ import annotations

import logging

from ...client import Leanbase

logger = logging.getLogger("leanbase")

_registered: set[int] = set()


def register(client: Leanbase) -> None:
    """Before the snapshot send what there is; before it and after a restore let go of all connections.

    Ids need no care: their random bits are the operating system's at each call.
    """
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        logger.debug(
            "snapshot_restore_py is not installed: connections of the snapshot are replaced when used"
        )
        return
    if id(client) not in _registered:  # once, however many handlers a module decorates
        _registered.add(id(client))
        register_before_snapshot(client.disconnect)
        register_after_restore(client.disconnect, 0.0)
