"""Hand-off to the log: each batch becomes one tagged line of JSON on stdout, which the relay reads."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DroppedError, TransportError
from ..events.encoding import EncodedEvent
from ..events.timestamps import utc_now
from ..forking import reset_in_child
from . import handoff
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt

if TYPE_CHECKING:
    from ..settings import Settings

logger = logging.getLogger("leanbase")

MAX_LINE_BYTES = 200_000
"""CloudWatch Logs accepts 256 KB for one line. A log agent may add to the line."""

STDOUT = 1

HIGH_LEVELS = ("WARN", "ERROR", "FATAL")
"""Values of `AWS_LAMBDA_LOG_LEVEL` with which Lambda discards lines of level INFO."""


class LogTransport(BaseTransport):
    """Writes events to stdout: one line for each batch, in one write, without Python's buffers.

    In Lambda the line goes to CloudWatch Logs, and a subscription sends it to the relay. With Lambda's JSON
    log format the line has a level that passes the function's `AWS_LAMBDA_LOG_LEVEL`. An event that does not
    fit into a line is compressed. If it still does not fit, the fallback gets it. Without a fallback it is
    dropped as `"too_large"`.

    Args:
        descriptor: The file descriptor to write to. Default: stdout.
        historical_migration: Whether to mark the events as a historical import.

    Examples:
        >>> transport = LogTransport()
    """

    @classmethod
    def from_settings(cls, settings: Settings) -> LogTransport:
        """Create a transport that writes to stdout."""
        return cls(historical_migration=settings.historical_migration)

    def __init__(self, descriptor: int = STDOUT, *, historical_migration: bool = False) -> None:
        self._descriptor = descriptor
        self._more = handoff.HISTORICAL if historical_migration else b""
        self._torn = False
        self._writes = 0
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Write the events.

        Blocks while the reader of the log is slow: until the deadline if the descriptor is non-blocking, else
        without a limit.
        """
        receipt = Receipt()
        sent = 0
        more = _json_log_members() + self._more
        for batch in handoff.split_by_size(events, MAX_LINE_BYTES - len(more)):
            line = handoff.encode(batch, more)
            if len(line) > MAX_LINE_BYTES:
                line = handoff.encode_gzip(batch, more)
            if len(line) > MAX_LINE_BYTES:
                error = DroppedError(
                    "too_large", f"an event of {len(batch[0])} bytes does not fit into a log line"
                )
                logger.error("1 event dropped: log: %s", error)
                receipt += Receipt.dropping(batch, "too_large", error)
            else:
                try:
                    self._write(line + b"\n", deadline)
                except OSError as error:
                    failure = TransportError(f"the log could not be written: {type(error).__name__}")
                    return receipt + Receipt.retaining(events[sent:], "unavailable", failure)
                receipt += Receipt(handed_off=len(batch))
            sent += len(batch)
        return receipt

    def _write(self, line: bytes, deadline: Deadline) -> None:
        with self._lock:
            if self._descriptor == STDOUT:
                # Flush the program's own output first, so that its lines stay whole and in order.
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
            self._writes = this = self._writes + 1
            rest = memoryview(b"\n" + line if self._torn else line)
            self._torn = True
            while rest:
                if self._writes != this:  # a signal handler wrote in the middle of the line: start a new one
                    self._writes = this = self._writes + 1
                    rest = memoryview(b"\n" + line)
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    if not select.select([], [self._descriptor], [], deadline.remaining())[1]:
                        raise
            self._torn = False


def _json_log_members() -> bytes:
    """Return JSON members with a level that passes Lambda's filter, or nothing without JSON logging."""
    if os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() != "JSON":
        return b""
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    passing = level if level in HIGH_LEVELS else "INFO"
    return f'"level":"{passing}","timestamp":"{utc_now().replace("+00:00", "Z")}",'.encode()
