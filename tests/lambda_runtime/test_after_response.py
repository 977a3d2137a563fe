"""`flush="after_response"`: an internal extension in AWS's own runtime."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lambda_runtime.emulator import Emulator
from tests.lambda_runtime.runtime_api import RuntimeApi
from tests.support.fault_server import Behaviour, FaultServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

HERE = Path(__file__).parent
Start = Callable[..., Emulator]
# From Python 3.12 on AWS's runtime client asks for the next invocation in a thread of its own, if Lambda says so.
RUNTIMES = {"": {}, "asks in a thread": {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"}}


@pytest.fixture(params=RUNTIMES)
def start(server: FaultServer, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start an execution environment whose endpoint is the fault server."""
    running: list[Emulator] = []

    def start(function: str, timeout: int = 10, **environment: str) -> Emulator:
        settings = {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **environment}
        running.append(Emulator(f"handlers.{function}", HERE, settings | RUNTIMES[request.param], timeout))
        return running[-1]

    yield start
    for emulator in running:
        emulator.kill()


def names(server: FaultServer) -> list[str]:
    return [event["event"] for event in server.events]


def test_the_response_does_not_wait_for_the_send(server: FaultServer, start: Start) -> None:
    """And the next invocation does not begin before its end; killed then, nothing is lost."""
    server.always(Behaviour(delay=0.3))
    emulator = start("after_response")
    for invocation in range(1, 4):
        emulator.invoke({"count": 10})
        assert len(server.accepted) == invocation
    emulator.kill()
    assert [len(request.events) for request in server.accepted] == [10, 10, 10]
    assert len(emulator.durations()) == 3
    assert all(duration < 200 for duration in emulator.durations())


def test_an_invocation_that_captures_nothing_costs_nothing(server: FaultServer, start: Start) -> None:
    server.always(Behaviour(delay=1.0))
    emulator = start("after_response")
    for _ in range(3):
        emulator.invoke({})
    assert server.requests == []
    assert all(each["ms"] < 200 for each in billed(emulator)[1:])


def test_a_handler_that_raises(server: FaultServer, start: Start) -> None:
    emulator = start("after_response")
    assert emulator.invoke({"count": 1, "raise": True}).body["errorType"] == "ValueError"
    assert names(server) == ["order created", "$exception"]
    emulator.invoke({"count": 1})
    assert len(server.events) == 3


def test_a_handler_that_exits(server: FaultServer, start: Start) -> None:
    emulator = start("exit_after_response")
    emulator.invoke({})
    assert names(server) == ["before the exit"]


def test_a_handler_that_times_out(server: FaultServer, start: Start) -> None:
    """Lambda sends SIGTERM first, because the function has an extension; the next sandbox works as well."""
    emulator = start("after_response", timeout=2)
    emulator.invoke({"count": 5, "sleep": 30})
    assert len(server.events) == 5
    emulator.invoke({"count": 1})
    assert len(server.events) == 6


def test_a_handler_that_lambda_calls_without_the_decorator(server: FaultServer, start: Start) -> None:
    """The sandbox is not held until the timeout: the extension sees that the runtime is through."""
    emulator = start("sometimes_after_response", timeout=10)
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


def test_a_decorated_handler_in_another(server: FaultServer, start: Start) -> None:
    emulator = start("nested_after_response")
    for _ in range(2):
        emulator.invoke({"count": 1})
    assert sorted(names(server)) == sorted(["outer", "outer again", "order created"] * 2)
    cold = [event["properties"]["faas.coldstart"] for event in server.events]
    assert cold == [True] * 3 + [False] * 3


def test_a_large_response_is_posted_first(server: FaultServer, start: Start) -> None:
    emulator = start("after_response")
    emulator.invoke({"count": 1, "size": 5_000_000})
    assert len(server.events) == 1


