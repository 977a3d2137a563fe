"""`flush="after_response"`: an internal extension sends the events when the caller has the response.

Most tests run a handler in AWS's emulator, which does not begin the next invocation, and does not report the end of
this one, until the extension has finished. So `emulator.invoke()` returns when the events are sent, while
`emulator.durations()` has the time after which the caller had the response.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import time
from typing import Any

import pytest

import leanbase
from leanbase.handlers.aws_lambda import decorator as aws_lambda
from leanbase.handlers.aws_lambda import extension
from leanbase.transports import MemoryTransport
from tests.lambda_runtime.conftest import Start, StartApi
from tests.lambda_runtime.emulator import Emulator
from tests.support.events import received_names
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

# From Python 3.12 on, AWS's runtime client requests the next invocation in a thread of its own if Lambda says so.
RUNTIMES: dict[str, dict[str, str]] = {
    "request in the main thread": {},
    "request in a thread": {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"},
}


@pytest.fixture
def runtime() -> dict[str, str]:
    return {}


@pytest.fixture
def environment(server: FaultServer, runtime: dict[str, str]) -> dict[str, str]:
    return {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **runtime}


in_both_runtimes = pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES.keys())


def billed_milliseconds(emulator: Emulator) -> list[float]:
    lines = [line for line in emulator.log if line.startswith("REPORT ")]
    return [float(line.partition("\tDuration: ")[2].split()[0]) for line in lines]


@in_both_runtimes
def test_the_response_does_not_wait_for_the_send(server: FaultServer, start: Start) -> None:
    """But the next invocation does. A sandbox killed before that has lost no event."""
    server.always(Behaviour(delay=0.3))
    emulator = start("handlers.after_response")
    for invocation in range(1, 4):
        emulator.invoke({"count": 10})
        assert len(server.accepted) == invocation
    emulator.kill()
    assert [len(request.events) for request in server.accepted] == [10, 10, 10]
    assert len(emulator.durations()) == 3
    assert all(duration < 200 for duration in emulator.durations())


@in_both_runtimes
def test_an_invocation_without_events_sends_nothing_and_takes_no_time(
    server: FaultServer, start: Start
) -> None:
    server.always(Behaviour(delay=1.0))
    emulator = start("handlers.after_response")
    for _ in range(3):
        emulator.invoke({})
    assert server.requests == []
    assert all(milliseconds < 200 for milliseconds in billed_milliseconds(emulator)[1:])


@pytest.mark.rule("K-15")
@in_both_runtimes
def test_the_exception_of_a_handler_is_sent_after_the_response(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.after_response")
    assert emulator.invoke({"count": 1, "raise": True}).body["errorType"] == "ValueError"
    assert received_names(server) == ["order created", "$exception"]
    emulator.invoke({"count": 1})
    assert len(server.events) == 3


@pytest.mark.rule("K-15")
@in_both_runtimes
def test_a_handler_that_exits_sends_its_events_first(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.exit_after_response")
    emulator.invoke({})
    assert received_names(server) == ["before the exit"]


@in_both_runtimes
def test_a_handler_that_times_out_sends_its_events(server: FaultServer, start: Start) -> None:
    """Lambda sends SIGTERM first, because the function has an extension. The next sandbox works as well."""
    emulator = start("handlers.after_response", timeout=2)
    emulator.invoke({"count": 5, "sleep": 30})
    assert len(server.events) == 5
    emulator.invoke({"count": 1})
    assert len(server.events) == 6


@in_both_runtimes
def test_an_invocation_without_the_decorator_does_not_hold_the_sandbox(
    server: FaultServer, start: Start
) -> None:
    """The extension notices that the runtime waits for the next invocation."""
    emulator = start("handlers.sometimes_after_response", timeout=10)
    for event, count in (
        ({"count": 1}, 1),
        ({"undecorated": 0}, 1),
        ({"undecorated": 0.3}, 1),
        ({"count": 2}, 3),
    ):
        started = time.monotonic()
        emulator.invoke(event)
        assert time.monotonic() - started < 5
        assert len(server.events) == count


@in_both_runtimes
def test_a_decorated_handler_may_call_another(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.nested_after_response")
    for _ in range(2):
        emulator.invoke({"count": 1})
    assert sorted(received_names(server)) == sorted(["outer", "outer again", "order created"] * 2)
    cold = [event["properties"]["faas.coldstart"] for event in server.events]
    assert cold == [True] * 3 + [False] * 3


@in_both_runtimes
def test_events_are_sent_after_a_large_response(server: FaultServer, start: Start) -> None:
    emulator = start("handlers.after_response")
    emulator.invoke({"count": 1, "size": 5_000_000})
    assert len(server.events) == 1


@pytest.mark.rule("Q-20", "Q-21")
@in_both_runtimes
def test_events_retained_in_an_outage_are_sent_with_the_next_invocation(
    server: FaultServer, start: Start
) -> None:
    emulator = start("handlers.after_response", LEANBASE_MAX_RETRIES="0")
    server.script(Behaviour(status=503))
    emulator.invoke({"count": 2})
    emulator.invoke({"count": 1})
    assert [len(request.events) for request in server.requests] == [2, 3]


@pytest.mark.rule("Q-13")
@in_both_runtimes
def test_a_silent_endpoint_does_not_hold_the_sandbox_until_its_timeout(
    server: FaultServer, start: Start
) -> None:
    server.always(Behaviour(instead="silence"))
    emulator = start("handlers.after_response", timeout=2)
    for _ in range(2):
        emulator.invoke({"count": 1})
    assert not any("timed out" in line for line in emulator.log)
    assert all(duration < 1000 for duration in emulator.durations())


@in_both_runtimes
def test_response_times_contain_no_round_trip(server: FaultServer, start: Start) -> None:
    """Benchmarks measure how close response times are to those without the SDK."""
    server.always(Behaviour(delay=0.05))
    without_sdk, with_sdk = start("handlers.no_sdk"), start("handlers.after_response")
    for _ in range(10):
        without_sdk.invoke({})
        with_sdk.invoke({"count": 10})
    assert statistics.median(with_sdk.durations()) < statistics.median(without_sdk.durations()) + 25
    assert len(server.events) == 100


# --- without an extension -------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [(403, "ExtensionLimitExceeded"), (500, "out of order")])
def test_events_are_sent_before_the_response_if_registration_is_refused(
    refusal: tuple[int, str], server: FaultServer, start_api: StartApi
) -> None:
    api = start_api("handlers.after_response", refusal)
    for invocation in range(1, 3):
        result = api.invoke({"count": 2})
        assert len(server.events) == 2 * invocation
        assert result["stats"]["captured"] == 2 * invocation
    output = api.stop()
    warning = 'flush="after_response" is not available, "end" is used: the Extensions API responded with'
    assert output.count(warning) == 1
    assert refusal[1] in output
    # Three handlers of the module want the extension, but it is registered once.
    assert api.registrations == 1


def test_outside_of_lambda_after_response_is_the_same_as_end(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """No warning is logged: tests and scripts call handlers, too."""
    caplog.set_level("DEBUG", "leanbase")
    aws_lambda._registered = None
    leanbase.transport = memory

    @leanbase.lambda_handler(flush="after_response")
    def handler(event: Any, context: Any) -> int:
        leanbase.capture("e", distinct_id="u")
        return len(memory.events)

    assert handler({}, None) == 0
    assert len(memory.events) == 1
    levels = [
        each.levelname for each in caplog.records if "AWS_LAMBDA_RUNTIME_API is not set" in each.message
    ]
    assert levels == ["DEBUG"]
    aws_lambda._registered = None


def test_tracers_do_not_see_the_requests_of_the_extension(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracers patch `http.client`, and would record each wait for an event of the Extensions API."""
    traced: list[str] = []
    monkeypatch.setattr(http.client.HTTPConnection, "_send_request", lambda self, *_: traced.append("traced"))
    server.script(Behaviour(headers={"Lambda-Extension-Identifier": "e-1"}, body=b""))
    server.always(Behaviour(instead="silence"))
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{server.port}")
    registered = extension.register()
    wait_until(lambda: len(server.requests) >= 2)
    registered._connection.close()
    assert [request.line for request in server.requests] == [
        "POST /2020-01-01/extension/register HTTP/1.1",
        "GET /2020-01-01/extension/event/next HTTP/1.1",
    ]
    assert server.requests[1].headers["lambda-extension-identifier"] == "e-1"
    assert traced == []
