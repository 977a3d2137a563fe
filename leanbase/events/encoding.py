"""Encodes any Python value as strict JSON bytes.

`sanitize` turns any value into plain `dict`, `list`, `str`, `int`, `float`, `bool` and `None`, and does not
change the caller's objects. `encode` writes the finished event as UTF-8 bytes. Each of the rules S-1 to S-29
is one row of the table near the end, or one branch of `_Sanitizer`.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from itertools import islice

from ..errors import EventTooLargeError
from ..interrupts import raise_interrupt
from ..introspection import mro
from ..texts import text_of
from .proxies import target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 64
MAX_ENTRIES = 10_000
MAX_TEXT_OF_OTHERS = 1024
MAX_PLAIN_NODES = 1000
MAX_PLAIN_DEPTH = 16
MAX_PLAIN_TEXT = 4096
"""Larger containers are copied and measured, because a graph with shared references may become huge."""

BYTES_OF_A_NODE = 2
"""The minimum bytes of one node with its separator."""
MAX_EVENT_BYTES = 900 * 1024
"""The maximum size of one event (W-20). Every transport can carry it (SQS takes 1 MiB per message)."""

_MAX_HUGE_INT = 10**4000
_NONE = type(None)


class EncodedEvent:
    """One event as the bytes that are sent. It is never encoded again.

    Attributes:
        uuid: The event's uuid, also inside `body`.
        body: One JSON object as UTF-8, at most `MAX_EVENT_BYTES` long.
        scope: The delivery scope in which it was captured, if any.
        is_quiet: Whether its failure is not reported to `on_error`, because `on_error` captured it.
        is_historical: Whether the relay got it in a message of a historical import.
    """

    __slots__ = ("body", "is_quiet", "scope", "uuid")

    is_historical = False

    def __init__(self, uuid: str, body: bytes) -> None:
        self.uuid = uuid
        self.body = body
        self.scope: Any = None
        self.is_quiet = False

    def __len__(self) -> int:
        return len(self.body)

    def __repr__(self) -> str:
        return f"<EncodedEvent {self.uuid}, {len(self.body)} bytes>"

    def decode(self) -> dict[str, Any]:
        """Return the event as a new dict at every call."""
        event: dict[str, Any] = json.loads(self.body)
        return event


class HistoricalEncodedEvent(EncodedEvent):
    """An event that the relay must send with `historical_migration`."""

    __slots__ = ()

    is_historical = True


class Written:
    """Properties that many events share, with their JSON.

    Args:
        properties: Plain values only. They must never change.

    Attributes:
        names: The names of the properties.
        text: Their JSON, without the braces.
    """

    __slots__ = ("names", "properties", "text")

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.properties = properties
        self.names = frozenset(properties)
        self.text = _to_text(dict(properties))[1:-1]


def encode(event: dict[str, Any], *written: Written) -> EncodedEvent:
    """Encode a finished event.

    Args:
        event: Plain values only, as `sanitize` returns them, with a valid `uuid`. The properties come last.
        written: More properties, with other names; at least one in each.

    Raises:
        EventTooLargeError: The event is larger than `MAX_EVENT_BYTES`.
    """
    try:
        text = _to_text(event)
    except (TypeError, ValueError):
        # Another thread has changed a value since it was sanitized.
        event = sanitize_dict(event)
        text = _to_text(event)
    if written:
        parts = [each.text for each in written]
        if not text.endswith("{}}"):
            parts.insert(0, "")
        text = f"{text[:-2]}{','.join(parts)}}}}}"
    try:
        body = text.encode()
    except UnicodeEncodeError:
        # Halves of surrogate pairs (S-1): repaired here, without a search in every string. Decode to a dict,
        # because two keys may have become equal.
        event = json.loads(_clean(text))
        body = _to_text(event).encode()
    if len(body) > MAX_EVENT_BYTES:
        raise EventTooLargeError(len(body), MAX_EVENT_BYTES)
    return EncodedEvent(event["uuid"], body)


def _clean(text: str) -> str:
    """Join the halves of surrogate pairs; a lone half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def sanitize(value: object) -> Any:
    """Return `value` as plain JSON values. A value without a JSON format becomes a useful string.

    Strings stay as they are; `encode` repairs halves of surrogate pairs in them. The value is never changed.
    If another thread changes it meanwhile, the result has either version.

    Raises:
        EventTooLargeError: The value cannot fit into an event: a small graph with shared references can
            become a huge JSON document. Nothing else is raised.

    >>> sanitize({"at": float("nan"), ("a", 1): b"bytes"})
    {'at': None, "('a', 1)": 'bytes'}
    """
    return _Sanitizer().value(value)


