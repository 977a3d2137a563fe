"""Lazy proxies: objects that represent a target, as web frameworks represent the current user.

A proxy returns the class of its target as `__class__`. Each kind of proxy exposes the target in its own way:
werkzeug's `LocalProxy`, Django's lazy objects and strings, wrapt's `ObjectProxy` and similar classes.
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
    """Replaces a proxy that has no target, or whose target cannot be read."""


def resolved(value: Any) -> Any:
    """Return the target of a proxy, an `UnboundProxy` if the proxy fails, or any other value unchanged."""
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
    """Return the target of a proxy, which may be another proxy, or any other value unchanged.

    Raises:
        Exception: Any exception that the proxy raises.
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
