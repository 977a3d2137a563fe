"""What reaches the ingestion server when a handler runs in AWS's own runtime, whatever happens to it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.events import HTTP_API
from tests.lambda_runtime.emulator import Emulator, find_emulator
from tests.support.fault_server import Behaviour, FaultServer, black_hole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

HERE = Path(__file__).parent
Start = Callable[..., Emulator]


@pytest.fixture
def start(server: FaultServer) -> Iterator[Start]:
    """Start an execution environment whose endpoint is the fault server."""
    running: list[Emulator] = []

    def start(function: str, timeout: int = 10, **environment: str) -> Emulator:
        settings = {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **environment}
        running.append(Emulator(f"handlers.{function}", HERE, settings, timeout))
        return running[-1]

    yield start
    for emulator in running:
        emulator.kill()


def test_the_emulator_is_installed() -> None:
    """Without it the rest of this file would test nothing."""
    assert find_emulator() is not None


def test_ten_events_are_one_request_before_the_response(server: FaultServer, start: Start) -> None:
    emulator = start("capture")
    for invocation in range(1, 4):
        answer = emulator.invoke({**HTTP_API, "count": 10})
        assert len(server.requests) == invocation
        events = server.requests[-1].events
        assert [event["properties"]["number"] for event in events] == list(range(10))
        assert answer.body["stats"]["captured"] == 10 * invocation
    properties = [request.events[0]["properties"] for request in server.requests]
    assert [each["faas.coldstart"] for each in properties] == [True, False, False]
    assert properties[-1]["faas.invocation_id"] == answer.body["request"]
    assert properties[0]["faas.name"] == "orders"
    assert properties[0]["cloud.region"] == "eu-west-1"
    assert properties[0]["$current_url"] == "https://api.example.com/orders/7?q=a&q=b+c"
    assert server.events[0]["distinct_id"] == "user_1"
    assert server.connections == 1


def test_flush_each_is_a_request_a_capture(server: FaultServer, start: Start) -> None:
    start("capture_each").invoke({"count": 3})
    assert [len(request.events) for request in server.requests] == [1, 1, 1]


def test_a_handler_that_raises_still_delivers(server: FaultServer, start: Start) -> None:
    """And Lambda reports the same error, with one frame of the decorator at most."""
    answer = start("fail").invoke({})
    plain = start("fail_undecorated").invoke({})
    assert len(server.requests) == 1
    assert [event["event"] for event in server.events] == ["before the failure", "$exception"]
    properties = server.events[1]["properties"]
    assert properties["$exception_source"] == "aws_lambda.handler"
    assert properties["faas.invocation_id"] == server.events[0]["properties"]["faas.invocation_id"]
    shown = properties["$exception_list"][0]["stacktrace"]["frames"]
    assert [frame["function"] for frame in shown] == ["fail"]
    assert shown[0]["context_line"] == '    raise ValueError("the handler\'s own error")'
    for field in ("errorType", "errorMessage"):
        assert answer.body[field] == plain.body[field]
    frames = [line for line in answer.body["stackTrace"] if "lambda_runtime/handlers.py" in line]
    assert len(frames) == 1
    ours = [line for line in answer.body["stackTrace"] if "leanbase/handlers" in line]
    assert len(ours) <= 1
    assert len(answer.body["stackTrace"]) == len(plain.body["stackTrace"]) + len(ours)


def test_killed_the_moment_the_response_arrives(server: FaultServer, start: Start) -> None:
    emulator = start("capture")
    emulator.invoke({"count": 5})
    emulator.kill()
    assert len(server.events) == 5


@pytest.mark.parametrize("frozen", [0.3, 1.5])
def test_frozen_between_invocations_while_the_server_closes_its_connections(
    frozen: float, server: FaultServer, start: Start
) -> None:
    emulator = start("capture")
    for invocation in range(1, 4):
        emulator.invoke({"count": 2})
        assert len(server.events) == 2 * invocation
        emulator.signal(signal.SIGSTOP)
        server.close_connections()
        time.sleep(frozen)
        emulator.signal(signal.SIGCONT)
    emulator.invoke({"count": 2})
    uuids = [event["uuid"] for event in server.events]
    assert len(uuids) == len(set(uuids)) == 8


def test_reset_by_the_server_after_a_freeze(server: FaultServer, start: Start) -> None:
    """The connection looks alive and dies under the request: the batch is resent on a new one."""
    emulator = start("capture")
    emulator.invoke({"count": 2})
    server.script(Behaviour(instead="reset"))
    assert emulator.invoke({"count": 2}).body["stats"]["captured"] == 4
    _first, died, resent = server.requests
    assert died.raw == resent.raw
    assert len({event["uuid"] for event in server.events}) == 4


def test_a_black_hole_does_not_time_the_function_out(start: Start) -> None:
    """The function answers with time to spare, and says what became of its events."""
    hole = black_hole()
    with hole:
        emulator = start("capture", timeout=3, LEANBASE_HOST=f"http://127.0.0.1:{hole.getsockname()[1]}")
        for invocation in range(1, 3):
            answer = emulator.invoke({"count": 2})
            assert answer.status == 200
            assert answer.body["left"] > 0
            assert answer.body["stats"]["retained"] == 2 * invocation
    durations = emulator.durations()
    assert len(durations) == 2
    assert all(duration < 3000 for duration in durations)
    assert not any("timed out" in line for line in emulator.log)


def test_an_outage_costs_no_event_of_a_warm_function(server: FaultServer, start: Start) -> None:
    emulator = start("capture", LEANBASE_MAX_RETRIES="0")
    server.script(Behaviour(status=503), Behaviour(status=503))
    for _ in range(3):
        emulator.invoke({"count": 2})
    uuids = [event["uuid"] for event in server.requests[-1].events]
    assert len(set(uuids)) == 6


def test_async_handlers(server: FaultServer, start: Start) -> None:
    assert start("run_coroutine").invoke({}).body == "done"
    assert [len(request.events) for request in server.requests] == [3]


def test_shutdown_in_every_invocation(server: FaultServer, start: Start) -> None:
    emulator = start("shut_down")
    answers: list[Any] = [emulator.invoke({}).body for _ in range(3)]
    assert answers == [True, True, True]
    assert len(server.events) == 3


def test_the_http_stack_is_loaded_and_connected_during_init(server: FaultServer, start: Start) -> None:
    emulator = start("loaded")
    assert emulator.invoke({}).body is True
    assert server.connections == 1
    assert server.requests == []
