"""What an import remembers on disk: how far it is, and which rows it has seen how often."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError

VERSION = 1
LOOKED_UP_AT_ONCE = 500
ROWS_OF_A_TRANSACTION = 10_000
SECONDS_UNSAVED = 0.5
"""A transaction for each batch would write the pages of the index once for each hundred rows."""

_SCHEMA = """
CREATE TABLE import (version INTEGER NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE files (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, rows INTEGER NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE totals (number INTEGER PRIMARY KEY, latest INTEGER NOT NULL, json TEXT NOT NULL);
CREATE TABLE seen (key INTEGER PRIMARY KEY, times INTEGER NOT NULL);
"""


class Noted(NamedTuple):
    """What `Checkpoint.commit` was called with, and the number of the call."""

    number: int
    keys: Sequence[int]
    file: tuple[int, str, int, bytes]
    totals: Mapping[str, int]


class Checkpoint:
    """The state of one import, in an SQLite file that only this user can read.

    It changes with the batches, in their order, each as a whole. So after a kill it has only rows that were
    passed on, and how often each of these has occurred. Later rows are sent again, with the same ids.

    Args:
        path: The file. `None` counts occurrences in a temporary file, and remembers nothing.
        fingerprint: What the import depends on besides its rows.

    Attributes:
        is_new: Whether no run before has begun this import, as far as the file tells.

    Raises:
        ConfigError: The file cannot be written, belongs to another import, or another process uses it.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self._pending: Counter[int] = Counter()
        self._unsaved: list[Noted] = []
        self._saved_last: Noted | None = None
        self._saved_at = time.monotonic()
        try:
            self.is_new = path is None or not path.exists()
            if path is not None:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            # With "" SQLite makes a temporary file, and removes it at the end.
            self._database = sqlite3.connect(
                str(path or ""), isolation_level=None, check_same_thread=False, timeout=0.0
            )
            try:
                self._begin(fingerprint)
            except BaseException:
                self._database.close()  # it holds the lock
                raise
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise ConfigError(f"another import uses the checkpoint {path}") from error
            what = getattr(error, "strerror", None) or error
            raise ConfigError(f"the checkpoint {path} cannot be used: {what}") from error

    def _begin(self, fingerprint: str) -> None:
        database = self._database
        # A kill loses no transaction. A power failure may lose the last ones, but damages nothing.
        database.executescript("PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=NORMAL;")
        if self.path is not None:
            database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN EXCLUSIVE")
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'import'").fetchone():
            if database.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise ConfigError(f"{self.path} is not a checkpoint")
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute("INSERT INTO import VALUES (?, ?)", (VERSION, fingerprint))
        database.execute("COMMIT")
        version, found = database.execute("SELECT * FROM import").fetchone()
        if version != VERSION or found != fingerprint:
            raise ConfigError(
                f"the checkpoint {self.path} belongs to an import with another format, other columns, or "
                "another server or key; name another file with --checkpoint, or remove it to begin again"
            )

        self._stored_number = self._read_number()

    def files(self) -> list[tuple[int, bytes]]:
        """Return the rows of each file that were passed on, and the digest of these rows, in order."""
        return self._database.execute("SELECT rows, digest FROM files ORDER BY number").fetchall()

    def totals(self) -> dict[str, int]:
        """Return the counts that `commit` stored."""
        found = self._database.execute("SELECT json FROM totals").fetchone()
        totals: dict[str, int] = json.loads(found[0]) if found else {}
        return totals

    def occurrences(self, keys: Sequence[int]) -> list[int]:
        """Return for each key how often it has occurred before, and count it.

        Args:
            keys: The keys of rows, in order. `commit` makes them last.
        """
        known: Counter[int] = Counter()
        distinct = list(set(keys))
        for start in range(0, len(distinct), LOOKED_UP_AT_ONCE):
            part = distinct[start : start + LOOKED_UP_AT_ONCE]
            marks = ",".join("?" * len(part))
            known.update(
                dict(self._database.execute(f"SELECT key, times FROM seen WHERE key IN ({marks})", part))  # noqa: S608
            )
        counts = []
        for key in keys:
            counts.append(known[key] + self._pending[key])
            self._pending[key] += 1
        return counts

    @property
    def latest(self) -> Noted | None:
        """What `commit` was last called with in this process, or `None`."""
        return self._unsaved[-1] if self._unsaved else self._saved_last

    def commit(
        self, keys: Sequence[int], file: tuple[int, str, int, bytes], totals: Mapping[str, int]
    ) -> None:
        """Note that rows were passed on. They are stored soon, and at the latest by `close`.

        Args:
            keys: What `occurrences` has counted for these rows.
            file: The number and the name of their file, the rows of it that were passed on, and the digest of
                these rows.
            totals: The counts of the whole import.

        Raises:
            ConfigError: They cannot be stored.
        """
        number = self._stored_number + 1 if self.latest is None else self.latest.number + 1
        # One step: an interrupt comes before or after it, so that it is noted as a whole or not at all.
        self._unsaved.append(Noted(number, keys, file, totals))
        rows = sum(len(noted.keys) for noted in self._unsaved)
        if rows >= ROWS_OF_A_TRANSACTION or time.monotonic() - self._saved_at >= SECONDS_UNSAVED:
            self._save()

    def _save(self) -> None:
        """Store what was noted, all or nothing."""
        database = self._database
        try:
            if database.in_transaction:  # an interrupt ended the last call
                database.execute("ROLLBACK")
            database.execute("BEGIN")
            # An interrupt may have come between the end of a transaction and the line that forgets its notes.
            stored = self._read_number()
            unsaved = [noted for noted in self._unsaved if noted.number > stored]
            keys = Counter(key for noted in unsaved for key in noted.keys)
            database.executemany(
                "INSERT INTO seen VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET times = times + excluded.times",
                sorted(keys.items()),
            )
            for noted in unsaved:
                database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", noted.file)
            if unsaved:
                totals = json.dumps(dict(unsaved[-1].totals))
                database.execute(
                    "INSERT OR REPLACE INTO totals VALUES (0, ?, ?)", (unsaved[-1].number, totals)
                )
            database.execute("COMMIT")
        except sqlite3.Error as error:
            raise ConfigError(f"the checkpoint {self.path} cannot be written: {error}") from error
        if unsaved:
            self._saved_last = unsaved[-1]
        self._unsaved = []
        self._pending -= keys  # this also removes the keys whose count is now zero
        self._saved_at = time.monotonic()

    def _read_number(self) -> int:
        found = self._database.execute("SELECT latest FROM totals").fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """Store what was noted, and close the file.

        Raises:
            ConfigError: It cannot be stored.
        """
        try:
            if self._unsaved:
                self._save()
        finally:
            self._database.close()
            if self.path is not None and self.is_new and self.latest is None:
                self.path.unlink(missing_ok=True)  # the import never began
