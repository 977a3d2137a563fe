"""Reads the variables of frames, redacted and limited in size.

Objects are shown by the data that they hold. No property is evaluated. `repr` is called only on leaves:
instances of the classes in `_VALUES`, bytes that are not UTF-8, and objects without attributes.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, TypeAlias

from .. import introspection
from ..events.encoding import json_writer, sanitize
from ..redaction import REDACTED, TOO_LONG, Matcher, Redaction
from .builder import Item
from .frames import local_variables

MAX_EVENT_BYTES = 10 * 1024
MAX_EVENT_WORK = 128 * 1024
"""The maximum number of characters and nodes read for one event, shown or not, to limit the time."""

MAX_SHOWN_CHARACTERS = 1024
MAX_READ_CHARACTERS = 2048
MAX_ENTRIES = 50
MAX_DEPTH = 12
MAX_NODES = 100
CIRCULAR = "<circular ref>"

_SCALARS = (type(None), bool, int, float, str)
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_RUNNING = (AsyncGeneratorType, CoroutineType, GeneratorType)
_FUNCTIONS = (FunctionType, staticmethod, classmethod)
_VALUES = {
    ("builtins", "complex"),
    ("builtins", "range"),
    ("datetime", "date"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("ipaddress", "_IPAddressBase"),
    ("numpy", "generic"),
    ("pathlib", "PurePath"),
    ("pathlib._local", "PurePath"),
    ("re", "Pattern"),
    ("uuid", "UUID"),
}
"""Classes whose `repr` shows their value without calling the `repr` of any object inside."""

_to_json = json_writer(", ", ": ")

_WORD = re.compile(r"[^\s()\[\]{}<>'\"`,;=]+")


def add_variables(items: Sequence[Item], redaction: Redaction) -> None:
    """Add `code_variables` to in-app frames, from the crash site outwards, up to 10 KiB in total."""
    renderer = _Renderer(redaction)
    left = MAX_EVENT_BYTES
    for item in items:
        for frame in reversed(item.frames):
            if frame.live is None or not frame.wire["in_app"]:
                continue
            shown: dict[str, Any] = {}
            for name, value in renderer.variables(_of_interest(frame.live)):
                text = value if type(value) is str else str(value)
                left -= len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
                if left < 0:
                    break
                shown[name] = value
            if shown:
                frame.wire["code_variables"] = shown
            if left < 0 or renderer.is_exhausted:
                return


def _of_interest(frame: FrameType) -> dict[str, Any]:
    """Return a frame's variables; for module code, without modules, classes and functions."""
    variables = local_variables(frame)
    if frame.f_code.co_name != "<module>":
        return variables
    return {name: value for name, value in variables.items() if not issubclass(type(value), _CODE)}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."


class _TooMuchError(Exception):
    """A value exceeds `MAX_NODES`, or the event exceeds `MAX_EVENT_WORK`."""


