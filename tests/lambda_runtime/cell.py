"""Runs one cell of the fault matrix.

A cell is a fault, a transport and a flush policy. It has a sandbox (`Emulator`, with `fault_handler.py` as the
function), a directory for the spool, and a `FaultServer`, which stands for the ingestion server and for SQS. The
first invocation captures events while the fault happens. The second invocation captures events without a fault, in
the same process or, if the fault ended it, in a new one. The outcome says when the events of the first invocation
arrived. Events arrive at the server, in a message to the queue, or in the log of the function.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lambda_runtime.emulator import HERE, Emulator
from tests.lambda_runtime.faults import DEFINITIONS, DISK, LOST, NEXT, SENT, WAYS, Fault
from tests.lambda_runtime.outgoing import outgoing_events
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS
from tests.support.sqs import QUEUE_PATH, accept_messages

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
PAUSE_SECONDS = 0.5
"""The pause of the circuit breaker in the function."""


class Cell:
    """One cell.

    Args:
        fault: The row.
        way: The transport.
        flush: The flush policy.
        tls_url: The URL of a server with an untrusted certificate.
    """

    def __init__(self, fault: Fault, way: str, flush: str, tls_url: str) -> None:
        self.fault = fault
        self.way = way
        self.server = FaultServer()
        self._directory = tempfile.TemporaryDirectory()
        self._earlier_log: list[str] = []
        self._environment = {
            "FLUSH": flush,
            "PAUSE": str(PAUSE_SECONDS),
            "LEANBASE_API_KEY": "phc_test",
            "LEANBASE_HOST": self.server.url,
            "LEANBASE_QUEUE_URL": self.server.url + QUEUE_PATH,
            "LEANBASE_SPOOL_DIRECTORY": str(Path(self._directory.name) / "spool"),
            **CREDENTIALS,
            **WAYS[way],
        }
        bundle = Path(self._directory.name) / "flags.json"
        bundle.write_bytes(DEFINITIONS)
        self._environment |= {name: value.format(flags=bundle) for name, value in fault.settings.items()}
        if fault.definitions is not None:
            self.server.routes["/flags/definitions"] = fault.definitions
        self._fault_environment = {
            name: value.format(tls=tls_url) for name, value in fault.environment.items()
        }
        self._set_behaviour(Behaviour())

    def __str__(self) -> str:
        return f"{self.fault.name}, {self.way}, {self._environment['FLUSH']}\n" + "\n".join(self.emulator.log)

    def _set_behaviour(self, behaviour: Behaviour) -> None:
        self.server.always(self._with_response_of_sqs(behaviour))

    def _with_response_of_sqs(self, behaviour: Behaviour) -> Behaviour:
        is_success = behaviour.status == 200
        return (
            replace(behaviour, respond=accept_messages()) if self.way == "sqs" and is_success else behaviour
        )

    def run(self) -> str:
        """Run both invocations, and return the outcome of the events of the first one."""
        try:
            self._start(**self._fault_environment)
            if self.fault.is_warm and not self._fault_environment:
                self.emulator.invoke({"count": 0})
            self.server.script(*map(self._with_response_of_sqs, self.fault.script))
            if self.fault.always is not None:
                self._set_behaviour(self.fault.always)
            self._invoke_with_fault()
            outcome = SENT if self._has_arrived("first") else None
            if self.fault.after is not None:
                self.fault.after(self)
            self._set_behaviour(Behaviour())
            if self.fault.ends_process:
                self.kill()
                self._start()
            elif self.fault.always is not None:
                time.sleep(PAUSE_SECONDS)
            self.emulator.invoke({"count": self.fault.events, "name": "second"})
            assert self._has_arrived("second"), f"{self}: the next invocation's events did not arrive"
            if outcome is None and self._has_arrived("first"):
                outcome = DISK if self.fault.ends_process else NEXT
            assert all(len(each) == 1 for each in self._uuids().values()), f"{self}: an event has two uuids"
            return outcome or LOST
        finally:
            self.kill()
            self.server.stop()
            self._directory.cleanup()

    def _invoke_with_fault(self) -> None:
        if self.fault.before is not None:
            self.fault.before(self)
        during = None
        if self.fault.during is not None:
            during = threading.Thread(target=self.fault.during, args=(self,), daemon=True)
            during.start()
        # A killed function does not respond.
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.emulator.invoke({"count": self.fault.events, "name": "first", **self.fault.event})
        if during is not None:
            during.join()

    def _start(self, **environment: str) -> None:
        self.emulator = Emulator(
            "fault_handler.handler", HERE, {**self._environment, **environment}, self.fault.timeout
        )

    # --- for the functions of a fault ----------------------------------------------------------------------

    def wait_for_request(self, path: str = "/") -> None:
        """Wait until the server has received the next request whose path begins so."""

        def count() -> int:
            return sum(each.line.split()[1].startswith(path) for each in list(self.server.requests))

        before, until = count(), time.monotonic() + 10
        while count() == before and time.monotonic() < until:
            time.sleep(0.005)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def freeze(self, seconds: float) -> None:
        self.emulator.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.emulator.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM to the process of the function alone, as a platform does."""
        for process in self.emulator.processes():
            if b"awslambdaric" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0"):
                with contextlib.suppress(ProcessLookupError):
                    if Path(f"/proc/{process}/exe").resolve().name.startswith("python"):
                        os.kill(process, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to all processes of the sandbox."""
        if self.emulator.kill():
            self._earlier_log += self.emulator.log

    # --- what has arrived ----------------------------------------------------------------------------------

    def _has_arrived(self, invocation: str) -> bool:
        """Return True if all events of an invocation have arrived. The log is read a little after it is written."""
        until = time.monotonic() + (1.0 if self.way == "log" else 0.0)
        while True:
            count = sum(name == invocation for name, _ in self._uuids())
            is_complete: bool = count == self.fault.events
            if is_complete or time.monotonic() >= until:
                return is_complete
            time.sleep(0.02)

    def _uuids(self) -> dict[Any, set[str]]:
        """Return the uuids of each captured event that has arrived."""
        found: dict[Any, set[str]] = defaultdict(set)
        for event in self._events():
            if event["event"] in ("captured", "$feature_flag_called"):
                properties = event["properties"]
                found[properties["invocation"], properties["number"]].add(event["uuid"])
        return found

    def _events(self) -> list[dict[str, Any]]:
        log = filter(self._is_kept, [*self._earlier_log, *self.emulator.log])
        return outgoing_events(self.way, self.server, log)

    def _is_kept(self, line: str) -> bool:
        """Return True if Lambda keeps a log line.

        With a configured level, Lambda drops JSON lines with a lower level. JSON without a level counts as INFO.
        """
        configured = self._fault_environment.get("AWS_LAMBDA_LOG_LEVEL")
        if configured is None or not line.startswith("{"):
            return True
        try:
            level = json.loads(line).get("level", "INFO")
        except ValueError:
            return True
        return LEVELS.index(level) >= LEVELS.index(configured)