def test_what_an_outage_left_goes_with_the_next_invocation(server: FaultServer, start: Start) -> None:
    emulator = start("after_response", LEANBASE_MAX_RETRIES="0")
    server.script(Behaviour(status=503))
    emulator.invoke({"count": 2})
    emulator.invoke({"count": 1})
    assert [len(request.events) for request in server.requests] == [2, 3]


def test_a_dead_endpoint_never_holds_the_sandbox_beyond_its_deadline(
    server: FaultServer, start: Start
) -> None:
    server.always(Behaviour(instead="silence"))
    emulator = start("after_response", timeout=2)
    for _ in range(2):
        emulator.invoke({"count": 1})
    assert not any("timed out" in line for line in emulator.log)
    assert all(duration < 1000 for duration in emulator.durations())


def test_response_times_are_those_without_an_sdk(server: FaultServer, start: Start) -> None:
    """Benchmarks measure how near; here it is that no round trip is in them."""
    server.always(Behaviour(delay=0.05))
    plain, ours = start("no_sdk"), start("after_response")
    for _ in range(10):
        plain.invoke({})
        ours.invoke({"count": 10})
    assert statistics.median(ours.durations()) < statistics.median(plain.durations()) + 25
    assert len(server.events) == 100


def billed(emulator: Emulator) -> list[dict[str, float]]:
    lines = [line for line in emulator.log if line.startswith("REPORT ")]
    return [{"ms": float(line.partition("\tDuration: ")[2].split()[0])} for line in lines]


# --- where there is no extension to be had --------------------------------------------------------------


@pytest.mark.parametrize("refusal", [(403, "ExtensionLimitExceeded"), (500, "out of order")])
def test_where_registration_is_refused_events_leave_before_the_response(
    refusal: tuple[int, str], server: FaultServer
) -> None:
    environment = {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url}
    api = RuntimeApi("handlers.after_response", HERE, environment, refuses=refusal)
    try:
        for invocation in range(1, 3):
            answer = api.invoke({"count": 2})
            assert len(server.events) == 2 * invocation
            assert answer["stats"]["captured"] == 2 * invocation
    finally:
        output = api.stop()
    said = 'flush="after_response" is not available, "end" is used: the Extensions API responded with'
    assert output.count(said) == 1
    assert refusal[1] in output
    assert api.registrations == 1  # three handlers of the module want it


def test_outside_of_lambda_it_is_the_same_as_end(memory: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Which is nothing to warn of in a test or a script."""
    caplog.set_level("DEBUG", "leanbase")
    import leanbase
    from leanbase.handlers.aws_lambda import decorator as aws_lambda

    aws_lambda._registered = None
    leanbase.transport = memory

    @leanbase.lambda_handler(flush="after_response")
    def handler(event: Any, context: Any) -> int:
        leanbase.capture("e", distinct_id="u")
        return len(memory.events)

    assert handler({}, None) == 0
    assert len(memory.events) == 1
    said = [each.levelname for each in caplog.records if "AWS_LAMBDA_RUNTIME_API is not set" in each.message]
    assert said == ["DEBUG"]
    aws_lambda._registered = None


def test_tracers_do_not_see_the_requests_of_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """They patch `http.client`, and would record each wait for an event."""
    import http.client

    from leanbase.handlers.aws_lambda import extension
    from tests.support.fault_server import Behaviour, FaultServer

    seen: list[str] = []
    monkeypatch.setattr(http.client.HTTPConnection, "_send_request", lambda self, *_: seen.append("traced"))
    server = FaultServer()
    server.script(Behaviour(headers={"Lambda-Extension-Identifier": "e-1"}, body=b""))
    server.always(Behaviour(instead="silence"))
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", f"127.0.0.1:{server.port}")
    registered = extension.register()
    deadline = time.monotonic() + 5
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    registered._connection.close()
    server.stop()
    assert [request.line for request in server.requests] == [
        "POST /2020-01-01/extension/register HTTP/1.1",
        "GET /2020-01-01/extension/event/next HTTP/1.1",
    ]
    assert server.requests[1].headers["lambda-extension-identifier"] == "e-1"
    assert seen == []