def sanitize_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """Sanitize properties that are encoded at once. The new dict holds the caller's own plain containers.

    Raises:
        EventTooLargeError: As for `sanitize`.
        RecursionError: As for `sanitize_dict`.
    """
    plain = properties.copy()  # one step: another thread cannot change the dict during the loop
    walk, left = None, MAX_PLAIN_NODES - len(plain)
    for name, value in plain.items():
        if left < 0 or type(name) is not str:
            return sanitize_dict(properties)
        kind = type(value)
        if kind is str:
            if len(value) <= MAX_PLAIN_TEXT:
                continue
        elif kind is dict or kind is list:
            nodes_left = _nodes_left(value, left)
            if nodes_left >= 0:
                left = nodes_left
                continue
        elif value is None or kind is bool or (kind is float and value - value == 0.0):
            continue
        if walk is None:
            walk = _Sanitizer()
            walk.open.add(id(properties))
        plain[name] = walk.value(value)
    return plain


def sanitize_dict(value: dict[str, Any]) -> dict[str, Any]:
    """Sanitize a dict. Raises RecursionError where `sanitize` returns a string."""
    plain = sanitize(value)
    if type(plain) is not dict:
        raise RecursionError("a dict could not be read at the recursion limit")
    return plain


# Values that arrive here are plain and acyclic: `sanitize` has already done the circular check.
def json_writer(between_items: str, after_key: str) -> Callable[[Any], str]:
    """Return a function that writes plain and acyclic values as JSON, with these separators.

    `json.JSONEncoder` creates such a function again for each call.
    """
    json_encoder = json.JSONEncoder(
        ensure_ascii=False, check_circular=False, allow_nan=False, separators=(between_items, after_key)
    )
    from json import encoder as module

    encoder: Any = module
    if encoder.c_make_encoder is None:
        return json_encoder.encode
    # The arguments: those of `JSONEncoder.iterencode`.
    write = encoder.c_make_encoder(
        None,
        json_encoder.default,
        encoder.encode_basestring,
        None,
        after_key,
        between_items,
        False,
        False,
        False,
    )
    join: Callable[[Any], str] = "".join
    return lambda value: join(write(value, 0))


_to_text = json_writer(",", ":")


