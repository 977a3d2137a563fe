"""What a cell of the fault matrix happens in: a sandbox, a disk, and a server."""

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

from leanbase.relay.cloudwatch_logs import TAGGED
from leanbase.transports import handoff
from tests.lambda_runtime.emulator import Emulator
from tests.lambda_runtime.faults import DISK, LOST, NEXT, SENT, WAYS, Fault
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS
from tests.transports.test_sqs import QUEUE, taking

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
HERE = Path(__file__).parent
PAUSE_SECONDS = 0.5
"""Of the circuit breaker."""


class World:
    """One cell.

    Args:
        fault: The row.
        way: The transport.
        flush: The policy.
        tls_url: A server whose certificate nobody trusts.
    """

    def __init__(self, fault: Fault, way: str, flush: str, tls_url: str) -> None:
        self.fault = fault
        self.way = way
        self.server = FaultServer()
        self._disk = tempfile.TemporaryDirectory()
        self._lines: list[str] = []
        self._environment = {
            "FLUSH": flush,
            "PAUSE": str(PAUSE_SECONDS),
            "LEANBASE_API_KEY": "phc_test",
            "LEANBASE_HOST": self.server.url,
            "LEANBASE_QUEUE_URL": self.server.url + QUEUE,
            "LEANBASE_SPOOL_DIRECTORY": str(Path(self._disk.name) / "spool"),
            **CREDENTIALS,
            **WAYS[way],
        }
        self._during = {name: value.format(tls=tls_url) for name, value in fault.environment.items()}
        self._be(Behaviour())

    def __str__(self) -> str:
        return f"{self.fault.name}, {self.way}, {self._environment['FLUSH']}\n" + "\n".join(self.emulator.log)

    def _be(self, behaviour: Behaviour) -> None:
        self.server.always(self._of_queue(behaviour))

    def _of_queue(self, behaviour: Behaviour) -> Behaviour:
        fine = self.way == "sqs" and behaviour.status == 200
        return replace(behaviour, respond=taking()) if fine else behaviour

    def run(self) -> str:
        """Let it happen, and say when the events arrived."""
        try:
            self._start(**self._during)
            if self.fault.warm and not self._during:
                self.emulator.invoke({"count": 0})
            self.server.script(*map(self._of_queue, self.fault.script))
            if self.fault.always is not None:
                self._be(self.fault.always)
            self._invoke_with_fault()
            outcome = SENT if self._arrived("first") else None
            if self.fault.after is not None:
                self.fault.after(self)
            self._be(Behaviour())
            if self.fault.gone:
                self.kill()
                self._start()
            elif self.fault.always is not None:
                time.sleep(PAUSE_SECONDS)
            self.emulator.invoke({"count": self.fault.events, "name": "second"})
            assert self._arrived("second"), f"{self}: the next invocation's events did not arrive"
            if outcome is None and self._arrived("first"):
                outcome = DISK if self.fault.gone else NEXT
            assert all(len(each) == 1 for each in self._uuids().values()), f"{self}: an event has two ids"
            return outcome or LOST
        finally:
            self.kill()
            self.server.stop()
            self._disk.cleanup()

    def _invoke_with_fault(self) -> None:
        if self.fault.before is not None:
            self.fault.before(self)
        during = None
        if self.fault.during is not None:
            during = threading.Thread(target=self.fault.during, args=(self,), daemon=True)
            during.start()
        with contextlib.suppress(OSError, http.client.HTTPException):  # killed, it does not answer
            self.emulator.invoke({"count": self.fault.events, "name": "first", **self.fault.event})
        if during is not None:
            during.join()

    def _start(self, **environment: str) -> None:
        self.emulator = Emulator(
            "fault_handler.handler", HERE, {**self._environment, **environment}, self.fault.timeout
        )

    # --- what can be done to it ----------------------------------------------------------------------------

    def wait_for_request(self) -> None:
        """Wait until the server has the next request."""
        before = len(self.server.requests)
        until = time.monotonic() + 10
        while len(self.server.requests) == before and time.monotonic() < until:
            time.sleep(0.005)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def freeze(self, seconds: float) -> None:
        self.emulator.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.emulator.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM for the function's process alone, as a platform sends it."""
        for process in self.emulator.processes():
            if b"awslambdaric" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0"):
                with contextlib.suppress(ProcessLookupError):
                    if Path(f"/proc/{process}/exe").resolve().name.startswith("python"):
                        os.kill(process, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, for all of it."""
        if self.emulator.kill():
            self._lines += self.emulator.log

    # --- what arrived --------------------------------------------------------------------------------------

    def _arrived(self, invocation: str) -> bool:
        """Whether all events of an invocation did. A log is read a little later than it is written."""
        until = time.monotonic() + (1.0 if self.way == "log" else 0.0)
        while True:
            count = sum(name == invocation for name, _ in self._uuids())
            all_of_them: bool = count == self.fault.events
            if all_of_them or time.monotonic() >= until:
                return all_of_them
            time.sleep(0.02)

    def _uuids(self) -> dict[Any, set[str]]:
        """The ids under which each captured event arrived."""
        found: dict[Any, set[str]] = defaultdict(set)
        for event in self._events():
            if event["event"] == "captured":
                properties = event["properties"]
                found[properties["invocation"], properties["number"]].add(event["uuid"])
        return found

    def _events(self) -> list[dict[str, Any]]:
        requests = list(self.server.accepted)
        if self.way == "sqs":
            messages = [entry["MessageBody"] for each in requests for entry in each.envelope["Entries"]]
        elif self.way == "log":
            lines = filter(self._passes, [*self._lines, *self.emulator.log])
            tagged = [(line, found.start()) for line in lines if (found := TAGGED.search(line))]
            return [event.decode() for line, start in tagged for event in handoff.decode(line, start)]
        else:
            return [event for request in requests for event in request.events]
        return [event.decode() for message in messages for event in handoff.decode(message)]

    def _passes(self, line: str) -> bool:
        """Whether Lambda keeps a line: at this level it drops JSON of a lower one, or without any."""
        wanted = self._during.get("AWS_LAMBDA_LOG_LEVEL")
        if wanted is None or not line.startswith("{"):
            return True
        try:
            level = json.loads(line).get("level", "INFO")
        except ValueError:
            return True
        return LEVELS.index(level) >= LEVELS.index(wanted)
