"""Caches the latest definitions in a file of this host, for all processes of one user.

One process asks the server, and the others read the file: the workers of a web server, the tasks of a
container, a sandbox after a restart of its process.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..definitions import Definitions
from .base import DefinitionsSource, SourceError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...settings import Settings
    from ...transports.deadline import Deadline

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
MAX_BYTES = 32 * 1024 * 1024
LOOK_SECONDS = 0.05


class HostFileSource(DefinitionsSource):
    """Loads from `inner` if the file is old, and no other process is loading.

    Args:
        inner: The source that asks the server.
        path: The file. Its directory is private.
        ttl: Seconds for which the content of the file is used without a load.
        max_age: Seconds after which this process waits for a load by another process.
    """

    is_dated = True

    def __init__(self, inner: DefinitionsSource, path: str, *, ttl: float, max_age: float) -> None:
        self._inner = inner
        self._path = path
        self._ttl = ttl
        self._max_age = max_age

    @classmethod
    def around(cls, inner: DefinitionsSource, settings: Settings) -> DefinitionsSource:
        """Return this source around `inner`, or `inner` where a file cannot be locked or written."""
        from ...transports.spool import default_directory, make_private

        if fcntl is None:
            return inner
        directory = settings.spool_directory or default_directory()
        try:
            make_private(directory)
        except ConfigError:
            return inner
        named_by = f"{settings.host}\0{settings.api_key}\0{settings.secret_key}"
        name = f"flags-{sha256(named_by.encode()).hexdigest()[:32]}.json"
        path = os.path.join(directory, name)  # noqa: PTH118
        return cls(inner, path, ttl=settings.flags_ttl, max_age=settings.flags_max_age)

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        found = self._read()
        while found is None or self._age(found) >= self._ttl:
            with self._opened() as (file, is_locked):
                found = self._read()  # another process may have written it meanwhile
                if is_locked and (found is None or self._age(found) >= self._ttl):
                    return self._asked(file, _newest(known, found), deadline)
            if found is not None and self._age(found) < self._max_age:
                break  # another process is loading; use the old definitions
            if deadline.remaining() < 2 * LOOK_SECONDS:
                break
            time.sleep(LOOK_SECONDS)
        if found is None:
            raise SourceError("another process is still loading definitions", is_timeout=True)
        return None if known is not None and found.fetched_at <= known.fetched_at else found

    def _age(self, found: Definitions) -> float:
        age = time.time() - found.fetched_at
        return age if age >= 0 else self._max_age

    def _asked(self, file: int | None, newest: Definitions | None, deadline: Deadline) -> Definitions | None:
        asked_at = time.time()
        try:
            loaded = self._inner.load(newest, deadline=deadline)
        except SourceError as error:
            if error.is_final:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)  # noqa: PTH108
            raise
        current = newest.renewed(asked_at) if loaded is None and newest is not None else loaded
        if current is not None and file is not None:
            self._write(file, current)
        return current

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int | None, bool]]:
        """Open the file, and lock it if no other process holds the lock."""
        try:
            file = os.open(self._path, _FLAGS, 0o600)
        except OSError:
            yield None, True
            return
        is_locked = False
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_locked = True
            except OSError:
                is_locked = False
            yield file, is_locked
        finally:
            if is_locked:
                fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may also hold it open
            os.close(file)

    def _read(self) -> Definitions | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            try:
                return Definitions.from_json(file.read(MAX_BYTES))
            except (OSError, ValueError, RecursionError):
                return None  # empty, or half-written by a killed process

    def _write(self, file: int, current: Definitions) -> None:
        content = json.dumps(current.bundle(None), separators=(",", ":"), ensure_ascii=False).encode()
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, content, 0)

    def close(self) -> None:
        self._inner.close()

    def __repr__(self) -> str:
        return repr(self._inner)


def _newest(*given: Definitions | None) -> Definitions | None:
    found: list[Any] = [each for each in given if each is not None]
    return max(found, key=lambda each: each.fetched_at, default=None)
