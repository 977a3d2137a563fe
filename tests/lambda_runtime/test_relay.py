"""Producers and the relay in AWS's own runtime, with a real queue and real log lines between them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lambda_runtime.emulator import Emulator
from tests.relay.sources import logs_event
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS, MotoServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

HERE = Path(__file__).parent
Start = Callable[..., Emulator]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an execution environment."""
    running: list[Emulator] = []

    def start(handler: str, timeout: int = 10, **environment: str) -> Emulator:
        running.append(Emulator(handler, HERE, environment, timeout))
        return running[-1]

    yield start
    for emulator in running:
        emulator.kill()


@pytest.fixture
def relay(start: Start, server: FaultServer) -> Emulator:
    key_and_host = {"LEANBASE_API_KEY": "phc_relay", "LEANBASE_HOST": server.url}
    return start("leanbase.relay.handler", LEANBASE_MAX_RETRIES="0", **key_and_host)


def fail_every_third(server: FaultServer) -> None:
    server.script(*[Behaviour(), Behaviour(), Behaviour(status=503)] * 100)


def numbers(server: FaultServer) -> list[tuple[str, int]]:
    """Request and number of each event that was accepted, without repetitions."""
    found = {
        (event["properties"]["faas.invocation_id"], event["properties"]["number"])
        for request in server.accepted
        for event in request.events
    }
    return sorted(found)


@pytest.mark.parametrize("fails", [False, True], ids=["", "failing every third request"])
def test_through_a_queue(
    start: Start, relay: Emulator, server: FaultServer, moto: MotoServer, fails: bool
) -> None:
    if fails:
        fail_every_third(server)
    queue = moto.queue()
    producer = start("handlers.capture", LEANBASE_TRANSPORT="sqs", LEANBASE_QUEUE_URL=queue, **CREDENTIALS)
    requests = [producer.invoke({"count": 25}).body["request"] for _ in range(8)]
    for _ in range(100):
        if moto.is_empty(queue):
            break
        # In small batches, so that there are enough requests for some to fail.
        event = moto.receive(queue, wait=1)
        for record in event["Records"] if event else []:
            one = {"Records": [record]}
            moto.delete(queue, one, relay.invoke(one).body)
    assert moto.is_empty(queue)
    expected = sorted((request, number) for request in requests for number in range(25))
    assert numbers(server) == expected


@pytest.mark.parametrize("fails", [False, True], ids=["", "failing every third request"])
def test_through_the_log(start: Start, relay: Emulator, server: FaultServer, fails: bool) -> None:
    if fails:
        fail_every_third(server)
    producer = start("handlers.capture", LEANBASE_TRANSPORT="log")
    requests = [producer.invoke({"count": 25}).body["request"] for _ in range(8)]
    producer.kill()
    # A subscription matches the lines as they come, in several invocations.
    for first in range(0, len(producer.log), 7):
        brought = logs_event(producer.log[first : first + 7])
        for _ in range(10):
            answer = relay.invoke(brought).body
            if answer is None:
                break
            assert answer["errorType"] == "NotDeliveredError"
        assert answer is None
    expected = sorted((request, number) for request in requests for number in range(25))
    assert numbers(server) == expected


@pytest.mark.parametrize(
    ("function", "report", "type"),
    [
        ("hang", "Status: timeout", "Sandbox.Timedout"),
        ("run_out_of_memory", "Status: error\tError Type: Runtime.OutOfMemory", "Runtime.OutOfMemory"),
    ],
)
def test_a_function_that_is_killed_yields_its_events_and_one_exception(
    start: Start, relay: Emulator, server: FaultServer, function: str, report: str, type: str
) -> None:
    producer = start(f"handlers.{function}", timeout=2, LEANBASE_TRANSPORT="log")
    producer.invoke({"count": 5, "user": "user_1"})
    producer.kill()
    (request,) = {found[1] for line in producer.log if (found := re.match(r"START RequestId: (\S+)", line))}
    # The emulator leaves out of this line what Lambda has in it.
    lines = [line for line in producer.log if not line.startswith("REPORT")]
    figures = "Duration: 2000.00 ms\tBilled Duration: 2000 ms\tMemory Size: 128 MB\tMax Memory Used: 128 MB"
    lines.append(f"REPORT RequestId: {request}\t{figures}\t{report}\n")
    assert relay.invoke(logs_event(lines)).body is None
    *captured, exception = server.events
    assert [event["properties"]["number"] for event in captured] == list(range(5))
    assert exception["event"] == "$exception"
    assert exception["distinct_id"] == "user_1"
    assert exception["properties"]["$exception_type"] == type
    assert exception["properties"]["faas.invocation_id"] == request
    assert exception["properties"]["faas.name"] == "orders"