class _Renderer:
    """Renders the variables of one event."""

    __slots__ = (
        "_classes",
        "_nodes_left",
        "_open",
        "_redacted",
        "_redaction",
        "_show",
        "_work_left",
    )

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._redacted = redaction.value
        self._work_left = MAX_EVENT_WORK
        self._show: dict[int, _Show] = {}  # by the id of the class
        self._classes: dict[int, _Class] = {}  # by the id of the class
        self._open: set[int] = set()
        self._nodes_left = MAX_NODES

    @property
    def is_exhausted(self) -> bool:
        return self._work_left < 0

    def variables(self, variables: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the rendered variables of one frame: scalars first, then the rest, each sorted by name."""
        is_ignored, is_masked = self._redaction.is_ignored, self._redaction.is_masked
        scalars: list[str] = []
        others: list[str] = []
        for name, value in variables.items():
            if type(name) is str and not is_ignored(name):
                kind = type(value)
                is_scalar = kind is str or kind is int or value is None or kind is bool or kind is float
                (scalars if is_scalar else others).append(name)
        for name in [*sorted(scalars), *sorted(others)]:
            if self._work_left < 0:
                return
            if is_masked(name):
                yield name, REDACTED
                continue
            try:
                shown = self._variable(variables[name])
            except Exception:
                shown = f"<{introspection.class_name(type(variables[name]))}>"
            yield name, shown

    def _variable(self, value: Any) -> Any:
        if type(value) is str and len(value) <= MAX_READ_CHARACTERS:  # as in `_value`, without the call
            self._work_left -= 1 + len(value)
            return _cut(self._redacted(value))
        self._nodes_left = MAX_NODES
        try:
            shown = self._value(value, 0)
        except _TooMuchError:
            return TOO_LONG
        kind = type(shown)
        if kind is str:
            return _cut(shown)
        if kind is int or kind is float:
            return shown
        return str(shown) if shown is None or kind is bool else _cut(_to_json(shown))

    def _value(self, value: Any, depth: int) -> Any:
        """Return a plain JSON value that represents `value`."""
        self._nodes_left -= 1
        self._work_left -= 1
        if self._nodes_left < 0 or self._work_left < 0:
            raise _TooMuchError
        kind = type(value)
        if kind is str:
            if len(value) > MAX_READ_CHARACTERS:
                return TOO_LONG
            self._work_left -= len(value)
            return self._redacted(value)
        if kind is bool or value is None:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**63 else sanitize(value)  # large ints become strings
        if kind is float:
            return value if math.isfinite(value) else str(value)
        identity = id(value)
        if identity in self._open:
            return CIRCULAR
        if depth >= MAX_DEPTH:
            return TOO_LONG
        show = self._show.get(id(kind))
        if show is None:
            show = self._show[id(kind)] = _how_to_show(kind)
        self._open.add(identity)
        try:
            return show(self, value, kind, depth + 1)
        finally:
            self._open.discard(identity)

    def _dict(self, value: Any, kind: type, depth: int) -> Any:
        if dict.__len__(value) > MAX_ENTRIES:
            return TOO_LONG
        return self._entries(list(dict.items(value)), depth)

    def _tuple(self, value: Any, kind: type, depth: int) -> Any:
        names = _field_names(kind)
        if names is None or len(names) != tuple.__len__(value):
            return self._collection(tuple, value, depth)
        return self._entries(list(zip(names, tuple.__iter__(value), strict=True)), depth)

    def _collection(self, base: Any, value: Any, depth: int) -> Any:
        if base.__len__(value) > MAX_ENTRIES:
            return TOO_LONG
        members = list(base.__iter__(value))
        shown = []
        for position, member in enumerate(members):
            named = position > 0 and self._names_a_secret(members[position - 1], len(members))
            shown.append(self._value(REDACTED if named else member, depth))
        return shown

    def _names_a_secret(self, before: Any, members: int) -> bool:
        """Return True if `before` names a secret whose value follows, in a pair or after a `-` option."""
        if not issubclass(type(before), (str, bytes)):
            return False
        name = self._name(before)
        return (members == 2 or name.startswith("-")) and "=" not in name and self._redaction.is_masked(name)

    def _object(self, value: Any, kind: type, depth: int) -> Any:
        known = self._classes.get(id(kind))
        if known is None:
            known = self._classes[id(kind)] = _Class(kind, self._redaction.is_masked)
        attributes = self._attributes(value, kind, known)
        if attributes is None:
            return (
                self._leaf(value)
                if introspection.has_harmless_repr(kind)
                else f"<{introspection.class_name(kind)}>"
            )
        shown = self._entries(list(attributes.items()), depth)
        return {"__class__": known.name, **shown} if type(shown) is dict else shown

    def _entries(self, entries: Sequence[tuple[Any, Any]], depth: int) -> Any:
        if len(entries) > MAX_ENTRIES:
            return TOO_LONG
        shown: dict[str, Any] = {}
        is_masked, redacted_key = self._redaction.is_masked, self._redaction.key
        redacted, value_of = self._redacted, self._value
        for key, value in entries:
            name = key if type(key) is str else self._name(key)
            if len(name) > MAX_READ_CHARACTERS:
                shown[TOO_LONG] = TOO_LONG
                continue
            self._work_left -= len(name)
            if is_masked(name):
                value = REDACTED
            elif name == "netloc" and type(value) is str and ":" in value.rpartition("@")[0]:
                value = f"{REDACTED}@{value.rpartition('@')[2]}"  # from urlsplit()
            if type(value) is str and len(value) <= MAX_READ_CHARACTERS:  # as in `_value`, without the call
                self._nodes_left -= 1
                self._work_left -= 1 + len(value)
                if self._nodes_left < 0 or self._work_left < 0:
                    raise _TooMuchError
                shown[redacted_key(name)] = redacted(value)
            else:
                shown[redacted_key(name)] = value_of(value, depth)
        return shown

    def _name(self, key: Any) -> str:
        """Return the key of a dict as a string."""
        kind = type(key)
        if kind is str:
            return str(key)
        if introspection.is_enum(kind):
            return _name_of_member(key, kind)
        if issubclass(kind, str):
            return str.__str__(key)
        if issubclass(kind, bytes):
            return bytes.decode(key, "utf-8", "backslashreplace")
        if introspection.is_exactly(key, _SCALARS):
            return str(key)
        if issubclass(kind, tuple) and tuple.__len__(key) <= MAX_ENTRIES:
            self._work_left -= tuple.__len__(key)
            if self._work_left < 0:
                raise _TooMuchError
            parts = (
                f"<{introspection.class_name(type(part))}>" if type(part) is tuple else self._name(part)
                for part in key
            )
            return f"({', '.join(parts)})"
        shown = self._value(key, MAX_DEPTH - 1)
        return shown if type(shown) is str else _to_json(shown)

    def _attributes(self, value: Any, kind: type, known: _Class) -> dict[str, Any] | None:
        """Return the attributes of an object, or `None` for a leaf.

        Class attributes with a secret's name are included, redacted.
        """
        own = introspection.instance_attributes(value) or {}
        if len(own) > MAX_ENTRIES:
            return own
        found: dict[str, Any] = {}
        for name, slot in known.slots:
            try:
                found[name] = REDACTED if self._redaction.is_masked(name) else slot.__get__(value)
            except AttributeError:  # not set
                continue
        if issubclass(kind, BaseException):
            found["args"] = introspection.exception_args(value)
        found.update(own.copy())
        for name in known.masked:
            found.setdefault(name, REDACTED)
        if not found and not introspection.has_attributes(kind):
            return None
        return {n: v for n, v in found.items() if type(n) is str and not n.startswith("__")}

    def _bytes(self, value: Any, base: Any) -> str:
        if base.__len__(value) > MAX_READ_CHARACTERS:
            return TOO_LONG
        plain = bytes(base.__getitem__(value, slice(None)))
        try:
            text = plain.decode()
        except UnicodeDecodeError:
            return self._leaf(plain)
        self._work_left -= len(text)
        return self._redacted(text)

    def _leaf(self, value: Any) -> str:
        try:
            text = str.__str__(repr(value))
        except Exception:
            return f"<{introspection.class_name(type(value))}>"
        self._work_left -= len(text)
        if len(text) > MAX_READ_CHARACTERS or self._redaction.value(text) != text:
            return REDACTED
        # Also check each word between the brackets and quotes of the repr.
        if any(self._redaction.key(word) != word for word in _WORD.findall(text)):
            return REDACTED
        return text


class _Class:
    """Cached facts about a class.

    Attributes:
        name: The module and the qualified name of the class.
        slots: The name and the descriptor of each slot.
        masked: The names of class attributes that name a secret, without methods.
    """

    __slots__ = ("masked", "name", "slots")

    def __init__(self, kind: type, is_masked: Matcher) -> None:
        self.name = introspection.qualified_name(kind)
        self.slots = introspection.slots(kind)
        self.masked = [
            name
            for cls in introspection.mro(kind)[:-1]
            for name, attribute in list(introspection.class_attributes(cls).items())
            if not issubclass(type(attribute), _FUNCTIONS) and is_masked(name)
        ]


_Show: TypeAlias = Callable[[_Renderer, Any, type, int], Any]


def _how_to_show(kind: type) -> _Show:
    """Return the function that renders instances of a class, for classes that `_value` does not handle."""
    if introspection.is_enum(kind):
        return lambda _, value, kind, depth: _name_of_member(value, kind)
    for base, show in _BY_BASE:
        if issubclass(kind, base):
            return show
    if any(
        (introspection.class_module(cls) or "builtins", introspection.class_name(cls)) in _VALUES
        for cls in introspection.mro(kind)
    ):
        return lambda renderer, value, kind, depth: renderer._leaf(value)
    return _Renderer._object


def _as_plain(plain: Callable[[Any], Any]) -> _Show:
    return lambda renderer, value, kind, depth: renderer._value(plain(value), depth)


def _as_collection(base: type) -> _Show:
    return lambda renderer, value, kind, depth: renderer._collection(base, value, depth)


_BY_BASE: tuple[tuple[type | tuple[type, ...], _Show], ...] = (
    (str, _as_plain(str.__str__)),
    (int, _as_plain(int.__index__)),
    (float, _as_plain(float.__float__)),
    (dict, _Renderer._dict),
    (tuple, _Renderer._tuple),
    (list, _as_collection(list)),
    (set, _as_collection(set)),
    (frozenset, _as_collection(frozenset)),
    (deque, _as_collection(deque)),
    (type({}.keys()), _as_collection(type({}.keys()))),
    (type({}.items()), _as_collection(type({}.items()))),
    (bytes, lambda renderer, value, kind, depth: renderer._bytes(value, bytes)),
    (bytearray, lambda renderer, value, kind, depth: renderer._bytes(value, bytearray)),
    (_CODE, lambda renderer, value, kind, depth: _name_of_code(value, kind)),
    # Show these by name: their attributes include the frame with all its variables.
    (
        _RUNNING,
        lambda renderer, value, kind, depth: f"<{introspection.class_name(kind)} {_running_name(value)}>",
    ),
)


def _running_name(value: Any) -> str:
    """Return the name of the function that a coroutine or generator runs."""
    for base in _RUNNING:
        if issubclass(type(value), base):
            return str(introspection.class_attributes(base)["__qualname__"].__get__(value))
    return "?"


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the field names of a namedtuple, or `None` for another tuple."""
    for cls in introspection.mro(kind):
        names = introspection.class_attributes(cls).get("_fields")
        if type(names) is tuple:
            return names
    return None


def _name_of_member(value: Any, kind: type) -> str:
    return (
        f"{introspection.class_name(kind)}.{(introspection.instance_attributes(value) or {}).get('_name_')}"
    )


def _name_of_code(value: Any, kind: type) -> str:
    """Return the name of a class, function or module: its `repr` could run code of the application."""
    if issubclass(kind, type):
        return f"<class {introspection.qualified_name(value)}>"
    if issubclass(kind, ModuleType):
        return f"<module {(introspection.instance_attributes(value) or {}).get('__name__')}>"
    function = value.__func__ if kind is MethodType else value
    named = introspection.is_exactly(function, (FunctionType, BuiltinFunctionType))
    return f"<{kind.__name__} {function.__qualname__ if named else introspection.class_name(type(function))}>"
