"""Tests every cell of the fault matrix of programs that end, which is `exit_faults.py`.

A cell is a way to end and a transport. `programs/endings.py` captures events and ends in that way, in a
process of its own. Its events go to a server in the test's process, to a spool directory, or to its output.
The outcome follows from what has arrived there when the process has ended, and from what the process has
reported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.transports import handoff
from tests.delivery.exit_faults import DISK, EVENTS, EXIT_FAULTS, LOST, REPORTED, SENT, WAYS, ExitFault
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS
from tests.support.programs import program_command
from tests.support.sqs import QUEUE_PATH, accept_messages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

PARALLEL_CELLS = 3


class Cell:
    """One cell: a program, a directory, and a server."""

    def __init__(self, fault: ExitFault, way: str, directory: Path) -> None:
        self.fault, self.way = fault, way
        self.server = FaultServer()
        self.options: dict[str, Any] = {
            "api_key": "k",
            "host": self.server.url,
            "queue_url": self.server.url + QUEUE_PATH,
            "spool_directory": str(directory / re.sub(r"\W", "", f"{fault.name}{way}")),
            **WAYS[way],
        }
        self._set_behaviour(fault.server)

    def _set_behaviour(self, behaviour: Behaviour) -> None:
        if self.way == "sqs" and behaviour.status == 200:
            behaviour = Behaviour(respond=accept_messages(), instead=behaviour.instead)
        self.server.always(behaviour)

    def run(self) -> str:
        """Run the program, and return the outcome of its events."""
        process = subprocess.Popen(
            program_command("tests.delivery.programs.endings", self.fault.ending, EVENTS),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **CREDENTIALS, "OPTIONS": json.dumps(self.options)},
        )
        log = ""
        if self.fault.ending == "wait_for_the_server":
            assert process.stderr
            while not log.endswith("READY\n"):
                line = process.stderr.readline()
                assert line, log
                log += line
            self._set_behaviour(Behaviour())
        printed, rest = process.communicate("\n", timeout=30)
        log += rest
        assert "internal error" not in log, f"{self.fault.name}, {self.way}: {log}"
        arrived = self._arrived(printed)
        if len(arrived) == EVENTS:
            return SENT
        reported = set(re.findall(r"REPORTED (\S+)", log))
        lost = sum(map(int, re.findall(r"ERROR (\d+) event\(s\) are lost", log)))
        if len(arrived | reported) == EVENTS == lost + len(arrived):
            return REPORTED
        self._set_behaviour(Behaviour())
        if "spool" in self.way:
            next_process = Leanbase(**self.options)
            next_process.flush()
            next_process.shutdown()
        return DISK if len(self._arrived(printed)) == EVENTS else f"{LOST}: {log}"

    def _arrived(self, printed: str) -> set[str]:
        """Return the uuids of the events that cannot be lost any more."""
        if self.way == "log":
            messages = [line for line in printed.splitlines() if line.startswith('{"leanbase":')]
        elif self.way == "sqs":
            requests = self.server.accepted
            messages = [entry["MessageBody"] for each in requests for entry in each.envelope["Entries"]]
        else:
            return {event["uuid"] for request in self.server.accepted for event in request.events}
        return {event.uuid for message in messages for event in handoff.decode(message)}


@pytest.mark.rule("Q-50")
@pytest.mark.parametrize("fault", EXIT_FAULTS, ids=lambda fault: fault.name)
def test_each_outcome_is_the_one_on_the_page_or_better(fault: ExitFault, tmp_path: Path) -> None:
    if "billiard" in fault.ending:
        pytest.importorskip("billiard")
    with ThreadPoolExecutor(PARALLEL_CELLS) as executor:
        cells = {way: Cell(fault, way, tmp_path) for way in WAYS}
        running = {way: executor.submit(cell.run) for way, cell in cells.items()}
        found = {way: outcome.result() for way, outcome in running.items()}
    for cell in cells.values():
        cell.server.stop()
    differing = {way: outcome for way, outcome in found.items() if fault.outcome(way) not in (outcome, LOST)}
    assert not differing