class _Sanitizer:
    """One pass over one value. Tracks the containers above the current node, and the bytes left."""

    __slots__ = ("bytes_left", "open")

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.bytes_left = MAX_EVENT_BYTES

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            self.spend(len(value))
            return value
        if kind is bool or kind is _NONE:
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**64 else _big_int(value)
        if kind is float:
            return value if math.isfinite(value) else None
        try:
            if kind is dict:
                # copy() is one step, so that another thread cannot change the dict during the loop.
                return self.object(value, value.copy().items())
            if kind is list or kind is tuple:
                return self.array(value, value)
            return self.other(value, kind)
        except EventTooLargeError:
            raise
        except Exception as error:
            raise_interrupt(error)
            return _unreadable(kind)

    # `object` and `array` are the hot path: their shared code is repeated in both, and `spend` is inlined.

    def object(self, value: Any, items: Collection[tuple[Any, Any]]) -> Any:
        """Return a dict of `items`, which come from `value`."""
        opened, identity = self.open, id(value)
        if identity in opened or len(opened) >= MAX_DEPTH:
            return self.refused()
        opened.add(identity)
        try:
            too_many = len(items) > MAX_ENTRIES
            size = BYTES_OF_A_NODE * len(items)
            result: dict[str, Any] = {}
            for key, item in islice(items, MAX_ENTRIES) if too_many else items:
                if type(key) is not str:
                    key = self.key(key)
                    if key is None:
                        continue
                size += len(key)
                kind = type(item)
                if kind is str:
                    size += len(item)
                    result[key] = item
                elif item is None or kind is bool or (kind is int and -(2**63) <= item < 2**63):
                    result[key] = item
                else:
                    result[key] = self.value(item)
            if too_many:
                result["$truncated"] = True
        finally:
            opened.discard(identity)
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise EventTooLargeError(MAX_EVENT_BYTES - self.bytes_left, MAX_EVENT_BYTES)
        return result

    def array(self, value: Any, items: Iterable[Any]) -> Any:
        """Return a list of `items`, which come from `value`."""
        opened, identity = self.open, id(value)
        if identity in opened or len(opened) >= MAX_DEPTH:
            return self.refused()
        opened.add(identity)
        try:
            taken = list(islice(items, MAX_ENTRIES + 1))
            too_many = len(taken) > MAX_ENTRIES
            if too_many:
                del taken[MAX_ENTRIES:]
            size = BYTES_OF_A_NODE * len(taken)
            result = []
            for item in taken:
                if type(item) is str:
                    size += len(item)
                    result.append(item)
                else:
                    result.append(self.value(item))
            if too_many:
                result.append("<truncated>")
        finally:
            opened.discard(identity)
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise EventTooLargeError(MAX_EVENT_BYTES - self.bytes_left, MAX_EVENT_BYTES)
        return result

    def replaced(self, value: Any, replacement: Any) -> Any:
        """Sanitize the replacement of a value one level down, while `value` itself counts as open above."""
        opened, identity = self.open, id(value)
        if identity in opened or len(opened) >= MAX_DEPTH:
            return self.refused()
        opened.add(identity)
        try:
            return self.value(replacement)
        finally:
            opened.discard(identity)

    def refused(self) -> str:
        return "<max depth>" if len(self.open) >= MAX_DEPTH else "<circular>"

    def spend(self, size: int) -> None:
        """Subtract bytes. Raise as soon as it is certain that the JSON will not fit, before it is written."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise EventTooLargeError(MAX_EVENT_BYTES - self.bytes_left, MAX_EVENT_BYTES)

    def key(self, key: Any) -> str | None:
        """Return the string for a key that is not exactly a `str` (S-14), or `None` if that fails."""
        try:
            if isinstance(key, Enum):
                key = key.value
            if isinstance(key, str):
                return str.__str__(key)
            if key is None or isinstance(key, (bool, int, float)):
                plain = self.value(key)
                return plain if isinstance(plain, str) else _to_text(plain)
            for cls in mro(type(key)):
                if (cls.__module__, cls.__qualname__) in _TEXT_KEYS:
                    return str(self.value(key))
            return text_of(key)
        except Exception as error:
            raise_interrupt(error)
            return None

    def other(self, value: Any, kind: type) -> Any:
        """Convert a value whose type is not exactly one of JSON's own types."""
        if issubclass(kind, Enum):
            return self.replaced(value, value._value_)
        for cls in mro(kind):
            convert = _BY_CLASS.get((cls.__module__, cls.__qualname__))
            if convert is not None:
                return convert(self, value)
        behind = target(value)
        if behind is not value:
            return self.replaced(value, behind)
        fields = getattr(kind, "__dataclass_fields__", None)
        if fields is None and (attrs := getattr(kind, "__attrs_attrs__", None)) is not None:
            fields = [attribute.name for attribute in islice(attrs, MAX_ENTRIES + 1)]
        if fields is not None:
            return self.object(value, [(f, getattr(value, f)) for f in islice(fields, MAX_ENTRIES + 1)])
        for method in ("model_dump", "dict"):  # pydantic v2, v1
            if callable(getattr(kind, method, None)):
                content = getattr(value, method)()
                if not isinstance(content, Mapping):
                    return _unreadable(kind)
                return self.replaced(value, content)
        if issubclass(kind, Mapping):
            items = [(key, value[key]) for key in islice(value, MAX_ENTRIES + 1)]
            return self.object(value, items)
        if any(hasattr(kind, method) for method in ("__next__", "__anext__", "__await__")):
            return f"<{kind.__name__}>"
        if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
            return _unreadable(kind)
        return text_of(value)[:MAX_TEXT_OF_OTHERS]


