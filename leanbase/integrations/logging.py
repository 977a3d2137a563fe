"""Captures records of the standard library's `logging` as exceptions.

Example:
    import logging
    from leanbase.integrations.logging import LeanbaseHandler

    logging.getLogger().addHandler(LeanbaseHandler())
"""

from __future__ import annotations

import logging
import sys
import threading
from contextvars import ContextVar
from typing import Any

from ..client import Leanbase
from ..default import default_client
from ..error_tracking import metadata
from ..error_tracking.frames import Call, stack_calls
from ..error_tracking.subjects import Described, frame_text, guarded_text
from ..transports._http.sockets import current_attempt

_NOT_OF_THE_CALLER = (__name__.partition(".")[0], "logging")

_emitting: ContextVar[bool] = ContextVar("leanbase_emitting_log_record", default=False)


class LeanbaseHandler(logging.Handler):
    """Captures log records at a level and above.

    A record with exception information is captured as that exception. It is captured once, even if a context
    or decorator around it also captures exceptions. Any other record becomes an exception `LoggedError`,
    `LoggedWarning` …, with the message and the stack of the logging call. Both have the record's level and
    the properties `logger_name` and `logger_level`. The SDK's own records are skipped.

    Logging a record blocks like `capture`, and never raises.

    Args:
        level: The lowest level to capture, as a number or name of `logging`.
        client: The client that captures the records. Default: the default client, once it has its settings.

    Raises:
        TypeError: `client` is not a client.

    Examples:
        >>> log = logging.getLogger("shop")
        >>> log.addHandler(LeanbaseHandler())
        >>> log.error("no stock left of %s", "tea")
    """

    def __init__(self, level: int | str = logging.ERROR, client: Leanbase | None = None) -> None:
        super().__init__(level)
        if client is not None and not isinstance(client, Leanbase):
            raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
        self._client = client or default_client

    def addFilter(self, filter: Any) -> None:  # noqa: N802 - logging's name
        """Add a filter, but skip filters of Powertools: its `Logger` mutes the root logger's handlers."""
        if not type(filter).__module__.startswith("aws_lambda_powertools."):
            super().addFilter(filter)

    def handle(self, record: logging.LogRecord) -> Any:
        """Filter and capture a record, without a lock: threads must not wait for each other's requests."""
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Capture a record."""
        if _emitting.get() or current_attempt.get() is not None:
            return  # logged during a capture or a send of the SDK
        if record.name == "leanbase" or record.name.startswith("leanbase."):
            return
        try:
            _emitting.set(True)  # inside the `try`: a signal may interrupt after it
            self._capture(record)
        except Exception:
            self.handleError(record)
        finally:
            _emitting.set(False)

    def _capture(self, record: logging.LogRecord) -> None:
        properties = {"logger_name": record.name, "logger_level": record.levelname}
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        subject: object = record.exc_info
        if error is not None:
            properties["logger_message"] = _message(record)
        else:
            kind, text = f"Logged{record.levelname.capitalize()}", _message(record)
            subject = Described(kind, text, frames=None if _is_of_this_thread(record) else _place(record))
        self._client.report_exception(
            subject,
            metadata.Metadata(level=record.levelno),
            metadata.LOGGING,
            properties=properties,
            stack=_stack(record),
        )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the format
        return guarded_text(record.msg)


def _is_of_this_thread(record: logging.LogRecord) -> bool:
    return record.thread is None or record.thread == threading.get_ident()


def _place(record: logging.LogRecord) -> list[dict[str, Any]]:
    """Return the only known frame of a logging call in another thread or process."""
    return [frame_text(record.pathname, record.lineno, record.funcName or "", None)]


def _stack(record: logging.LogRecord) -> list[Call]:
    """Return the stack of the logging call. It ends at the record's line, if it contains that line."""
    calls = stack_calls(sys._getframe(), without=_NOT_OF_THE_CALLER)
    for position in range(len(calls) - 1, -1, -1):
        frame, lineno = calls[position]
        if lineno == record.lineno and frame.f_code.co_filename == record.pathname:
            return calls[: position + 1]
    return calls
