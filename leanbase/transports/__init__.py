"""How events go: one transport a module, and what a writer of transports needs.

`base` is the interface, with its words `Deadline` and `Receipt`. `http`, `sqs`, `log`, `spool` and `memory`
carry events somewhere; `fallback` and `buffered` go around others. Modules with an underscore are shared.
"""

from __future__ import annotations

from ..events.encoding import EncodedEvent
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt, Undelivered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .buffered import BufferedTransport
    from .fallback import FallbackTransport
    from .http import HttpTransport
    from .log import LogTransport
    from .memory import MemoryTransport
    from .spool import SpoolTransport
    from .sqs import SqsTransport

__all__ = [
    "BaseTransport",
    "BufferedTransport",
    "Deadline",
    "EncodedEvent",
    "FallbackTransport",
    "HttpTransport",
    "LogTransport",
    "MemoryTransport",
    "Receipt",
    "SpoolTransport",
    "SqsTransport",
    "Undelivered",
]

_MODULES = {
    "BufferedTransport": "buffered",
    "FallbackTransport": "fallback",
    "HttpTransport": "http",
    "LogTransport": "log",
    "MemoryTransport": "memory",
    "SpoolTransport": "spool",
    "SqsTransport": "sqs",
}


def _lazily(name: str) -> Any:
    """Import a transport when it is first asked for, so that none costs who does not use it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:  # checkers see the real names, and catch typos
    __getattr__ = _lazily
