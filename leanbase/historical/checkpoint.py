"""Stores the progress of an import on disk: rows passed on, and how often each row has occurred."""

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
"""Notes are saved at this interval. A transaction for each batch would rewrite index pages every 100 rows."""

_SCHEMA = """
CREATE TABLE import (version INTEGER NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE files (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, rows INTEGER NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE totals (number INTEGER PRIMARY KEY, latest INTEGER NOT NULL, json TEXT NOT NULL);
CREATE TABLE seen (key INTEGER PRIMARY KEY, times INTEGER NOT NULL);
"""


class Noted(NamedTuple):
    """The number and the arguments of one call of `Checkpoint.commit`."""

    number: int
    keys: Sequence[int]
    file: tuple[int, str, int, bytes]
    totals: Mapping[str, int]


class Checkpoint:
    """The state of one import, in an SQLite file that only this user can read.

    Batches are committed in order, each as a whole. So after a kill the file holds only rows that were
    passed on, and how often each of them has occurred. Later rows are sent again, with the same ids.

    Args:
        path: The file. `None` uses a temporary file, so that nothing is kept.
        fingerprint: Identifies the project and the options of the import.

    Attributes:
        is_new: Whether the file did not exist.

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
            # With "" SQLite uses a temporary file, and removes it on close.
            self._database = sqlite3.connect(
                str(path or ""), isolation_level=None, check_same_thread=False, timeout=0.0
            )
            try:
                self._begin(fingerprint)
            except BaseException:
                self._database.close()  # releases the lock
                raise
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise ConfigError(f"another import uses the checkpoint {path}") from error
            what = getattr(error, "strerror", None) or error
            raise ConfigError(f"the checkpoint {path} cannot be used: {what}") from error

    def _begin(self, fingerprint: str) -> None:
        database = self._database
        # A kill loses no transaction. A power failure may lose the last ones, but does not damage the file.
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
        """Return for each file how many rows were passed on, and the digest of these rows."""
        return self._database.execute("SELECT rows, digest FROM files ORDER BY number").fetchall()

    def totals(self) -> dict[str, int]:
        """Return the stored totals."""
        found = self._database.execute("SELECT json FROM totals").fetchone()
        totals: dict[str, int] = json.loads(found[0]) if found else {}
        return totals

    def occurrences(self, keys: Sequence[int]) -> list[int]:
        """Return how often each key has occurred before, and count it. `commit` stores the counts."""
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
        """The last call of `commit` in this process, or `None`."""
        return self._unsaved[-1] if self._unsaved else self._saved_last

    def commit(
        self, keys: Sequence[int], file: tuple[int, str, int, bytes], totals: Mapping[str, int]
    ) -> None:
        """Note that rows were passed on. They are saved soon, and at the latest by `close`.

        Args:
            keys: The keys that `occurrences` has counted for these rows.
            file: The number and name of their file, the number of its rows that were passed on so far, and
                the digest of all these rows.
            totals: The totals of the whole import.

        Raises:
            ConfigError: The file cannot be written.
        """
        number = self._stored_number + 1 if self.latest is None else self.latest.number + 1
        # One atomic step: an interrupt comes before or after it.
        self._unsaved.append(Noted(number, keys, file, totals))
        rows = sum(len(noted.keys) for noted in self._unsaved)
        if rows >= ROWS_OF_A_TRANSACTION or time.monotonic() - self._saved_at >= SECONDS_UNSAVED:
            self._save()

    def _save(self) -> None:
        """Save all notes in one transaction."""
        database = self._database
        try:
            if database.in_transaction:  # the last call was interrupted
                database.execute("ROLLBACK")
            database.execute("BEGIN")
            # An interrupt may have come after the COMMIT, and before the saved notes were removed.
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
        self._pending -= keys  # also removes the keys whose count is now zero
        self._saved_at = time.monotonic()

    def _read_number(self) -> int:
        found = self._database.execute("SELECT latest FROM totals").fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """Save all notes, and close the file.

        Raises:
            ConfigError: The file cannot be written.
        """
        try:
            if self._unsaved:
                self._save()
        finally:
            self._database.close()
            if self.path is not None and self.is_new and self.latest is None:
                self.path.unlink(missing_ok=True)  # nothing was committed
