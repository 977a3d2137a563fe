"""Ids and times that come out the same when the same work is done again.

An asynchronous invocation that is retried, or a message that is delivered once more, captures the same events
again. With the ids of the first time the server knows them for the same.
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
    """A piece of work that may be done again, and the events captured so far while doing it.

    Args:
        key: What names the work, the same each time.
        timestamp: When it came to be, the same each time: a `datetime` or an ISO 8601 text; `None` if nothing
            tells.
    """

    __slots__ = ("_counts", "_key", "_parts", "generation", "timestamp")

    def __init__(self, key: str, timestamp: object) -> None:
        self.timestamp = timestamp
        self.generation = forking.watch()
        self._key = key
        self._counts: dict[str, Iterator[int]] = {}
        self._parts: dict[str, IdempotentWork] = {}

    def part(self, key: str, timestamp: object) -> IdempotentWork:
        """A part that may be done again by itself; always the same object, or its ids would come twice."""
        return self._parts.setdefault(key, IdempotentWork(key, timestamp))

    def next_uuid(self, name: str) -> str:
        """The uuid of the next event of this name: a UUIDv5 of the work, the name and the number."""
        # One dict operation and one step of an iterator: threads need no lock.
        number = next(self._counts.setdefault(name, itertools.count(1)))
        return derived_uuid(f"{self._key}/{number}/{name}")


def derived_uuid(text: str) -> str:
    """The same UUIDv5 whenever it is the same text."""
    from uuid import NAMESPACE_URL, uuid5

    # Halves of surrogate pairs have no UTF-8.
    plain = text.encode("utf-8", "backslashreplace").decode()
    return str(uuid5(NAMESPACE_URL, f"leanbase:{plain}"))


_current: ContextVar[IdempotentWork | None] = ContextVar("leanbase_work", default=None)


def current() -> IdempotentWork | None:
    """The work that this thread or task is doing, if it is any that may be done again."""
    work = _current.get()
    # A forked child would count from where its parent is, too.
    return work if work is not None and work.generation == forking.generation else None


class using_key:  # noqa: N801 - used like a function
    """Derive ids and times from `work` inside the `with`; `None` makes new ones."""

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
                pass  # left in another context, which never had it
