"""What `capture_exception` takes, brought to one of three forms (6.10)."""

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
    """An exception, with the traceback to show for it."""

    error: BaseException
    traceback: TracebackType | None


class Summarized(NamedTuple):
    """A `traceback.TracebackException`."""

    summary: Any


class Described(NamedTuple):
    """Something that is no exception, made to look like one.

    Attributes:
        type: What stands for the class.
        value: The message.
        module: What stands for the class's module.
        traceback: The stack, if a live one came with it.
        frames: The stack, if a text of it came with it.
    """

    type: str
    value: str
    module: str | None = None
    traceback: TracebackType | None = None
    frames: list[dict[str, Any]] | None = None


Subject: TypeAlias = Raised | Summarized | Described


def read(given: object) -> Subject | None:
    """Say what was given; `None` when it is nothing and no exception is being handled."""
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


# What the text of a dying exception may raise, and must not end anything else with.
_NOT_OUR_END = (Exception, SystemExit)


def message(error: BaseException) -> str:
    """The text of an exception: the first that is not empty of `message`, `detail` and `str()`."""
    for attribute in ("message", "detail"):
        try:
            value = getattr(error, attribute, None)
            if value is not None and not callable(value) and (text := text_of(value)):
                return str.__str__(text)
        except _NOT_OUR_END:
            continue
    return guarded_text(error)


def guarded_text(value: object) -> str:
    """`str()` of anything, else its `repr()`, else `<broken repr>`."""
    for convert in (text_of, repr):
        try:
            return str.__str__(convert(value))
        except _NOT_OUR_END:
            continue
    return "<broken repr>"


# --- traceback.TracebackException -------------------------------------------------------------------


def _is_summary(given: object) -> bool:
    # Without importing traceback: who has such an object has imported it.
    module = sys.modules.get("traceback")
    return module is not None and issubclass(type(given), module.TracebackException)


def summary_class(summary: Any) -> tuple[str, str | None]:
    """The qualified name and the module of the class that a `TracebackException` is about."""
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
    """The frames of a `TracebackException`, with the one line of source that it has of each."""
    return [frame_text(each.filename, each.lineno, each.name, each.line) for each in summary.stack]


def summary_relatives(summary: Any) -> Iterator[tuple[Any, str]]:
    """The children of a `TracebackException`, which are such objects themselves."""
    if summary.__suppress_context__:
        if summary.__cause__ is not None:
            yield summary.__cause__, "cause"
    elif summary.__context__ is not None:
        yield summary.__context__, "context"
    for member in getattr(summary, "exceptions", None) or ():
        yield member, "member"


# --- other things -----------------------------------------------------------------------------------


_FRAME = re.compile(r'^\s*File "([^"\n]*)", line (\d{1,9}), in (.*)$')
_LAST_LINE = re.compile(r"((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?:: (.*))?")


def _with_message(given: object) -> Described | None:
    """Read a mapping or object with a message or the text of a traceback."""
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
    """The frames in the text of a Python traceback, in its order.

    The source line is taken from the text: a text may name any file, and none is opened for it.
    """
    lines = stack.splitlines()
    for position, line in enumerate(lines):
        if (entry := _FRAME.match(line)) is not None:
            below = lines[position + 1] if position + 1 < len(lines) else ""
            has_source = below.startswith("    ") and _FRAME.match(below) is None
            yield frame_text(entry[1], int(entry[2]), entry[3], below if has_source else None)


def frame_text(filename: str, lineno: int | None, function: str, line: str | None) -> dict[str, Any]:
    """The fields of a frame that is only told of."""
    frame: dict[str, Any] = {"filename": filename, "function": function.strip() or "<unknown>"}
    if lineno:
        frame["lineno"] = lineno
    if line and line.strip():
        frame["context_line"] = cut_line(line.strip())
    return frame
