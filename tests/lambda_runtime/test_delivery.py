"""Delivery before the response, with `flush="end"` and `flush="each"`, in AWS's emulator.

The handlers are in `handlers.py`; `conftest.py` says how they run.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import pytest

from tests.handlers.events import HTTP_API
from tests.lambda_runtime.conftest import Start
from tests.lambda_runtime.emulator import find_emulator
from tests.support.events import received_names
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.unreachable import unreachable_url

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]


def test_the_emulator_is_installed() -> None:
    """Without it, the other tests of this folder would test nothing."""
    assert find_emulator() is not None


@pytest.mark.rule("Q-1", "Q-54", "M-5", "M-10", "W-8")
def test_ten_events_are_sent_in_one_request_before_the_response(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.capture")
    for invocation in range(1, 4):
        response = emulator.invoke({**HTTP_API, "count": 10})
        assert len(server.requests) == invocation
        events = server.requests[-1].events
        assert [event["properties"]["number"] for event in events] == list(range(10))
        assert response.body["stats"]["captured"] == 10 * invocation
    properties = [request.events[0]["properties"] for request in server.requests]
    assert [each["faas.coldstart"] for each in properties] == [True, False, False]
    assert properties[-1]["faas.invocation_id"] == response.body["request"]
    assert properties[0]["faas.name"] == "orders"
    assert properties[0]["cloud.region"] == "eu-west-1"
    assert properties[0]["$current_url"] == "https://api.example.com/orders/7?q=a&q=b+c"
    assert server.events[0]["distinct_id"] == "user_1"
    assert server.connections == 1


def test_flush_each_sends_one_request_for_each_capture(server: FaultServer, start: Start) -> None:
    start("handlers.capture_each").invoke({"count": 3})
    assert [len(request.events) for request in server.requests] == [1, 1, 1]


@pytest.mark.rule("D-9", "K-15", "K-20", "X-1", "X-21")
def test_an_exception_of_the_handler_is_delivered_and_returned_unchanged(
    server: FaultServer, start: Start
) -> None:
    response = start("handlers.fail").invoke({})
    undecorated = start("handlers.fail_undecorated").invoke({})
    assert len(server.requests) == 1
    assert received_names(server) == ["before the failure", "$exception"]
    properties = server.events[1]["properties"]
    assert properties["$exception_source"] == "aws_lambda.handler"
    assert properties["faas.invocation_id"] == server.events[0]["properties"]["faas.invocation_id"]
    captured_frames = properties["$exception_list"][0]["stacktrace"]["frames"]
    assert [frame["function"] for frame in captured_frames] == ["fail"]
    assert captured_frames[0]["context_line"] == '    raise ValueError("the handler\'s own error")'
    for field in ("errorType", "errorMessage"):
        assert response.body[field] == undecorated.body[field]
    frames = [line for line in response.body["stackTrace"] if "lambda_runtime/handlers.py" in line]
    assert len(frames) == 1
    frames_of_leanbase = [line for line in response.body["stackTrace"] if "leanbase/handlers" in line]
    assert len(frames_of_leanbase) <= 1
    assert len(response.body["stackTrace"]) == len(undecorated.body["stackTrace"]) + len(frames_of_leanbase)


def test_a_sandbox_killed_right_after_the_response_has_sent_its_events(
    server: FaultServer, start: Start
) -> None:
    emulator = start("handlers.capture")
    emulator.invoke({"count": 5})
    emulator.kill()
    assert len(server.events) == 5


@pytest.mark.rule("Q-11", "E-6")
@pytest.mark.parametrize("frozen_seconds", [0.3, 1.5])
def test_connections_that_the_server_closed_during_a_freeze_cost_no_event(
    frozen_seconds: float, server: FaultServer, start: Start
) -> None:
    emulator = start("handlers.capture")
    for invocation in range(1, 4):
        emulator.invoke({"count": 2})
        assert len(server.events) == 2 * invocation
        emulator.signal(signal.SIGSTOP)
        server.close_connections()
        time.sleep(frozen_seconds)
        emulator.signal(signal.SIGCONT)
    emulator.invoke({"count": 2})
    uuids = [event["uuid"] for event in server.events]
    assert len(uuids) == len(set(uuids)) == 8


@pytest.mark.rule("Q-14", "W-13")
def test_a_connection_reset_under_a_request_is_replaced_and_the_batch_resent(
    server: FaultServer, start: Start
) -> None:
    emulator = start("handlers.capture")
    emulator.invoke({"count": 2})
    server.script(Behaviour(instead="reset"))
    assert emulator.invoke({"count": 2}).body["stats"]["captured"] == 4
    _, reset, resent = server.requests
    assert reset.raw == resent.raw
    assert len({event["uuid"] for event in server.events}) == 4


@pytest.mark.rule("Q-13", "Q-20")
def test_an_unreachable_endpoint_does_not_time_the_function_out(start: Start) -> None:
    with unreachable_url() as url:
        emulator = start("handlers.capture", timeout=3, LEANBASE_HOST=url)
        for invocation in range(1, 3):
            response = emulator.invoke({"count": 2})
            assert response.status == 200
            assert response.body["remaining_ms"] > 0
            assert response.body["stats"]["retained"] == 2 * invocation
    durations = emulator.durations()
    assert len(durations) == 2
    assert all(duration < 3000 for duration in durations)
    assert not any("timed out" in line for line in emulator.log)


@pytest.mark.rule("Q-20", "Q-21")
def test_an_outage_costs_a_warm_function_no_event(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.capture", LEANBASE_MAX_RETRIES="0")
    server.script(Behaviour(status=503), Behaviour(status=503))
    for _ in range(3):
        emulator.invoke({"count": 2})
    uuids = [event["uuid"] for event in server.requests[-1].events]
    assert len(set(uuids)) == 6


def test_an_async_handler_sends_the_events_of_its_threads_in_one_request(
    server: FaultServer, start: Start
) -> None:
    assert start("handlers.run_coroutine").invoke({}).body == "done"
    assert [len(request.events) for request in server.requests] == [3]


@pytest.mark.rule("Q-40", "Q-42")
def test_a_function_may_shut_down_in_every_invocation(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.shut_down")
    results: list[Any] = [emulator.invoke({}).body for _ in range(3)]
    assert results == [True, True, True]
    assert len(server.events) == 3


def test_the_http_client_is_loaded_and_connected_during_initialisation(
    server: FaultServer, start: Start
) -> None:
    emulator = start("handlers.is_http_loaded_at_init")
    assert emulator.invoke({}).body is True
    assert server.connections == 1
    assert server.requests == []
