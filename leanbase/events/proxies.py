"""Lazy proxies: objects that stand for another, as web frameworks hand out the current user.

They answer `__class__` with the class of what they stand for. Which object that is, each kind tells in its
own way: werkzeug's `LocalProxy`, Django's lazy objects and texts, wrapt's `ObjectProxy` and those like it.
"""

from __future__ import annotations

from ..interrupts import raise_interrupt
from ..introspection import mro

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST_CHAIN = 20
_LAZY_TEXT = ("django.utils.functional", "Promise")
_MISSING = object()


class UnboundProxy:
    """In place of a proxy that stands for nothing now, or fails when it is asked."""


def resolved(value: Any) -> Any:
    """What a proxy stands for, an `UnboundProxy` for one that fails; any other value as it is."""
    try:
        for _ in range(_LONGEST_CHAIN):
            behind = target(value)
            if behind is value:
                return str(value) if _is_lazy_text(type(value)) else value
            value = behind
    except Exception as error:
        raise_interrupt(error)
    return UnboundProxy()


def target(value: Any) -> Any:
    """What a proxy stands for, which may be another proxy; any other value as it is.

    Raises:
        Exception: Whatever the proxy raises.
    """
    if value.__class__ is type(value):
        return value
    current = getattr(value, "_get_current_object", None)
    if callable(current):
        return current()
    for attribute in ("__wrapped__", "_wrapped"):
        if (behind := getattr(value, attribute, _MISSING)) is not _MISSING:
            return behind
    return value


def _is_lazy_text(kind: type) -> bool:
    return any((cls.__module__, cls.__qualname__) == _LAZY_TEXT for cls in mro(kind))
