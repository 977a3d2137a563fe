"""The variables of frames, as far as they may be shown (6.11).

Objects are shown by what they hold, never by asking them: no property is evaluated, and `repr` is called
only on leaves that hold no attributes.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from leanbase.encoding import sanitize
from leanbase.error_tracking import raw
from leanbase.error_tracking.builder import Item
from leanbase.error_tracking.frames import local_variables
from leanbase.error_tracking.redaction import REDACTED, TOO_LONG, Matcher, Redaction

MAX_EVENT_BYTES = 10 * 1024
MAX_SHOWN_CHARACTERS = 1024
MAX_READ_CHARACTERS = 2048
MAX_ENTRIES = 50
MAX_DEPTH = 12
MAX_NODES = 100
CIRCULAR = "<circular ref>"

_SCALARS = (type(None), bool, int, float, str)
_COLLECTIONS: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
# They have attributes, but their repr says what they are.
_VALUES = {
    ("datetime", "date"),
    ("datetime", "time"),
    ("decimal", "Decimal"),
    ("enum", "Enum"),
    ("fractions", "Fraction"),
    ("ipaddress", "_IPAddressBase"),
    ("pathlib", "PurePath"),
    ("pathlib._local", "PurePath"),
    ("uuid", "UUID"),
}
_WORD = re.compile(r"[^\s()\[\]{}<>'\"`,;=]+")


def add_variables(items: Sequence[Item], redaction: Redaction) -> None:
    """Add `code_variables` to the application's own frames, from the crash site outwards, until 10 KiB."""
    left = MAX_EVENT_BYTES
    for item in items:
        for frame in reversed(item.frames):
            if frame.live is None or not frame.wire["in_app"]:
                continue
            shown: dict[str, Any] = {}
            for name, value in rendered(local_variables(frame.live), redaction):
                left -= len(str(value).encode("utf-8", "replace"))
                if left < 0:
                    break
                shown[name] = value
            if shown:
                frame.wire["code_variables"] = shown
            if left < 0:
                return


def rendered(variables: dict[str, Any], redaction: Redaction) -> Iterator[tuple[str, Any]]:
    """The variables of one frame as they go on the wire: scalars first, then the rest, sorted by name."""
    names = [name for name in variables if type(name) is str and not redaction.is_ignored(name)]
    for name in sorted(names, key=lambda name: (type(variables[name]) not in _SCALARS, name)):
        yield name, REDACTED if redaction.is_masked(name) else _rendered(variables[name], redaction)


