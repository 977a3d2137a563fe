"""The transports, one in each module, and the interface for writing one.

`base` is the interface; `Deadline` and `Receipt` are its argument and its result. `http`, `sqs`, `log`,
`spool` and `memory` deliver, hand off or store events. `fallback` and `buffered` wrap other transports.
Modules whose names begin with an underscore have code that the transports share.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..events.encoding import EncodedEvent
    from .base import BaseTransport
    from .buffered import BufferedTransport
    from .deadline import Deadline
    from .fallback import FallbackTransport
    from .http import HttpTransport
    from .log import LogTransport
    from .memory import MemoryTransport
    from .receipt import Receipt, Undelivered
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
    "BaseTransport": ".base",
    "BufferedTransport": ".buffered",
    "Deadline": ".deadline",
    "EncodedEvent": "..events.encoding",
    "FallbackTransport": ".fallback",
    "HttpTransport": ".http",
    "LogTransport": ".log",
    "MemoryTransport": ".memory",
    "Receipt": ".receipt",
    "SpoolTransport": ".spool",
    "SqsTransport": ".sqs",
    "Undelivered": ".receipt",
}


def _lazily(name: str) -> Any:
    """Import a name when it is first used, so that an unused transport costs no import time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name], __name__), name)


if not TYPE_CHECKING:  # type checkers see the real names and find typos
    __getattr__ = _lazily
