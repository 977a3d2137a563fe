"""Converts what the caller passes to `capture_exception` to one of three types."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, cast

from .. import introspection
from ..texts import text_of
from .source import cut_line


class Raised(NamedTuple):
    """An exception, with the traceback to report for it."""

    error: BaseException
    traceback: TracebackType | None


class Summarized(NamedTuple):
    """A `traceback.TracebackException`."""

    summary: Any


class Described(NamedTuple):
    """An object that is not an exception, described like one.

    Attributes:
        type: The reported class.
        value: The message.
        module: The reported module of the class.
        traceback: The stack, if the object has a live traceback.
        frames: The stack as wire fields, if only a description of it is available.
    """

    type: str
    value: str
    module: str | None = None
    traceback: TracebackType | None = None
    frames: list[dict[str, Any]] | None = None


Subject: TypeAlias = Raised | Summarized | Described


def read(given: object) -> Subject | None:
    """Convert what the caller passed. `None` means the exception that is being handled.

    Returns `None` if no exception is being handled, or if a tuple holds only `None`.
    """
    if given is None:
        given = sys.exc_info()[1]
        if given is None:
            return None
    if type(given) is Described:
        return given
    if introspection.is_exception(given):
        error: Any = given
        return Raised(error, introspection.traceback(error))
    if type(given) is tuple and len(given) == 3:
        kind, value, traceback = given
        if kind is None and value is None and traceback is None:
            return None
        if introspection.is_exception(value) and (traceback is None or type(traceback) is TracebackType):
            return Raised(value, introspection.traceback(value) if traceback is None else traceback)
        if issubclass(type(kind), type) and introspection.is_exactly(traceback, (type(None), TracebackType)):
            text = "" if value is None else guarded_text(value)
            return Described(
                introspection.class_name(kind), text, introspection.class_module(kind), traceback
            )
    if issubclass(type(given), type) and BaseException in introspection.mro(cls := cast("type", given)):
        return Described(introspection.class_name(cls), "", introspection.class_module(cls))
    if issubclass(type(given), str):
        return Described("Error", str.__str__(given))
    if _is_summary(given):
        return Summarized(given)
    found = _with_message(given)
    return found or Described(
        introspection.class_name(type(given)), guarded_text(given), introspection.class_module(type(given))
    )


# --- exceptions -------------------------------------------------------------------------------------


_NOT_OUR_END = (Exception, SystemExit)
"""Errors that a broken `__str__`, `__repr__` or property may raise; they must not propagate."""


def message(error: BaseException) -> str:
    """Return the first of an exception's `message`, `detail` and `str()` that is not empty."""
    for attribute in ("message", "detail"):
        try:
            value = getattr(error, attribute, None)
            if value is not None and not callable(value) and (text := text_of(value)):
                return str.__str__(text)
        except _NOT_OUR_END:
            continue
    return guarded_text(error)


def guarded_text(value: object) -> str:
    """Return the `str()` of any object, or its `repr()` if that fails, or else `<broken repr>`."""
    for convert in (text_of, repr):
        try:
            return str.__str__(convert(value))
        except _NOT_OUR_END:
            continue
    return "<broken repr>"


# --- traceback.TracebackException -------------------------------------------------------------------


def _is_summary(given: object) -> bool:
    # Do not import `traceback`: a caller with such an object has imported it already.
    module = sys.modules.get("traceback")
    return module is not None and issubclass(type(given), module.TracebackException)


def summary_class(summary: Any) -> tuple[str, str | None]:
    """Return the qualified name and the module of the described class."""
    if hasattr(summary, "exc_type_qualname"):  # since Python 3.13, where exc_type is deprecated
        name, module = summary.exc_type_qualname, summary.exc_type_module
        return name or "Error", module if module != "builtins" else None
    cls = summary.exc_type
    return (
        (introspection.class_name(cls), introspection.class_module(cls))
        if isinstance(cls, type)
        else ("Error", None)
    )


def summary_frames(summary: Any) -> list[dict[str, Any]]:
    """Return the frames, each with the one source line that a `TracebackException` holds."""
    return [frame_text(each.filename, each.lineno, each.name, each.line) for each in summary.stack]


def summary_relatives(summary: Any) -> Iterator[tuple[Any, str]]:
    """Yield the children of a `TracebackException`."""
    if summary.__suppress_context__:
        if summary.__cause__ is not None:
            yield summary.__cause__, "cause"
    elif summary.__context__ is not None:
        yield summary.__context__, "context"
    for member in getattr(summary, "exceptions", None) or ():
        yield member, "member"


# --- other objects ----------------------------------------------------------------------------------


_FRAME = re.compile(r'^\s*File "([^"\n]*)", line (\d{1,9}), in (.*)$')
_LAST_LINE = re.compile(r"((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?:: (.*))?")


def _with_message(given: object) -> Described | None:
    """Read a mapping or object with a message or a formatted traceback; `None` if it has neither."""
    name = _first_text(given, "type", "name")
    text = _first_text(given, "message", "value", "msg")
    stack = _first_text(given, "stack", "stacktrace", "traceback")
    frames = list(parse_frames(stack)) if stack is not None else []
    if text is None and not frames:
        return None
    module = None
    if stack is not None and frames:
        last = _LAST_LINE.fullmatch(stack.strip().rpartition("\n")[2])
        if last is not None:
            if name is None:
                module, _, name = last[1].rpartition(".")
            text = last[2] if text is None else text
    return Described(name or "Error", text or "", module or None, frames=frames or None)


def _first_text(given: object, *names: str) -> str | None:
    for name in names:
        try:
            value: Any = given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)
            if issubclass(type(value), str) and (text := str.__str__(value)):
                return text
        except Exception:
            continue
    return None


def parse_frames(stack: str) -> Iterator[dict[str, Any]]:
    """Yield the frames of a formatted Python traceback, in its order.

    Source lines come from the string. No file is opened, because the string may name any file.
    """
    lines = stack.splitlines()
    for position, line in enumerate(lines):
        if (entry := _FRAME.match(line)) is not None:
            below = lines[position + 1] if position + 1 < len(lines) else ""
            has_source = below.startswith("    ") and _FRAME.match(below) is None
            yield frame_text(entry[1], int(entry[2]), entry[3], below if has_source else None)


def frame_text(filename: str, lineno: int | None, function: str, line: str | None) -> dict[str, Any]:
    """Return the wire fields of a frame without a live frame."""
    frame: dict[str, Any] = {"filename": filename, "function": function.strip() or "<unknown>"}
    if lineno:
        frame["lineno"] = lineno
    if line and line.strip():
        frame["context_line"] = cut_line(line.strip())
    return frame