def _rendered(value: Any, redaction: Redaction) -> Any:
    if value is None or type(value) is bool:
        return str(value)
    try:
        shown = _Walk(redaction).value(value, 0)
    except _TooManyNodesError:
        return TOO_LONG
    if type(shown) in (int, float):
        return shown
    text = shown if type(shown) is str else json.dumps(shown, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."


class _TooManyNodesError(Exception):
    pass


class _Walk:
    """One pass over one value: which objects are open above us, and how many nodes there were."""

    __slots__ = ("_nodes", "_open", "_redaction")

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._open: set[int] = set()
        self._nodes = 0

    def value(self, value: Any, depth: int) -> Any:
        """A plain value that stands for any other."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooManyNodesError
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is bool or value is None:
            return value
        if kind is int:
            return sanitize(value)  # the largest have no place in a JSON number
        if kind is float:
            return value if math.isfinite(value) else str(value)
        if id(value) in self._open:
            return CIRCULAR
        if depth >= MAX_DEPTH:
            return TOO_LONG
        self._open.add(id(value))
        try:
            return self._other(value, kind, depth + 1)
        finally:
            self._open.discard(id(value))

    def _text(self, text: str) -> str:
        return TOO_LONG if len(text) > MAX_READ_CHARACTERS else self._redaction.value(text)

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        for base, plain in _PLAIN_BASES:
            if issubclass(kind, base):
                return self.value(plain(value), depth)
        if issubclass(kind, dict):
            return self._entries(list(dict.items(value)), depth)
        if issubclass(kind, tuple) and (fields := _field_names(value, kind)) is not None:
            return self._entries(list(zip(fields, tuple.__iter__(value), strict=True)), depth)
        for collection in _COLLECTIONS:
            if issubclass(kind, collection):
                if collection.__len__(value) > MAX_ENTRIES:
                    return TOO_LONG
                return [self.value(member, depth) for member in list(collection.__iter__(value))]
        if issubclass(kind, (bytes, bytearray)):
            return self._bytes(value, kind)
        if issubclass(kind, _CODE):
            return _name_of_code(value, kind)
        attributes = None if _is_value(kind) else self._attributes(value, kind)
        if attributes is None:
            return self._leaf(value, kind)
        shown = self._entries(list(attributes.items()), depth)
        return {"__class__": raw.qualified_name(kind), **shown} if type(shown) is dict else shown

    def _entries(self, entries: Sequence[tuple[Any, Any]], depth: int) -> Any:
        if len(entries) > MAX_ENTRIES:
            return TOO_LONG
        shown: dict[str, Any] = {}
        for key, value in entries:
            name = key if type(key) is str else self._key(key, depth)
            if len(name) > MAX_READ_CHARACTERS:
                name, value = TOO_LONG, TOO_LONG
            elif self._redaction.is_masked(name):
                value = REDACTED
            shown[self._redaction.key(name)] = self.value(value, depth)
        return shown

    def _key(self, key: Any, depth: int) -> str:
        shown = self.value(key, depth)
        return shown if type(shown) is str else json.dumps(shown, ensure_ascii=False)

    def _attributes(self, value: Any, kind: type) -> dict[str, Any] | None:
        """What an object holds, and the names of what its class makes a secret of; `None` for a leaf."""
        own = raw.instance_attributes(value)
        is_exception = issubclass(kind, BaseException)
        if own is None and not is_exception and not raw.has_slots(kind):
            return None
        found: dict[str, Any] = {}
        for name, slot in raw.slots(kind):
            try:
                found[name] = REDACTED if self._redaction.is_masked(name) else slot.__get__(value)
            except AttributeError:  # not set
                continue
        if is_exception:
            found["args"] = raw.exception_args(value)
        found.update((own or {}).items())
        for name in _masked_names(kind, self._redaction.is_masked):
            found.setdefault(name, REDACTED)
        return {n: v for n, v in found.items() if type(n) is str and not n.startswith("__")}

    def _bytes(self, value: Any, kind: type) -> str:
        if len(value) > MAX_READ_CHARACTERS:
            return TOO_LONG
        try:
            return self._text(bytes(value).decode())
        except UnicodeDecodeError:
            return self._leaf(bytes(value), kind)

    def _leaf(self, value: Any, kind: type) -> str:
        try:
            if hasattr(kind, "__len__") and len(value) > MAX_READ_CHARACTERS:
                return TOO_LONG  # its repr would take long to make
            text = repr(value)
        except Exception:
            return f"<{raw.class_name(kind)}>"
        shown = self._redaction.value(text) if len(text) <= MAX_READ_CHARACTERS else REDACTED
        # What stands between the brackets and quotes of a repr is judged by itself, too.
        if shown != text or any(self._redaction.key(word) != word for word in _WORD.findall(text)):
            return REDACTED
        return text


_FUNCTIONS = (FunctionType, staticmethod, classmethod)
_PLAIN_BASES: tuple[tuple[type, Any], ...] = (
    (str, str.__str__),
    (int, int.__index__),
    (float, float.__float__),
)


@lru_cache(maxsize=1024)
def _masked_names(kind: type, is_masked: Matcher) -> tuple[str, ...]:
    """Properties and other attributes of a class whose names are a secret's; methods are none."""
    return tuple(
        name
        for cls in raw.mro(kind)[:-1]
        for name, attribute in list(raw.class_attributes(cls).items())
        if not isinstance(attribute, _FUNCTIONS) and is_masked(name)
    )


def _field_names(value: Any, kind: type) -> tuple[str, ...] | None:
    """The names of a namedtuple's fields; `None` for another tuple."""
    for cls in raw.mro(kind):
        names = raw.class_attributes(cls).get("_fields")
        if type(names) is tuple and len(names) == tuple.__len__(value):
            return names
    return None


def _is_value(kind: type) -> bool:
    return any((raw.class_module(cls), raw.class_name(cls)) in _VALUES for cls in raw.mro(kind))


def _name_of_code(value: Any, kind: type) -> str:
    """Classes, functions and modules by their names: their repr can be the application's."""
    if issubclass(kind, type):
        return f"<class {raw.qualified_name(value)}>"
    if issubclass(kind, ModuleType):
        return f"<module {(raw.instance_attributes(value) or {}).get('__name__')}>"
    function = value.__func__ if kind is MethodType else value
    named = isinstance(function, (FunctionType, BuiltinFunctionType))
    return f"<{kind.__name__} {function.__qualname__ if named else raw.class_name(type(function))}>"