def _nodes_left(container: Any, left: int, depth: int = MAX_PLAIN_DEPTH) -> int:
    """Return `left` minus the nodes of a dict or list, or -1 if it is not plain, too deep or too big.

    Plain means exactly the types of JSON, with values that `_Sanitizer` does not change. This check takes a
    third of the time of a copy.
    """
    left -= len(container)
    if left < 0 or not depth:
        return -1
    items = container
    try:
        if type(container) is dict:
            for key in container:
                if type(key) is not str or len(key) > MAX_PLAIN_TEXT:
                    return -1
            items = container.values()
        for item in items:
            kind = type(item)
            if kind is str:
                if len(item) > MAX_PLAIN_TEXT:
                    return -1
            elif kind is int:
                if not -(2**63) <= item < 2**64:
                    return -1
            elif kind is float:
                if item - item != 0.0:  # NaN or infinite
                    return -1
            elif kind is dict or kind is list:
                left = _nodes_left(item, left, depth - 1)
                if left < 0:
                    return -1
            elif item is not None and kind is not bool:
                return -1
    except RuntimeError:  # another thread has changed the dict
        return -1
    return left


def _big_int(value: int) -> str:
    # Compare before str(): it raises for an int of more than 4300 digits, or above a limit that is set lower.
    try:
        return str(value) if -_MAX_HUGE_INT < value < _MAX_HUGE_INT else "<huge int>"
    except ValueError:
        return "<huge int>"


def _unreadable(kind: type) -> str:
    try:
        return f"<{_qualified(kind)}>"
    except Exception:  # a metaclass may return anything as __qualname__
        return "<object>"


def _qualified(thing: Any) -> str:
    module = thing.__module__
    name: str = thing.__qualname__
    return name if module in (None, "builtins") else f"{module}.{name}"


def _decimal(value: Any) -> Any:
    if not value.is_finite():
        return None
    # adjusted() first: 1E+1000000 must not become a million digits.
    if value.adjusted() < 20 and value == value.to_integral_value():
        whole = int(value)
        if -(2**63) <= whole < 2**64:
            return whole
    near = float(value)
    return near if math.isfinite(near) and type(value)(repr(near)) == value else str(value)


def _bytes(value: Any) -> str:
    data = bytes(value)
    try:
        return data.decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return b64encode(data).decode()


def _sorted_by(iterate: Callable[[Any], Iterable[Any]]) -> Callable[[_Sanitizer, Any], Any]:
    """Return the conversion for a collection without an order. Its items are sorted if possible."""

    def convert(walk: _Sanitizer, value: Any) -> Any:
        items = list(iterate(value))
        try:
            items.sort()
        except Exception as error:
            raise_interrupt(error)
        return walk.array(value, items)

    return convert


def _values(walk: _Sanitizer, value: Any) -> Any:
    """Convert the values of a dict: sorted like a set, except containers, whose comparison may never end."""
    has_containers = any(isinstance(item, (list, tuple, dict)) for item in value)
    return walk.array(value, list(value)) if has_containers else _sorted_by(iter)(walk, value)


def _tuple(walk: _Sanitizer, value: Any) -> Any:
    fields = getattr(type(value), "_fields", None)
    if isinstance(fields, tuple) and len(fields) == tuple.__len__(value):
        return walk.object(value, list(zip(fields, tuple.__iter__(value), strict=True)))
    return walk.array(value, tuple.__iter__(value))


def _array(walk: _Sanitizer, value: Any) -> Any:
    if value.size > MAX_ENTRIES:
        return f"<array dtype={value.dtype} shape={value.shape}>"
    return walk.replaced(value, value.tolist())


