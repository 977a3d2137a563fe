"""Every cell of the table of programs that end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.transports import handoff
from tests.delivery.exit_faults import DISK, EVENTS, EXIT_FAULTS, LOST, SENT, TOLD, WAYS, ExitFault
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS
from tests.transports.test_sqs import QUEUE, taking

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

AT_ONCE = 3

HEAD = """
import atexit, json, logging, multiprocessing, os, signal, sys, time
import leanbase
from leanbase import Leanbase

logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
options = json.loads(os.environ["OPTIONS"])

def told(error, events):
    if type(error).__name__ == "DroppedError":
        for event in events:
            os.write(2, f"TOLD {event['uuid']}\\n".encode())

def capture(_=None):
    global client
    client = Leanbase(send_deadline=0.5, max_retries=0, on_error=told, **options)
    for number in range(EVENTS):
        client.capture("captured", distinct_id="u", properties={"number": number})

def wait():
    os.write(2, b"READY\\n")
    sys.stdin.readline()

def handle():
    leanbase.install_sigterm_handler(Leanbase(**options))

def terminate():
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        leanbase.install_sigterm_handler(client)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)

def child(library):
    process = library.Process(target=capture)
    process.start()
    process.join(20)

def pool():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(capture, [1])

def recycled():
    import billiard
    pool = billiard.Pool(1, maxtasksperchild=1)
    pool.map(capture, [1])
    pool.close()
    pool.join()

"""


class World:
    """One cell: a program, a disk, and a server."""

    def __init__(self, fault: ExitFault, way: str, disk: Path) -> None:
        self.fault, self.way = fault, way
        self.server = FaultServer()
        self.options: dict[str, Any] = {
            "api_key": "k",
            "host": self.server.url,
            "queue_url": self.server.url + QUEUE,
            "spool_directory": str(disk / re.sub(r"\W", "", f"{fault.name}{way}")),
            **WAYS[way],
        }
        self._be(fault.server)

    def _be(self, behaviour: Behaviour) -> None:
        if self.way == "sqs" and behaviour.status == 200:
            behaviour = Behaviour(respond=taking(), instead=behaviour.instead)
        self.server.always(behaviour)

    def run(self) -> str:
        """Let it happen, and say what became of the events."""
        code = HEAD.replace("EVENTS", str(EVENTS)) + textwrap.dedent(self.fault.program)
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **CREDENTIALS, "OPTIONS": json.dumps(self.options), "PYTHONPATH": os.getcwd()},
        )
        log = ""
        if "wait()" in self.fault.program:
            assert process.stderr
            while not log.endswith("READY\n"):
                line = process.stderr.readline()
                assert line, log
                log += line
            self._be(Behaviour())
        printed, rest = process.communicate("\n", timeout=30)
        log += rest
        assert "internal error" not in log, f"{self.fault.name}, {self.way}: {log}"
        arrived = self._arrived(printed)
        if len(arrived) == EVENTS:
            return SENT
        told = set(re.findall(r"TOLD (\S+)", log))
        lost = sum(map(int, re.findall(r"ERROR (\d+) event\(s\) are lost", log)))
        if len(arrived | told) == EVENTS == lost + len(arrived):
            return TOLD
        self._be(Behaviour())
        if "spool" in self.way:
            successor = Leanbase(**self.options)
            successor.flush()
            successor.shutdown()
        return DISK if len(self._arrived(printed)) == EVENTS else f"{LOST}: {log}"

    def _arrived(self, printed: str) -> set[str]:
        """The ids of the events that are where they can be lost no more."""
        if self.way == "log":
            messages = [line for line in printed.splitlines() if line.startswith('{"leanbase":')]
        elif self.way == "sqs":
            requests = self.server.accepted
            messages = [entry["MessageBody"] for each in requests for entry in each.envelope["Entries"]]
        else:
            return {event["uuid"] for request in self.server.accepted for event in request.events}
        return {event.uuid for message in messages for event in handoff.decode(message)}


@pytest.mark.parametrize("fault", EXIT_FAULTS, ids=lambda fault: fault.name)
def test_no_event_is_lost_in_silence_that_the_page_does_not_name(fault: ExitFault, tmp_path: Path) -> None:
    if "recycled" in fault.program:
        pytest.importorskip("billiard")
    with ThreadPoolExecutor(AT_ONCE) as executor:
        worlds = {way: World(fault, way, tmp_path) for way in WAYS}
        running = {way: executor.submit(world.run) for way, world in worlds.items()}
        found = {way: outcome.result() for way, outcome in running.items()}
    for world in worlds.values():
        world.server.stop()
    other = {way: outcome for way, outcome in found.items() if fault.outcome(way) not in (outcome, LOST)}
    assert not other
