"""Store received events and requests in SQLite, in a file or in memory."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .table import properties_of_interest

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_SHOWN_CHARACTERS = 300
KEPT_REQUESTS = 20_000
KEPT_IN_MEMORY = 500_000
"""The number of events, the newest, that a store without a file keeps."""

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
);
CREATE INDEX IF NOT EXISTS events_by_name ON events (event, id);
CREATE INDEX IF NOT EXISTS events_by_person ON events (distinct_id, id);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY,
    received_at REAL NOT NULL,
    status INTEGER NOT NULL,
    error TEXT NOT NULL,
    headers TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    events INTEGER NOT NULL,
    again TEXT NOT NULL
);
"""


@dataclass
class Arrival:
    """One request to `/batch/`, without credentials in its headers.

    Attributes:
        bytes: The size of its body as sent.
        body_bytes: The size of its decompressed body.
        error: Why the request was refused, or `""`.
    """

    headers: Mapping[str, str]
    bytes: int = 0
    body_bytes: int = 0
    status: int = 200
    error: str = ""


@dataclass
class Filter:
    """Selects events by name, by distinct id, and by a string in them. `""` selects all."""

    event: str = ""
    distinct_id: str = ""
    text: str = ""

    def condition(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its values."""
        parts, values = ["1"], []
        for column in ("event", "distinct_id"):
            if value := getattr(self, column):
                parts.append(f"{column} = ?")
                values.append(value)
        if self.text:
            parts.append(
                "instr(folded(event || ' ' || distinct_id || ' ' || uuid || ' ' || properties), ?) > 0"
            )
            # Properties are stored as JSON, so search for the text with JSON's escapes.
            values.append(json.dumps(self.text.casefold(), ensure_ascii=False)[1:-1])
        return " AND ".join(parts), values


class Store:
    """Events in the order of their arrival. A duplicate is counted, not stored, as on the real server.

    Args:
        path: The database file, created with mode 0600. `None` stores events in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._is_in_memory = path is None
        self._changed = threading.Condition()
        self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        self._database.create_function(
            "folded", 1, str.casefold, deterministic=True
        )  # lower() knows only ASCII
        self.clears = 0
        try:
            with self._database:
                self._database.executescript(_SCHEMA)
        except BaseException:
            self._database.close()
            raise

    def add(self, envelope: Mapping[str, Any] | None, arrival: Arrival) -> list[bool]:
        """Store a request and its events in one transaction. Return for each event whether it is new.

        Args:
            envelope: The decoded request; `None` if it was refused.
            arrival: Its other data.
        """
        batch: Sequence[dict[str, Any]] = envelope["batch"] if envelope is not None else ()
        historical = bool(envelope and envelope["historical_migration"])
        with self._changed, self._database:
            number = self._last("requests", "number") + 1
            number = max(number, self._last("events", "request") + 1)
            is_new = [self._add(event, number, historical) for event in batch]
            again = [event["uuid"] for event, new in zip(batch, is_new, strict=True) if not new]
            self._database.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    time.time(),
                    arrival.status,
                    arrival.error,
                    json.dumps(dict(arrival.headers)),
                    arrival.bytes,
                    arrival.body_bytes,
                    len(batch),
                    json.dumps(again),
                ),
            )
            self._database.execute("DELETE FROM requests WHERE number <= ?", (number - KEPT_REQUESTS,))
            if self._is_in_memory:
                last = self._last("events", "id")
                self._database.execute("DELETE FROM events WHERE id <= ?", (last - KEPT_IN_MEMORY,))
            self._changed.notify_all()
        return is_new

    def _last(self, table: str, column: str) -> int:
        found: int = self._database.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0]  # noqa: S608
        return found

    def _add(self, event: dict[str, Any], request: int, historical_migration: bool) -> bool:
        identity = (event["timestamp"], event["distinct_id"], event["event"], event["uuid"])
        properties = json.dumps(event["properties"], ensure_ascii=False)
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

    def events(self, after: int = 0, wanted: Filter | None = None) -> list[dict[str, Any]]:
        """Return all selected events with an id above `after`, oldest first."""
        condition, values = (wanted or Filter()).condition()
        rows = self._rows(f"SELECT * FROM events WHERE id > ? AND {condition} ORDER BY id", after, *values)  # noqa: S608
        return [_event(row) for row in rows]

    def event(self, id: int) -> dict[str, Any] | None:
        rows = self._rows("SELECT * FROM events WHERE id = ?", id)
        return _event(rows[0]) if rows else None

    def page(
        self, wanted: Filter, *, before: int | None = None, after: int | None = None, limit: int = PAGE_SIZE
    ) -> list[dict[str, Any]]:
        """Return summaries of events, newest first; with `after`, oldest first."""
        condition, values = wanted.condition()
        if after is not None:
            condition, order = f"{condition} AND id > ?", "id"
            values.append(after)
        else:
            order = "id DESC"
            if before is not None:
                condition = f"{condition} AND id < ?"
                values.append(before)
        most = max(1, min(limit, MAX_PAGE_SIZE))
        query = f"SELECT * FROM events WHERE {condition} ORDER BY {order} LIMIT ?"  # noqa: S608
        return [_in_short(row) for row in self._rows(query, *values, most)]

    def counts(self, wanted: Filter) -> dict[str, Any]:
        """Return the number of all events, selected events and requests, and the events by name."""
        condition, values = wanted.condition()
        (total,) = self._rows("SELECT count(*) AS n FROM events")
        matching = total
        if values:
            (matching,) = self._rows(f"SELECT count(*) AS n FROM events WHERE {condition}", *values)  # noqa: S608
        names = self._rows(
            "SELECT event AS name, count(*) AS n FROM events GROUP BY event ORDER BY n DESC LIMIT 200"
        )
        refused = self._rows("SELECT count(*) AS n FROM requests WHERE status >= 300")[0]["n"]
        return {
            "events": total["n"],
            "matching": matching["n"],
            "requests": self._rows("SELECT count(*) AS n FROM requests")[0]["n"],
            "refused": refused,
            "names": {row["name"]: row["n"] for row in names},
        }

    def requests(
        self, *, before: int | None = None, after: int = 0, limit: int = PAGE_SIZE
    ) -> list[dict[str, Any]]:
        most = max(1, min(limit, MAX_PAGE_SIZE))
        upper = before if before is not None else 2**62
        query = "SELECT * FROM requests WHERE number < ? AND number > ? ORDER BY number DESC LIMIT ?"
        return [_request(row) for row in self._rows(query, upper, after, most)]

    def newest(self) -> tuple[int, int, int]:
        """Return the newest event's id, the newest request's number, and the number of `clear` calls."""
        with self._changed:
            return self._last("events", "id"), self._last("requests", "number"), self.clears

    def wait_beyond(self, known: tuple[int, int, int], seconds: float) -> tuple[int, int, int]:
        """Wait up to `seconds` until `newest()` differs from `known`, and return it."""
        with self._changed:
            self._changed.wait_for(lambda: self.newest() != known, seconds)
            return self.newest()

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._changed:
            return self._database.execute(query, values).fetchall()

    def clear(self) -> None:
        with self._changed, self._database:
            self._database.execute("DELETE FROM events")
            self._database.execute("DELETE FROM requests")
            self.clears += 1
            self._changed.notify_all()

    def close(self) -> None:
        self._database.close()


def _event(row: sqlite3.Row) -> dict[str, Any]:
    return {
        **dict(row),
        "properties": json.loads(row["properties"]),
        "historical_migration": bool(row["historical_migration"]),
    }


def _in_short(row: sqlite3.Row) -> dict[str, Any]:
    event = _event(row)
    properties = event.pop("properties")
    shown = properties_of_interest(properties)
    return {**event, "shown": shown[:MAX_SHOWN_CHARACTERS], "is_exception": "$exception_list" in properties}


def _request(row: sqlite3.Row) -> dict[str, Any]:
    return {**dict(row), "headers": json.loads(row["headers"]), "again": json.loads(row["again"])}
