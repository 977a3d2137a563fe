"""Event calls do not raise into the application (G-1), but for what its own signal handlers raise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps

from .errors import InvalidEventError
from .interrupts import raise_interrupt

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
    "send_feature_flags": "is not an argument yet",
    "user_id": "is called distinct_id here",
}
"""Arguments that SDKs of this family have, and what to do about them."""


def event_call(method: Callable[Concatenate[T, P], str | None]) -> Callable[Concatenate[T, P], str | None]:
    """Turn whatever goes wrong in a call that produces an event into a log record and the result `None`."""

    @wraps(method)
    def call(self: T, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
        try:
            if self._admits():
                return method(self, *args, **kwargs)
            # A call that does not fit must not go unnoticed where nothing is sent, as in tests.
            _check_call(method, self, args, kwargs)
            return None
        except InvalidEventError as error:
            reason = "invalid"
            logger.warning("%s() %s; nothing is sent", method.__name__, error)
        except RecursionError:
            return None  # the application's own recursion has left no room for the call
        except Exception as error:
            raise_interrupt(error)
            if sys.is_finalizing():
                return None  # the interpreter has taken away modules that the call needs
            if issubclass(type(error), TypeError):
                _check_call(method, self, args, kwargs)
            reason = "internal"
            log_internal(method.__name__, error)
        self._drop(reason)
        return None

    return call


def _check_call(method: Callable[..., Any], self: object, args: Any, kwargs: Any) -> None:
    """Raise Python's own TypeError when the arguments do not fit the signature (G-1)."""
    from inspect import signature

    try:
        signature(method).bind(self, *args, **kwargs)
    except TypeError as error:
        mistake = TypeError(f"{method.__name__}() {error}")
        for name in kwargs:
            if name in FOREIGN_ARGUMENTS and hasattr(mistake, "add_note"):  # since Python 3.11
                mistake.add_note(f"{name} {FOREIGN_ARGUMENTS[name]}")
        raise mistake from None


def log_internal(call: str, error: Exception) -> None:
    """Log an exception that is a defect of this package; what a signal handler has raised goes on."""
    raise_interrupt(error)
    # The text of an exception may quote a property value; its type and place do not.
    logger.error("%s(): internal error %s; please report it", call, type(error).__name__)
    logger.debug("%s() failed here:", call, exc_info=error)
