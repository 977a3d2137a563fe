"""The fault matrix of programs without a decorator: what becomes of their events when they end, by transport.

`test_exit_faults.py` runs each cell in a process of its own. `python -m scripts.guarantees_page` makes a page
of the cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.fault_server import Behaviour

SENT = "sent"
"""Sent before the process has ended."""

DISK = "disk"
"""Sent by the next process that has the same directory."""

REPORTED = "reported"
"""Lost. An ERROR has the number of lost events, and `on_error` gets each of them."""

LOST = "lost"
"""Lost without a report."""

WAYS: dict[str, dict[str, Any]] = {
    "http": {},
    "http, buffered": {"sync_mode": False, "flush_interval": 60.0},
    "http, fallback spool": {"fallback": "spool"},
    "spool": {"transport": "spool"},
    "sqs": {"transport": "sqs"},
    "log": {"transport": "log"},
}
"""The transports, with the options that choose them."""

EVENTS = 5
"""The number of events that each program captures."""


@dataclass(frozen=True)
class ExitFault:
    """One row: how a program ends that captures events.

    Attributes:
        name: How it ends, as the page says it.
        ending: The function of `programs/endings.py` that does it.
        expected: The outcome by transport; `"*"` for all others.
        why: The reason why events can be lost without a report, if they can.
        server: How the server treats all requests, until a program that waits for the server is ready.
    """

    name: str
    ending: str = "return_normally"
    expected: Mapping[str, str] = field(default_factory=lambda: {"*": SENT})
    why: str = ""
    server: Behaviour = field(default_factory=Behaviour)

    def outcome(self, way: str) -> str:
        """Return the expected outcome of a cell."""
        return self.expected.get(way, self.expected["*"])


UNAVAILABLE = {"*": REPORTED, "http, fallback spool": DISK, "spool": DISK, "log": SENT}
SPOOLED = {"*": SENT, "http, fallback spool": DISK, "spool": DISK}
BUFFER_LOST = {"*": SENT, "http, buffered": LOST}

EXIT_FAULTS = (
    ExitFault("it runs to its end"),
    ExitFault("it captures at exit, in a function registered with `atexit`", "capture_at_exit"),
    ExitFault("it ends with an exception", "raise_an_exception"),
    ExitFault("it ends with `sys.exit()`", "exit_with_a_code"),
    ExitFault(
        "the server responds with 500 until shortly before the end",
        "wait_for_the_server",
        SPOOLED,
        server=Behaviour(status=500),
    ),
    ExitFault(
        "the server responds with 500 until the end", expected=UNAVAILABLE, server=Behaviour(status=500)
    ),
    ExitFault(
        "the server does not respond until the end", expected=UNAVAILABLE, server=Behaviour(instead="silence")
    ),
    ExitFault("it receives SIGTERM, and `install_sigterm_handler()` was called", "terminate_with_handler"),
    ExitFault(
        "it receives SIGTERM, and has no handler",
        "terminate_without_handler",
        BUFFER_LOST,
        "SIGTERM kills the process at once. With `leanbase.install_sigterm_handler()`, buffered events are sent first.",
    ),
    ExitFault(
        "it calls `os._exit()`",
        "exit_at_once",
        BUFFER_LOST,
        "`os._exit()` runs no exit hooks. Call `flush()` before it.",
    ),
    ExitFault("it is a child of `multiprocessing`", "end_in_a_child"),
    ExitFault("it is a worker of a `multiprocessing.Pool` in a `with` block", "end_in_a_pool"),
    ExitFault(
        "it is a worker of Celery's prefork pool (billiard) that is recycled",
        "end_in_a_recycled_billiard_worker",
    ),
)
