"""Producers and the relay in AWS's own runtime, with a real queue and real log lines between them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault_server import Behaviour, FaultServer, Request
from tests.lambda_runtime.emulator import Emulator
from tests.moto_server import CREDENTIALS, MotoServer
from tests.relay.sources import logs_event

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary")

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


def failing_every_third(server: FaultServer) -> set[str]:
    """Make the server fail every third request; the uuids of what it accepts gather in the result."""
    accepted: set[str] = set()
    original = server._behave
    count = 0

    def behave(connection: Any, behaviour: Behaviour, request: Request) -> bool:
        nonlocal count
        count += 1
        if count % 3 == 0:
            return original(connection, Behaviour(status=503), request)
        accepted.update(event["uuid"] for event in request.events)
        return original(connection, behaviour, request)

    server._behave = behave  # type: ignore[method-assign]
    return accepted


def numbers(server: FaultServer, uuids: set[str] | None = None) -> list[tuple[str, int]]:
    """Request and number of each event that arrived, without repetitions."""
    found = {
        (event["properties"]["faas.invocation_id"], event["properties"]["number"])
        for event in server.events
        if event["event"] == "order created" and (uuids is None or event["uuid"] in uuids)
    }
    return sorted(found)


@pytest.mark.parametrize("fails", [False, True], ids=["", "failing every third request"])
def test_through_a_queue(
    start: Start, relay: Emulator, server: FaultServer, moto: MotoServer, fails: bool
) -> None:
    accepted = failing_every_third(server) if fails else None
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
    assert numbers(server, accepted) == expected


@pytest.mark.parametrize("fails", [False, True], ids=["", "failing every third request"])
def test_through_the_log(start: Start, relay: Emulator, server: FaultServer, fails: bool) -> None:
    accepted = failing_every_third(server) if fails else None
    producer = start("handlers.capture", LEANBASE_TRANSPORT="log")
    requests = [producer.invoke({"count": 25}).body["request"] for _ in range(8)]
    producer.kill()
    # A subscription brings the lines as they come, in several invocations.
    for first in range(0, len(producer.log), 7):
        brought = logs_event(producer.log[first : first + 7])
        for _ in range(10):
            answer = relay.invoke(brought).body
            if answer is None:
                break
            assert answer["errorType"] == "NotDeliveredError"
        assert answer is None
    expected = sorted((request, number) for request in requests for number in range(25))
    assert numbers(server, accepted) == expected


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
