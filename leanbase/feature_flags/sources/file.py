"""Definitions from a file that is deployed with the program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..definitions import Definitions
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...transports.deadline import Deadline


class FileSource(DefinitionsSource):
    """Reads a bundle, or a response of the server. A relative `path` is below the working directory."""

    is_local = True

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if known is not None and seen == self._seen:
                return None
            found = Definitions.from_json(self._path.read_bytes(), fetched_at=None)
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self._path} has no definitions in it") from error
        self._seen = seen
        return found

    def __repr__(self) -> str:
        return f"file:{self._path}"
