"""Converts tracebacks and stacks to frames in the wire format: outermost first, the crash site last."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from inspect import CO_OPTIMIZED
from types import FrameType, TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .. import introspection
from .source import Sources

OUTERMOST = 25
INNERMOST = 75
HIDING = frozenset({"__tracebackhide__", "__traceback_hide__"})
MAX_KNOWN_PLACES = 4096

_STANDARD_LIBRARY = tuple({os.path.dirname(os.__file__), os.path.realpath(os.path.dirname(os.__file__))})

T = TypeVar("T")


class Frame(NamedTuple):
    """One frame.

    Attributes:
        wire: Its fields in the wire format.
        live: The interpreter's frame, which has the variables; `None` if only a description is available.
    """

    wire: dict[str, Any]
    live: FrameType | None


Call: TypeAlias = tuple[FrameType, int | None]
"""A frame of the interpreter, and its line number when the traceback was created."""


class FrameReader:
    """Describes frames, by the settings of a client. For `running_since` see `Sources`."""

    def __init__(self, project_root: str, in_app_modules: Sequence[str], running_since: float) -> None:
        roots = {os.path.abspath(project_root), os.path.realpath(project_root)}
        self._roots = tuple(root.rstrip(os.sep) + os.sep for root in roots)
        self._in_app_modules = tuple(in_app_modules)
        self._running_since = running_since
        self._places: dict[tuple[str, str | None, str | None], dict[str, Any]] = {}

    def describe(self, calls: Sequence[Call]) -> list[Frame]:
        """Return the frames of one traceback with their source lines, at most 100."""
        sources = Sources(self._running_since)
        return [Frame(self._wire(*call, sources), call[0]) for call in capped(calls)]

    def _wire(self, frame: FrameType, lineno: int | None, sources: Sources) -> dict[str, Any]:
        code, module_globals = frame.f_code, frame.f_globals
        module = _str_attr(module_globals, "__name__")
        package = _str_attr(module_globals, "__package__")
        wire = {"function": code.co_name or "<unknown>", **self.place(code.co_filename, module, package)}
        if lineno is not None and lineno > 0:
            wire["lineno"] = lineno
            wire.update(sources.around(code, lineno, module_globals))
        return wire

    def place(self, filename: str, module: str | None, package: str | None = None) -> dict[str, Any]:
        """Return the fields that all frames of a file share: its platform and location. Cached."""
        key = (filename, module, package)
        known = self._places.get(key)
        if known is None:
            if len(self._places) >= MAX_KNOWN_PLACES:
                self._places.clear()
            known = self._places[key] = self._locate(*key)
        return known

    def _locate(self, filename: str, module: str | None, package: str | None) -> dict[str, Any]:
        path = _absolute(filename)
        filename = _relative(path, module, package) or "<unknown>"
        place: dict[str, Any] = {"platform": "python", "filename": filename}
        if path:
            place["abs_path"] = path
        if module:
            place["module"] = module
        place["in_app"] = self._in_app(path, module)
        return place

    def _in_app(self, path: str, module: str | None) -> bool:
        """Return True if the code belongs to the application. The first matching rule decides."""
        if module and any(module == own or module.startswith(f"{own}.") for own in self._in_app_modules):
            return True
        if not path or _is_pseudo(path):
            return False
        parts = path.replace("\\", "/").split("/")
        if "site-packages" in parts or "dist-packages" in parts:
            return False
        if any(path.startswith(directory + os.sep) for directory in _STANDARD_LIBRARY):
            return False
        return path.startswith(self._roots)


def traceback_calls(traceback: TracebackType | None) -> list[Call]:
    """Return the calls of a traceback, without those that a variable of `HIDING` hides."""
    calls: list[Call] = []
    while traceback is not None:
        if not _is_hidden(traceback.tb_frame):
            calls.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return calls


def stack_calls(innermost: FrameType | None, *, without: Iterable[str]) -> list[Call]:
    """Return the calls of a running stack, without hidden calls.

    The innermost calls are left out while they belong to the packages in `without`.
    """
    prefixes = tuple(f"{package}." for package in without)
    frame = innermost
    while frame is not None and f"{_str_attr(frame.f_globals, '__name__')}.".startswith(prefixes):
        frame = frame.f_back
    calls: list[Call] = []
    while frame is not None:
        if not _is_hidden(frame):
            calls.append((frame, frame.f_lineno))
        frame = frame.f_back
    return calls[::-1]


def capped(items: Sequence[T]) -> Sequence[T]:
    """Return `items`, or the outermost 25 and the innermost 75 if there are more than 100 (X-6)."""
    if len(items) <= OUTERMOST + INNERMOST:
        return items
    return [*items[:OUTERMOST], *items[-INNERMOST:]]


def _is_hidden(frame: FrameType) -> bool:
    code = frame.f_code
    # Creating the dict of a function's locals is slow, and few functions hide themselves.
    if code.co_flags & CO_OPTIMIZED and HIDING.isdisjoint(code.co_varnames):
        return False
    variables = local_variables(frame)
    for name in HIDING:
        value = variables.get(name)
        # Any other object counts as true: `bool()` could run code of the application.
        if not introspection.is_exactly(value, _PLAIN) or value:
            return True
    return False


_PLAIN = (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, type(None))
_LOCALS = (dict, (lambda: type(sys._getframe().f_locals))())
"""Types of `f_locals` that can be read without running code of the application.

Since Python 3.13, the variables of a function are in a proxy. A class body or `exec()` may have a mapping of
the application, whose methods must not be called.
"""


def local_variables(frame: FrameType) -> dict[str, Any]:
    """Return a copy of a frame's variables, or `{}` if reading them could run code of the application."""
    found = frame.f_locals
    if not introspection.is_exactly(found, _LOCALS):
        return {}
    variables = dict(found)
    is_snapshot = type(found) is dict and frame.f_code.co_flags & CO_OPTIMIZED and sys.gettrace() is None
    # Before Python 3.13 the frame keeps the snapshot and all its objects alive. Three references to it are
    # expected: the frame's, `found`, and the argument of `getrefcount`. With more, other code holds the
    # snapshot as its `locals()`.
    if is_snapshot and sys.getrefcount(found) <= 3:
        found.clear()
    return variables


def _str_attr(module_globals: dict[str, Any], name: str) -> str | None:
    value = dict.get(module_globals, name)
    return value if type(value) is str and value else None


def _is_pseudo(path: str) -> bool:
    return path.startswith("<") and path.endswith(">")


def _absolute(filename: str) -> str:
    if not filename or _is_pseudo(filename):
        return filename
    if filename.endswith(".pyc"):
        filename = filename[:-1]
    return os.path.abspath(filename)


def _relative(path: str, module: str | None, package: str | None) -> str:
    """Return the path relative to the parent of the top-level package, or else the whole path.

    >>> _relative("/srv/shop/views.py", "shop.views", "shop")
    'shop/views.py'
    >>> _relative("/srv/main.py", "__main__", None)
    'main.py'
    """
    if not path or _is_pseudo(path):
        return path
    parts = path.replace(os.sep, "/").split("/")
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    if module == "__main__" and not package:
        return parts[-1]
    if module == "__main__":  # python -m package.module
        module = f"{package}.{stem}"
    names = (module or "").split(".")
    if stem == "__init__" and names[-1] != "__init__":
        names.append(stem)
    if [*parts[-len(names) : -1], stem] == names:
        return "/".join(parts[-len(names) :])
    return path
