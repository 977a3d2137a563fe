"""Ids and timestamps that stay the same when the same work runs again.

A retried asynchronous invocation, or a redelivered message, captures the same events again. These events
carry the ids of the first run, so the server recognises them as duplicates.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar, Token

from .. import forking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class IdempotentWork:
    """A piece of work that may run again, and the number of events captured in this run so far.

    Args:
        key: Identifies the work in every run.
        timestamp: When the work was created, the same in every run: a `datetime`, an ISO 8601 string, or
            `None` if unknown.
    """

    __slots__ = ("_counts", "_key", "_parts", "generation", "timestamp")

    def __init__(self, key: str, timestamp: object) -> None:
        self.timestamp = timestamp
        self.generation = forking.watch()
        self._key = key
        self._counts: dict[str, Iterator[int]] = {}
        self._parts: dict[str, IdempotentWork] = {}

    def part(self, key: str, timestamp: object) -> IdempotentWork:
        """Return the part with this key, always the same object: a second object would repeat uuids."""
        return self._parts.setdefault(key, IdempotentWork(key, timestamp))

    def next_uuid(self, name: str) -> str:
        """Return the uuid of the next event of this name: a UUIDv5 of the key, a number and the name."""
        # One dict operation and one iterator step, each atomic, so threads need no lock.
        number = next(self._counts.setdefault(name, itertools.count(1)))
        return self.uuid_of(f"{number}/{name}")

    def uuid_of(self, name: str) -> str:
        """Return the uuid of the only event of this name."""
        return derived_uuid(f"{self._key}/{name}")


def derived_uuid(text: str) -> str:
    """Return the UUIDv5 of a string."""
    from uuid import NAMESPACE_URL, uuid5

    # Lone halves of surrogate pairs cannot be encoded as UTF-8.
    plain = text.encode("utf-8", "backslashreplace").decode()
    return str(uuid5(NAMESPACE_URL, f"leanbase:{plain}"))


_current: ContextVar[IdempotentWork | None] = ContextVar("leanbase_work", default=None)


def current() -> IdempotentWork | None:
    """Return the `IdempotentWork` of this thread or task, or `None`."""
    work = _current.get()
    # A forked child would continue with the numbers of its parent, and so repeat its uuids.
    return work if work is not None and work.generation == forking.generation else None


class using_key:  # noqa: N801 - used like a function
    """Derive ids and timestamps from `work` inside the `with` block. With `None` they are new."""

    __slots__ = ("_token", "_work")

    def __init__(self, work: IdempotentWork | None) -> None:
        self._work = work
        self._token: Token[IdempotentWork | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._work)

    def __exit__(self, *exc_info: Any) -> None:
        if self._token is not None:
            try:
                _current.reset(self._token)
            except ValueError:
                pass  # exited in another `contextvars.Context`, which never had the work
