"""Reads the source lines around a frame."""

from __future__ import annotations

import linecache
import os
import stat
from collections.abc import Iterator
from types import CodeType
from typing import Any

LINES_AROUND = 5
MAX_LINE_BYTES = 1024
MAX_SHORT_LINE = MAX_LINE_BYTES // 4
"""A line of this many characters always fits, because a character has at most 4 bytes of UTF-8."""

MAX_FILE_BYTES = 4 * 1024 * 1024


class Sources:
    """Reads source files during one capture, each file once.

    Args:
        running_since: Seconds since the epoch. If a file has changed since, its source is reported only if
            the file still contains the running code.
    """

    def __init__(self, running_since: float) -> None:
        self._running_since = running_since
        self._files: dict[str, list[str]] = {}
        self._changed: dict[str, set[CodeType]] = {}

    def around(self, code: CodeType, lineno: int, module_globals: dict[str, Any]) -> dict[str, Any]:
        """Return `pre_context`, `context_line` and `post_context` of a frame, or an empty dict."""
        filename = code.co_filename
        lines = self._files.get(filename)
        if lines is None:
            lines = self._files[filename] = self._read(filename, module_globals)
        if filename in self._changed and code not in self._changed[filename]:
            return {}
        return context_fields(lines, lineno)

    def _read(self, filename: str, module_globals: dict[str, Any]) -> list[str]:
        try:
            if filename.startswith("<"):
                found = None
            else:
                try:
                    found = os.stat(filename)
                except OSError:
                    found = None  # the module's loader may read it from a zip file
            if found is not None:
                if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
                    return []
                entry = linecache.cache.get(filename)
                if entry is None or entry[:2] != (found.st_size, found.st_mtime):
                    linecache.checkcache(filename)  # slow: it calls os.stat() again
            elif filename not in linecache.cache and not linecache.lazycache(filename, module_globals):
                return []  # linecache would search `sys.path` for a file of that name
            lines = linecache.getlines(filename, module_globals)
            # Many code objects share a name such as <string>. Python 3.13 keeps the source of only one.
            if filename.startswith("<") or (found is not None and found.st_mtime > self._running_since):
                self._changed[filename] = set(_codes("".join(lines), filename))
            return lines
        except Exception:
            return []


def context_fields(lines: list[str], lineno: int) -> dict[str, Any]:
    """Return the source around the 1-based line `lineno`, or an empty dict if there is no such line."""
    if not 0 < lineno <= len(lines):
        return {}
    first = max(0, lineno - 1 - LINES_AROUND)
    around = [
        line.rstrip("\r\n") if len(line) <= MAX_SHORT_LINE else cut_line(line)
        for line in lines[first : lineno + LINES_AROUND]
    ]
    at = lineno - 1 - first
    return {"pre_context": around[:at], "context_line": around[at], "post_context": around[at + 1 :]}


def cut_line(line: str) -> str:
    """Return a source line without its line break, cut to 1024 bytes (X-2)."""
    return cut_bytes(line.rstrip("\r\n"), MAX_LINE_BYTES)


def cut_bytes(text: str, limit: int) -> str:
    """Cut a string to at most `limit` bytes of UTF-8, between characters. `...` marks the cut.

    >>> cut_bytes("äöü", 6), cut_bytes("äöüß", 6)
    ('äöü', 'ä...')
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode("utf-8", "ignore") + "..."


def _codes(source: str, filename: str) -> Iterator[CodeType]:
    """Compile a source file, and yield all its code objects. Nothing is executed."""
    waiting = [compile(source, filename, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
