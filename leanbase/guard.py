"""Keeps event calls from raising into the application (G-1).

Two exceptions pass: one that a signal handler of the application raises, and the `TypeError` of a call whose
arguments do not fit the signature.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps

from .errors import InvalidEventError
from .interrupts import raise_interrupt
from .messages import log_internal_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

    class Client(Protocol):
        def _admits(self) -> bool: ...
        def _drop(self, reason: str) -> None: ...

    P = ParamSpec("P")
    T = TypeVar("T", bound=Client)

logger = logging.getLogger("leanbase")


FOREIGN_ARGUMENTS = {
    "anonymous_id": "is called distinct_id here; without one the event is anonymous",
    "context": "is not an argument: use tag() and new_context()",
    "integrations": "is not an argument: put what it says into properties",
    "message_id": "is called uuid here",
    "user_id": "is called distinct_id here",
}
"""Arguments of similar SDKs, and what to use instead."""


def event_call(method: Callable[Concatenate[T, P], str | None]) -> Callable[Concatenate[T, P], str | None]:
    """Turn every failure of a call that produces an event into a log record and the result `None`."""

    @wraps(method)
    def call(self: T, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        try:
            if self._admits():
                return method(self, *args, **kwargs)
            # Check the call even if nothing is sent, so that tests find wrong arguments.
            _check_call(method, self, args, kwargs)
            return None
        except InvalidEventError as error:
            reason = "invalid"
            logger.warning("%s(): %s; nothing is sent", method.__name__, error)
        except RecursionError:
            return None  # the application's own recursion has left no room for the call
        except Exception as error:
            raise_interrupt(error)
            if sys.is_finalizing():
                return None  # the ending interpreter has removed modules that the call needs
            if issubclass(type(error), TypeError):
                _check_call(method, self, args, kwargs)
            reason = "internal"
            log_internal_error(f"{method.__name__}()", error)
        self._drop(reason)
        return None

    return call


def _check_call(method: Callable[..., Any], self: object, args: Any, kwargs: Any) -> None:
    """Raise a TypeError with Python's own message if the arguments do not fit the signature (G-1)."""
    from inspect import signature

    try:
        signature(method).bind(self, *args, **kwargs)
    except TypeError as error:
        mistake = TypeError(f"{method.__name__}() {error}")
        for name in kwargs:
            if name in FOREIGN_ARGUMENTS and hasattr(mistake, "add_note"):  # since Python 3.11
                mistake.add_note(f"{name} {FOREIGN_ARGUMENTS[name]}")
        raise mistake from None
