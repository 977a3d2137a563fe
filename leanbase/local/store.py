"""Store received events in SQLite, in a file or in memory."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    request INTEGER NOT NULL,
    received_at REAL NOT NULL,
    times_received INTEGER NOT NULL DEFAULT 1,
    event TEXT NOT NULL,
    distinct_id TEXT NOT NULL,
    uuid TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    properties TEXT NOT NULL,
    historical_migration INTEGER NOT NULL,
    UNIQUE (timestamp, distinct_id, event, uuid)
)"""


class Store:
    """Events in the order of their arrival. Duplicates collapse as they do on the real server.

    Args:
        path: The database file, created with mode 0600. `None` stores events in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        with self._database:
            self._database.execute(_SCHEMA)

    def add(self, envelope: dict[str, Any]) -> list[bool]:
        """Store the events of one accepted request, all or none. Return for each event whether it is new."""
        with self._lock, self._database:
            newest = self._database.execute("SELECT coalesce(max(request), 0) FROM events").fetchone()[0]
            return [
                self._add(event, newest + 1, envelope["historical_migration"]) for event in envelope["batch"]
            ]

    def _add(self, event: dict[str, Any], request: int, historical_migration: bool) -> bool:
        identity = (event["timestamp"], event["distinct_id"], event["event"], event["uuid"])
        properties = json.dumps(event["properties"])
        inserted = self._database.execute(
            "INSERT INTO events (timestamp, distinct_id, event, uuid, request, received_at, properties,"
            " historical_migration) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*identity, request, time.time(), properties, historical_migration),
        )
        if inserted.rowcount:
            return True
        self._database.execute(
            "UPDATE events SET times_received = times_received + 1"
            " WHERE timestamp = ? AND distinct_id = ? AND event = ? AND uuid = ?",
            identity,
        )
        return False

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """Return all events with an id above `after`, each with the number of the request that sent it."""
        with self._lock:
            rows = self._database.execute(
                "SELECT * FROM events WHERE id > ? ORDER BY id", (after,)
            ).fetchall()
        return [
            {
                **dict(row),
                "properties": json.loads(row["properties"]),
                "historical_migration": bool(row["historical_migration"]),
            }
            for row in rows
        ]

    def clear(self) -> None:
        """Delete all events."""
        with self._lock, self._database:
            self._database.execute("DELETE FROM events")

    def close(self) -> None:
        """Close the database."""
        self._database.close()
