"""Producers and the relay, each in AWS's emulator, with a real queue or real log lines between them.

The producer is a function that hands its events off to SQS (moto, in a process of its own) or to its log. The test
plays the part of Lambda: it takes the messages or log lines, and invokes the relay with them. The relay sends the
events to a `FaultServer`.
"""

from __future__ import annotations

import re
import sys

import pytest

from tests.lambda_runtime.conftest import Start, invocation_numbers
from tests.lambda_runtime.emulator import Emulator
from tests.relay.sources import logs_event
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS, MotoServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a producer: it has neither a key nor a host."""
    return {}


@pytest.fixture
def relay(start: Start, server: FaultServer) -> Emulator:
    key_and_host = {"LEANBASE_API_KEY": "phc_relay", "LEANBASE_HOST": server.url}
    return start("leanbase.relay.handler", LEANBASE_MAX_RETRIES="0", **key_and_host)


def fail_every_third_request(server: FaultServer) -> None:
    server.script(*[Behaviour(), Behaviour(), Behaviour(status=503)] * 100)


def delivered_numbers(server: FaultServer) -> list[tuple[str, int]]:
    """Return the request id and the number of each accepted event. Events accepted twice count once."""
    events = {event["uuid"]: event for request in server.accepted for event in request.events}
    return invocation_numbers([*events.values()])


@pytest.mark.parametrize("fails", [False, True], ids=["", "failing every third request"])
def test_each_event_in_a_queue_is_delivered(
    start: Start, relay: Emulator, server: FaultServer, moto: MotoServer, fails: bool
) -> None:
    if fails:
        fail_every_third_request(server)
    queue = moto.queue()
    producer = start("handlers.capture", LEANBASE_TRANSPORT="sqs", LEANBASE_QUEUE_URL=queue, **CREDENTIALS)
    requests = [producer.invoke({"count": 25}).body["request"] for _ in range(8)]
    for _ in range(100):
        if moto.is_empty(queue):
            break
        # One message an invocation, so that there are enough requests for some to fail.
        event = moto.receive(queue, wait=1)
        for record in event["Records"] if event else []:
            batch = {"Records": [record]}
            moto.delete(queue, batch, relay.invoke(batch).body)
    assert moto.is_empty(queue)
    expected = sorted((request, number) for request in requests for number in range(25))
    assert delivered_numbers(server) == expected


@pytest.mark.parametrize("fails", [False, True], ids=["", "failing every third request"])
def test_each_event_in_a_log_is_delivered(
    start: Start, relay: Emulator, server: FaultServer, fails: bool
) -> None:
    if fails:
        fail_every_third_request(server)
    producer = start("handlers.capture", LEANBASE_TRANSPORT="log")
    requests = [producer.invoke({"count": 25}).body["request"] for _ in range(8)]
    producer.kill()
    # A subscription passes the lines as they are written, in several invocations.
    for first in range(0, len(producer.log), 7):
        event = logs_event(producer.log[first : first + 7])
        for _ in range(10):
            result = relay.invoke(event).body
            if result is None:
                break
            assert result["errorType"] == "NotDeliveredError"
        assert result is None
    expected = sorted((request, number) for request in requests for number in range(25))
    assert delivered_numbers(server) == expected


@pytest.mark.rule("X-21")
@pytest.mark.parametrize(
    ("function", "report", "type"),
    [
        ("hang", "Status: timeout", "Sandbox.Timedout"),
        ("run_out_of_memory", "Status: error\tError Type: Runtime.OutOfMemory", "Runtime.OutOfMemory"),
    ],
)
def test_a_killed_function_delivers_its_events_and_one_exception(
    start: Start, relay: Emulator, server: FaultServer, function: str, report: str, type: str
) -> None:
    producer = start(f"handlers.{function}", timeout=2, LEANBASE_TRANSPORT="log")
    producer.invoke({"count": 5, "user": "user_1"})
    producer.kill()
    (request,) = {found[1] for line in producer.log if (found := re.match(r"START RequestId: (\S+)", line))}
    # The emulator's REPORT line lacks the status, which Lambda's has.
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
