"""The life of a sandbox: initialisation, snapshots, retries and outages.

Tests with `start` use AWS's emulator. Tests with `start_api` use the Runtime API of the tests, because the emulator
can neither restore a snapshot nor repeat a request id.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from leanbase.local.server import LocalServer
from tests.lambda_runtime.conftest import Start, StartApi, identities, invocation_numbers
from tests.support.events import received_names
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.unreachable import unreachable_url
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

REQUEST_ID = "11111111-2222-3333-4444-555555555555"
TRACE = "Root=1-6592008a-0123456789abcdef01234567;Parent=53995c3f42cd8ad8;Sampled=0"
"""A trace id, which holds the time of the request: 2024-01-01T00:00:10."""


def accepted_uuids(server: FaultServer) -> set[str]:
    return {event["uuid"] for request in server.accepted for event in request.events}


# --- initialisation ---------------------------------------------------------------------------------------


def test_events_captured_at_import_are_sent_during_initialisation(start: Start, server: FaultServer) -> None:
    emulator = start("captures_at_init.handler")
    emulator.invoke({})
    assert received_names(server) == ["while initialising"] * 5 + ["in the handler"]
    assert "faas.invocation_id" not in server.events[0]["properties"]


@pytest.mark.rule("Q-20")
def test_all_sends_during_initialisation_share_two_seconds(start: Start) -> None:
    """The rest of the time that Lambda allows for the initialisation remains."""
    with unreachable_url() as url:
        emulator = start("captures_at_init.handler", timeout=6, LEANBASE_HOST=url)
        response = emulator.invoke({})
    assert 1 < response.body["took"] < 4
    assert response.body["stats"]["captured"] == response.body["stats"]["retained"] == 6


def test_the_two_seconds_do_not_limit_invocations_of_an_undecorated_handler(
    start: Start, server: FaultServer
) -> None:
    emulator = start("captures_at_init.undecorated")
    for event in ({"sleep": 2.1}, {}):
        assert emulator.invoke(event).body["stats"]["retained"] == 0
    assert len(server.events) == 7


# --- snapshots --------------------------------------------------------------------------------------------


def test_a_snapshot_holds_no_connection_and_no_event(start_api: StartApi, server: FaultServer) -> None:
    api = start_api("captures_at_init.handler", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start")
    wait_until(lambda: len(server.events) >= 5, 10)
    time.sleep(0.3)  # until the sandbox waits for the restore
    assert len(server.events) == 5
    before = server.connections
    assert not server._open
    api.restored.set()
    api.invoke({})
    assert len(server.events) == 6
    assert server.connections == before + 1
    assert server.events[-1]["properties"]["faas.coldstart"] is True


@pytest.mark.rule("Q-21")
def test_events_that_failed_during_initialisation_are_resent_before_the_snapshot(
    start_api: StartApi, server: FaultServer
) -> None:
    # The last two captures of five fail, so that no later capture resends their events.
    server.script(*[Behaviour()] * 3, *[Behaviour(status=503)] * 2)
    api = start_api(
        "captures_at_init.handler", AWS_LAMBDA_INITIALIZATION_TYPE="snap-start", LEANBASE_MAX_RETRIES="0"
    )
    wait_until(lambda: len(accepted_uuids(server)) == 5, 10)
    api.restored.set()
    # The only retained event is that of the handler, whose scope is still open.
    assert api.invoke({})["stats"]["retained"] == 1
    assert len(accepted_uuids(server)) == 6


# --- retries of invocations ---------------------------------------------------------------------------------


@pytest.mark.rule("E-6")
def test_two_attempts_of_one_request_send_the_same_events(start_api: StartApi, server: FaultServer) -> None:
    """The attempts are in two sandboxes. The timestamp of the events is that of the trace."""
    for attempt in ("fail", "succeed"):
        api = start_api("handlers.idempotent")
        api.invoke({"fail": attempt == "fail"}, request_id=REQUEST_ID, trace=TRACE)
    first, second = (request.events for request in server.requests)
    assert identities(first[:3]) == identities(second)
    assert first[3]["event"] == "$exception"
    assert {event["timestamp"] for event in first} == {"2024-01-01T00:00:10+00:00"}
    assert len({event["uuid"] for event in first}) == 4


def test_another_request_sends_other_events(start_api: StartApi, server: FaultServer) -> None:
    api = start_api("handlers.idempotent")
    api.invoke({}, trace=TRACE)
    api.invoke({}, trace=TRACE)
    assert len({event["uuid"] for event in server.events}) == 6


def test_the_server_counts_the_events_of_a_retry_once(start_api: StartApi, local: LocalServer) -> None:
    for _ in range(2):
        api = start_api("handlers.idempotent", LEANBASE_HOST=local.url)
        api.invoke({}, request_id=REQUEST_ID, trace=TRACE)
    stored = local.store.events(0)
    assert [event["times_received"] for event in stored] == [2, 2, 2]


# --- outages ------------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-13", "Q-55")
@pytest.mark.parametrize("function", ["capture", "capture_each"])
def test_an_unreachable_endpoint_costs_fifty_invocations_one_deadline(start: Start, function: str) -> None:
    with unreachable_url() as url:
        emulator = start(f"handlers.{function}", timeout=3, LEANBASE_HOST=url)
        for _ in range(50):
            assert emulator.invoke({"count": 2}).status == 200
    slow = [duration for duration in emulator.durations() if duration > 500]
    assert len(slow) == 1
    assert slow[0] < 3000


def test_an_outage_of_thirty_invocations_with_a_spool_loses_no_event(
    start: Start, server: FaultServer, tmp_path: Path
) -> None:
    spool = {"LEANBASE_FALLBACK": "spool", "LEANBASE_SPOOL_DIRECTORY": str(tmp_path / "spool")}
    server.always(Behaviour(status=503))
    emulator = start("handlers.capture", LEANBASE_MAX_RETRIES="0", **spool)
    requests = [emulator.invoke({"count": 2}).body["request"] for _ in range(30)]
    assert not server.accepted
    # The next sandbox has the same directory, but a circuit breaker that knows nothing of the outage.
    emulator.kill()
    server.always(Behaviour())
    requests.append(start("handlers.capture", **spool).invoke({"count": 2}).body["request"])
    arrived = invocation_numbers([event for request in server.accepted for event in request.events])
    assert arrived == sorted((request, number) for request in requests for number in range(2))
