"""What becomes of the events of a program without a decorator when its process ends, by transport.

Each cell is run by `test_exit_faults.py` in a process of its own; `python -m scripts.guarantees_page` makes a page of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.fault_server import Behaviour

SENT = "sent"
"""Before the process is gone."""

DISK = "disk"
"""With the next process that has the same directory."""

TOLD = "told"
"""Lost, which an ERROR says with the number, and `on_error` hears of each event."""

LOST = "lost"
"""Lost in silence."""

WAYS: dict[str, dict[str, Any]] = {
    "http": {},
    "http, buffered": {"sync_mode": False, "flush_interval": 60.0},
    "http, fallback spool": {"fallback": "spool"},
    "spool": {"transport": "spool"},
    "sqs": {"transport": "sqs"},
    "log": {"transport": "log"},
}

AWAY = {"*": TOLD, "http, fallback spool": DISK, "spool": DISK, "log": SENT}
EVENTS = 5


@dataclass(frozen=True)
class ExitFault:
    """One row: how a program ends that captures events.

    Attributes:
        name: How it ends, as a reader of the page calls it.
        program: What it does; `capture()` captures the events, `wait()` waits for the server to be well again.
        expected: The outcome by way; `"*"` for all others.
        why: Why events can be lost in silence, if they can.
        server: How the server treats all requests until it is well again.
    """

    name: str
    program: str = "capture()"
    expected: Mapping[str, str] = field(default_factory=lambda: {"*": SENT})
    why: str = ""
    server: Behaviour = field(default_factory=Behaviour)

    def outcome(self, way: str) -> str:
        """What the table says of a cell."""
        return self.expected.get(way, self.expected["*"])


SPOOLED = {"*": SENT, "http, fallback spool": DISK, "spool": DISK}
BUFFERED = {"*": SENT, "http, buffered": LOST}

EXIT_FAULTS = (
    ExitFault("the program ends"),
    ExitFault(
        "it captures at exit, in a function that is registered with `atexit`", "atexit.register(capture)"
    ),
    ExitFault("it ends with an exception", "capture(); 1 / 0"),
    ExitFault("it ends with `sys.exit()`", "capture(); sys.exit(3)"),
    ExitFault(
        "the server answers 500 until shortly before the end",
        "capture(); wait()",
        SPOOLED,
        server=Behaviour(status=500),
    ),
    ExitFault("the server answers 500 to the end", expected=AWAY, server=Behaviour(status=500)),
    ExitFault("the server does not answer to the end", expected=AWAY, server=Behaviour(instead="silence")),
    ExitFault("SIGTERM, and `install_sigterm_handler()` was called", "handle(); capture(); terminate()"),
    ExitFault(
        "SIGTERM, which nobody handles",
        "capture(); terminate()",
        BUFFERED,
        "The signal kills on the spot. `leanbase.install_sigterm_handler()` sends what is buffered first.",
    ),
    ExitFault(
        "`os._exit()`",
        "capture(); os._exit(0)",
        BUFFERED,
        "Nothing is asked any more. Call `flush()` before it.",
    ),
    ExitFault("it is a child of `multiprocessing`", "child(multiprocessing)"),
    ExitFault("it is a worker of a `multiprocessing.Pool` that is left with `with`", "pool()"),
    ExitFault("it is a worker of Celery's prefork pool (billiard) that is recycled", "recycled()"),
)
