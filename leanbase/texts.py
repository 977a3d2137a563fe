"""Applies `str()` to values whose string may be huge.

The string of a tuple, a set or a dataclass repeats a part that occurs in two places. So thirty objects can
produce a string of gigabytes, and Python cannot tell the size before it writes the string.
"""

from __future__ import annotations

import gc
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Sequence
from types import MappingProxyType, SimpleNamespace

from . import introspection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_PARTS = 100_000
"""The maximum number of parts of a string that is created."""

CHARACTERS_OF_A_PART = 64

_LEAVES = frozenset({str, int, float, bool, bytes, type(None), type})

# Classes whose `__repr__` consists of the `repr` of the objects that they hold.
_CONTAINERS = frozenset(
    {
        *(tuple, list, dict, set, frozenset, deque, slice, MappingProxyType, SimpleNamespace),
        *(type({}.keys()), type({}.values()), type({}.items())),
        *(ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict),
    }
)
_MARKS_OF_MADE_REPRS = ("__dataclass_fields__", "__attrs_attrs__", "_fields")
"""Attributes of classes with a generated `__repr__`: dataclasses, attrs classes, named tuples."""


def text_of(value: Any) -> str:
    """Return `str()` of a value, or its class in angle brackets if the string would have too many parts.

    Raises:
        Exception: Any exception that a `__str__` of the application raises.

    >>> shared = []
    >>> for _ in range(50):
    ...     shared = [shared, shared]
    >>> text_of(ValueError(shared)), text_of((1, "a"))
    ('<ValueError>', "(1, 'a')")
    """
    if type(value) not in _LEAVES and _Parts().of(value) > MAX_PARTS:
        return f"<{introspection.class_name(type(value))}>"
    return str(value)


class _Parts:
    """Counts the parts that a string would have. It examines each object once."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def of(self, value: Any) -> int:
        kind = type(value)
        if kind is str or kind is bytes:
            return 1 + len(value) // CHARACTERS_OF_A_PART
        if kind in _LEAVES:
            return 1
        identity = id(value)
        known = self._known.get(identity)
        if known is None:
            self._known[identity] = 1  # a container that holds itself is written as `...`
            if len(self._known) > MAX_PARTS:
                return MAX_PARTS + 1
            try:
                known = 1 + sum([self.of(part) for part in _parts(value, kind)])
            except RecursionError:
                known = MAX_PARTS + 1
            self._known[identity] = known
        return known


def _parts(value: Any, kind: type) -> Sequence[Any]:
    """Return the parts of a value's string that are known without running its code."""
    if issubclass(kind, BaseException):
        own, arguments = introspection.definer(kind, "__str__"), introspection.exception_args(value)
        is_a_text = len(arguments) == 1 and type(arguments[0]) is str
        return () if is_a_text or introspection.class_module(own) is not None else arguments
    own = introspection.definer(kind, "__repr__")
    names = introspection.class_attributes(own)
    if own in _CONTAINERS or any(mark in names for mark in _MARKS_OF_MADE_REPRS):
        return gc.get_referents(value)
    return ()
