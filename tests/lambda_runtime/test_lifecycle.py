"""Initialisation, snapshots, retries and outages over the life of a sandbox, in AWS's own runtime."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase.local.server import LocalServer
from tests.lambda_runtime.emulator import Emulator
from tests.lambda_runtime.runtime_api import RuntimeApi
from tests.support.fault_server import Behaviour, FaultServer, black_hole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

HERE = Path(__file__).parent
Start = Callable[..., Emulator]
StartApi = Callable[..., RuntimeApi]


@pytest.fixture
def settings(server: FaultServer) -> dict[str, str]:
    return {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url}


@pytest.fixture
def start(settings: dict[str, str]) -> Iterator[Start]:
    running: list[Emulator] = []

    def start(handler: str, timeout: int = 10, **environment: str) -> Emulator:
        running.append(Emulator(handler, HERE, settings | environment, timeout))
        return running[-1]

    yield start
    for emulator in running:
        emulator.kill()


@pytest.fixture
def start_api(settings: dict[str, str]) -> Iterator[StartApi]:
    running: list[RuntimeApi] = []

    def start_api(handler: str, **environment: str) -> RuntimeApi:
        running.append(RuntimeApi(handler, HERE, settings | environment))
        return running[-1]

    yield start_api
    for api in running:
        api.stop()


# --- initialisation ---------------------------------------------------------------------------------------


def test_captures_of_the_handlers_file_leave_while_it_initialises(start: Start, server: FaultServer) -> None:
    emulator = start("captures_at_init.handler")
    emulator.invoke({})
    assert [event["event"] for event in server.events] == ["while initialising"] * 5 + ["in the handler"]
    assert "faas.invocation_id" not in server.events[0]["properties"]


def test_a_dead_endpoint_does_not_use_up_the_initialisation(start: Start) -> None:
    """All captures together have two seconds; what is left is kept for the invocations."""
    with black_hole() as hole:
        host = f"http://127.0.0.1:{hole.getsockname()[1]}"
        emulator = start("captures_at_init.handler", timeout=6, LEANBASE_HOST=host)
        answer = emulator.invoke({})
    assert 1 < answer.body["took"] < 4
    assert answer.body["stats"]["captured"] == answer.body["stats"]["retained"] == 6


def test_the_limit_ends_with_the_initialisation_also_without_the_decorator(
    start: Start, server: FaultServer
) -> None:
    emulator = start("captures_at_init.undecorated")
    for _ in range(2):
        assert emulator.invoke({"sleep": 2.1}).body["stats"]["retained"] == 0
    assert len(server.events) == 7


# --- snapshots --------------------------------------------------------------------------------------------


def test_a_snapshot_holds_no_connection_and_no_event(start_api: StartApi, server: FaultServer) -> None:
    """What is captured before is sent before; after the restore the first send opens a connection of its own."""
    api = start_api("captures_at_init.handler", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start")
    until = time.monotonic() + 10
    while len(server.events) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)  # now it waits for the restore
    assert len(server.events) == 5
    before = server.connections
    assert not server._open
    api.restored.set()
    api.invoke({})
    assert len(server.events) == 6
    assert server.connections == before + 1
    assert server.events[-1]["properties"]["faas.coldstart"] is True


def test_what_failed_before_the_snapshot_is_tried_again_before_it(
    start_api: StartApi, server: FaultServer
) -> None:
    server.script(*[Behaviour(status=503)] * 2)
    api = start_api(
        "captures_at_init.handler", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start", LEANBASE_MAX_RETRIES="0"
    )
    until = time.monotonic() + 10
    while len(server.accepted) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    api.restored.set()
    assert api.invoke({})["stats"]["retained"] == 1  # its own, in the scope
    assert len({event["uuid"] for request in server.accepted for event in request.events}) == 6


# --- the same work again ------------------------------------------------------------------------------------

TRACE = "Root=1-6592008a-0123456789abcdef01234567;Parent=53995c3f42cd8ad8;Sampled=0"


def identities(events: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [tuple(event[name] for name in ("event", "uuid", "timestamp", "distinct_id")) for event in events]


def test_two_attempts_of_one_request_send_the_same_events(start_api: StartApi, server: FaultServer) -> None:
    """Also in two sandboxes. The trace is that of the request, whose time it holds."""
    for attempt in ("fail", "succeed"):
        api = start_api("handlers.idempotent")
        api.invoke(
            {"fail": attempt == "fail"}, request_id="11111111-2222-3333-4444-555555555555", trace=TRACE
        )
    first, second = (request.events for request in server.requests)
    assert identities(first[:3]) == identities(second)
    assert first[3]["event"] == "$exception"
    assert {event["timestamp"] for event in first} == {"2024-01-01T00:00:10+00:00"}
    assert len({event["uuid"] for event in first}) == 4


def test_another_request_sends_others(start_api: StartApi, server: FaultServer) -> None:
    api = start_api("handlers.idempotent")
    api.invoke({}, trace=TRACE)
    api.invoke({}, trace=TRACE)
    assert len({event["uuid"] for event in server.events}) == 6


def test_the_strict_server_counts_the_retry_once(start_api: StartApi, local: LocalServer) -> None:
    for _ in range(2):
        api = start_api("handlers.idempotent", LEANBASE_HOST=local.url)
        api.invoke({}, request_id="11111111-2222-3333-4444-555555555555", trace=TRACE)
    stored = local.store.events(0)
    assert [event["times_received"] for event in stored] == [2, 2, 2]


# --- outages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["capture", "capture_each"])
def test_a_dead_endpoint_costs_fifty_invocations_one_deadline(start: Start, function: str) -> None:
    with black_hole() as hole:
        emulator = start(
            f"handlers.{function}", timeout=3, LEANBASE_HOST=f"http://127.0.0.1:{hole.getsockname()[1]}"
        )
        for _ in range(50):
            assert emulator.invoke({"count": 2}).status == 200
    slow = [duration for duration in emulator.durations() if duration > 500]
    assert len(slow) == 1
    assert slow[0] < 3000


def test_an_outage_of_thirty_invocations_with_a_spool_loses_nothing(
    start: Start, server: FaultServer, tmp_path: Path
) -> None:
    spool = {"LEANBASE_FALLBACK": "spool", "LEANBASE_SPOOL_DIRECTORY": str(tmp_path / "spool")}
    server.always(Behaviour(status=503))
    emulator = start("handlers.capture", LEANBASE_MAX_RETRIES="0", **spool)
    requests = [emulator.invoke({"count": 2}).body["request"] for _ in range(30)]
    assert not server.accepted
    emulator.kill()  # and the next sandbox, which has the same disk, does not know that there was an outage
    server.always(Behaviour())
    requests.append(start("handlers.capture", **spool).invoke({"count": 2}).body["request"])
    arrived = [
        (event["properties"]["faas.invocation_id"], event["properties"]["number"])
        for request in server.accepted
        for event in request.events
    ]
    assert sorted(arrived) == sorted((request, number) for request in requests for number in range(2))