def _numpy_array(walk: _Sanitizer, value: Any) -> Any:
    if value.size > MAX_ENTRIES or value.dtype.char not in _NUMPY_TYPES_OF_ITS_OWN:
        return _array(walk, value)
    return walk.replaced(value, list(value) if value.ndim else value[()])


def _numpy_scalar(walk: _Sanitizer, value: Any) -> Any:
    kind = value.dtype.char
    if kind == "M":
        return None if value != value else str(value)
    if kind == "m":
        try:
            return walk.value(float(value / type(value)(1, "s")))
        except TypeError:
            return str(value)  # months, years and steps without a unit have no length in seconds
    if kind in _NUMPY_TYPES_OF_ITS_OWN:
        return walk.value(float(value) if kind == "g" else str(value))
    return walk.replaced(value, value.item())


_NUMPY_TYPES_OF_ITS_OWN = "mMgG"
"""NumPy type codes with their own conversion: durations, times, extended floats and their complex numbers."""


def _text(convert: Callable[[Any], object]) -> Callable[[_Sanitizer, Any], Any]:
    """Return the conversion for a value that `convert` turns into a plain value."""
    return lambda walk, value: walk.value(convert(value))


def _array_of(convert: Callable[[Any], Iterable[Any]]) -> Callable[[_Sanitizer, Any], Any]:
    return lambda walk, value: walk.array(value, convert(value))


# Looked up by name for each class in the MRO of a value. So a type of a module that was never imported costs
# nothing, and a subclass is converted like its base class (S-28).
_BY_CLASS: dict[tuple[str, str], Callable[[_Sanitizer, Any], Any]] = {
    ("builtins", "str"): _text(str.__str__),
    ("builtins", "int"): _text(int.__index__),
    ("builtins", "float"): _text(float.__float__),
    ("builtins", "dict"): lambda walk, value: walk.object(value, dict.copy(value).items()),
    ("builtins", "list"): _array_of(list.__iter__),
    ("builtins", "tuple"): _tuple,
    ("builtins", "set"): _sorted_by(set.__iter__),
    ("builtins", "frozenset"): _sorted_by(frozenset.__iter__),
    ("builtins", "dict_keys"): _sorted_by(iter),
    ("builtins", "dict_values"): _values,
    ("builtins", "dict_items"): _sorted_by(iter),
    ("builtins", "range"): _array_of(iter),
    ("collections", "deque"): _array_of(deque.__iter__),
    ("builtins", "bytes"): _text(_bytes),
    ("builtins", "bytearray"): _text(_bytes),
    ("builtins", "memoryview"): _text(_bytes),
    ("builtins", "complex"): _text(str),
    ("builtins", "type"): _text(_qualified),
    ("builtins", "function"): _text(_qualified),
    ("builtins", "builtin_function_or_method"): _text(_qualified),
    ("builtins", "method"): _text(lambda method: _qualified(method.__func__)),
    ("builtins", "BaseException"): _text(lambda error: f"{type(error).__name__}: {text_of(error)}"),
    ("decimal", "Decimal"): _text(_decimal),
    ("fractions", "Fraction"): _text(float),
    ("datetime", "datetime"): _text(lambda moment: moment.isoformat()),
    ("datetime", "date"): _text(lambda day: day.isoformat()),
    ("datetime", "time"): _text(lambda time: time.isoformat()),
    ("datetime", "timedelta"): _text(lambda delta: delta.total_seconds()),
    ("uuid", "UUID"): _text(str),
    ("pathlib", "PurePath"): _text(str),
    ("pathlib._local", "PurePath"): _text(str),
    ("ipaddress", "_IPAddressBase"): _text(str),
    ("numpy", "generic"): _numpy_scalar,
    ("numpy", "ndarray"): _numpy_array,
    ("pandas", "Series"): _array,
    ("pandas.core.series", "Series"): _array,
    ("pandas", "Index"): _array,
    ("pandas.core.indexes.base", "Index"): _array,
}
_TEXT_KEYS = {("uuid", "UUID"), ("datetime", "datetime"), ("datetime", "date"), ("datetime", "time")}
