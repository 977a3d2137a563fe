"""While the circuit breaker pauses sends, one attempt is still made where no later send may come.

Most tests open the breaker with three failed sends (`paused_client`). Then they end the client in one of
three `ENDS`, and count the requests that the server received.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.delivery.scope import DeliveryScope, activate
from leanbase.handlers.termination import flush_all
from leanbase.transports._http import breaker
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer, black_hole
from tests.support.forking import run_in_forked_child
from tests.support.sqs import QUEUE_PATH

Make = Callable[..., Leanbase]

UNAVAILABLE = Behaviour(status=503)
SILENT = Behaviour(instead="silence")


def paused_client(
    make: Make, server: FaultServer, behaviour: Behaviour = UNAVAILABLE, **options: Any
) -> Leanbase:
    """Return a client whose breaker pauses sends, with four retained events."""
    server.always(behaviour)
    client = make(server, max_retries=0, send_deadline=options.pop("send_deadline", 5.0), **options)
    for number in range(3):
        client.capture("e", distinct_id=number)
    assert client.capture("paused", distinct_id="u") is not None
    assert client.stats()["retained"] == 4
    return client


def capture_in_job(client: Leanbase) -> object:
    return leanbase.job(lambda: client.capture("in the job", distinct_id="u"), client=client)()  # type: ignore[call-overload]


def terminate(client: Leanbase) -> object:
    """Do what the handler of SIGTERM does."""
    flush_all([client], Deadline.after(1, "full"), is_last=True)
    return None


ENDS: dict[str, Callable[[Leanbase], object]] = {
    "flush": lambda client: client.flush(),
    "shutdown": lambda client: client.shutdown(),
    "SIGTERM": terminate,
}


@pytest.mark.rule("Q-21", "Q-56")
@pytest.mark.parametrize("end", ENDS)
def test_retained_events_are_delivered_at_the_end_although_sends_are_paused(
    end: str, make: Make, server: FaultServer
) -> None:
    client = paused_client(make, server)
    server.always(Behaviour())
    ENDS[end](client)
    assert client.stats()["delivered"] == 4
    assert [event["event"] for event in server.requests[-1].events] == ["e", "e", "e", "paused"]


@pytest.mark.rule("Q-56")
def test_the_end_of_a_job_is_a_last_chance(make: Make, server: FaultServer) -> None:
    client = make(server, max_retries=0)

    @leanbase.job(client=client)
    def nightly() -> None:
        server.always(UNAVAILABLE)
        for number in range(500):  # several batches meet the outage
            client.capture("row", distinct_id=number)
        server.always(Behaviour())

    nightly()
    assert client.stats()["delivered"] == 500


@pytest.mark.rule("Q-56")
@pytest.mark.parametrize("end", ENDS)
def test_a_last_chance_while_sends_are_paused_is_one_attempt(
    end: str, make: Make, server: FaultServer
) -> None:
    client = paused_client(make, server, max_queue_size=1000, flush_at=2)
    before = len(server.requests)
    ENDS[end](client)
    assert len(server.requests) == before + 1
    assert client.stats()["delivered"] == 0
    assert balanced(client)


@pytest.mark.slow
@pytest.mark.rule("Q-56")
def test_a_last_chance_is_not_retried(make: Make, server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    client = make(server, max_retries=1)
    for number in range(3):
        client.capture("e", distinct_id=number)
    before = len(server.requests)
    assert client.flush().retained == 3
    assert len(server.requests) == before + 1


@pytest.mark.rule("Q-55")
def test_the_end_of_an_ordinary_scope_is_not_a_last_chance(make: Make, server: FaultServer) -> None:
    client = paused_client(make, server)
    before = len(server.requests)
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
    scope = DeliveryScope(deadline=Deadline.after(5))
    with activate(scope):
        client.capture("e", distinct_id="u")
        client._close_scope(scope)
    client.disconnect()
    assert len(server.requests) == before
    assert client.stats()["retained"] == 6


@pytest.mark.rule("Q-55", "Q-56")
def test_a_send_inside_a_job_is_not_a_last_chance(make: Make, server: FaultServer) -> None:
    client = paused_client(make, server, flush_at=2)
    before = len(server.requests)

    @leanbase.job(client=client)
    def work() -> int:
        for number in range(20):
            client.capture("e", distinct_id=number)
        return len(server.requests) - before

    assert work() == 0
    assert len(server.requests) == before + 1


@pytest.mark.slow
def test_flushes_of_a_silent_endpoint_make_one_attempt_of_one_second_every_ten_seconds(
    make: Make, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = paused_client(make, server, SILENT, send_deadline=1.1)
    started = time.monotonic()
    client.flush()
    assert 0.9 < time.monotonic() - started < 2
    before = len(server.requests)
    started = time.monotonic()
    for _ in range(20):
        client.flush()
    assert time.monotonic() - started < 0.5
    assert len(server.requests) == before
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 10)
    server.always(Behaviour())
    assert client.flush()
    assert client.stats()["delivered"] == 4


def breaker_of(client: Leanbase) -> breaker.CircuitBreaker:
    transport: Any = client._pipeline.outbox._transport
    found: breaker.CircuitBreaker = transport.inner._sender._breaker
    return found


def test_a_refused_connection_is_not_a_response() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Leanbase("k", f"http://127.0.0.1:{port}", max_retries=0)
    for number in range(3):
        client.capture("e", distinct_id=number)
    assert breaker_of(client)._last_brief is None
    client.flush()
    assert breaker_of(client)._last_brief is not None


@pytest.mark.rule("Q-56")
@pytest.mark.slow
def test_a_shutdown_always_makes_an_attempt_within_its_deadline(make: Make, server: FaultServer) -> None:
    client = paused_client(make, server, SILENT, send_deadline=1.1)
    client.flush()
    before = len(server.requests)
    started = time.monotonic()
    assert client.shutdown(timeout=1.5).dropped == {"shutdown": 4}
    assert 1.2 < time.monotonic() - started < 2.5
    assert len(server.requests) == before + 1


def test_a_last_chance_that_fails_does_not_change_the_pause(make: Make, server: FaultServer) -> None:
    client = paused_client(make, server)
    own_breaker = breaker_of(client)
    before = own_breaker._pause, own_breaker._opened, own_breaker._epoch
    for _ in range(5):
        client.flush()
    assert (own_breaker._pause, own_breaker._opened, own_breaker._epoch) == before


@pytest.mark.rule("Q-56")
def test_with_a_fallback_the_first_transport_has_the_last_chance(make: Make, server: FaultServer) -> None:
    server.always(UNAVAILABLE)
    client = make(server, max_retries=0, fallback="memory")
    for number in range(4):
        client.capture("e", distinct_id=number)
    assert len(server.requests) == 3
    server.always(Behaviour())
    capture_in_job(client)
    assert server.events[-1]["event"] == "in the job"


@pytest.mark.rule("Q-56")
@pytest.mark.parametrize("kind", ["spool", "buffered", "sqs"])
def test_every_transport_over_http_uses_a_last_chance(
    kind: str, server: FaultServer, make: Make, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "spool": {"transport": "spool", "spool_directory": tmp_path / "spool"},
        "buffered": {"sync_mode": False, "flush_at": 1},
        "sqs": {"transport": "sqs", "queue_url": server.url + QUEUE_PATH},
    }[kind]
    if kind == "sqs":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
    server.always(UNAVAILABLE)
    client = make(server, max_retries=0, **options)
    for number in range(4):
        client.capture("e", distinct_id=number)
        client.flush()
    before = len(server.requests)
    client.capture("paused", distinct_id="u")
    client.flush()
    assert len(server.requests) == before + 1


# --- from one default client to the next ----------------------------------------------------------------


@pytest.mark.rule("Q-55")
@pytest.mark.slow
def test_a_shutdown_after_each_request_costs_a_dead_endpoint_one_deadline() -> None:
    hole = black_hole()
    leanbase.api_key, leanbase.host = "k", f"http://127.0.0.1:{hole.getsockname()[1]}"
    leanbase.send_deadline = 1.5
    durations = []
    for _ in range(6):
        started = time.monotonic()
        leanbase.capture("e", distinct_id="u")
        leanbase.shutdown()
        durations.append(time.monotonic() - started)
    hole.close()
    assert durations[0] < 3.5, "the deadline of the send, and one second"
    assert max(durations[1:]) < 0.2


@pytest.mark.rule("Q-55")
def test_the_next_default_client_inherits_the_breaker_of_its_endpoint(server: FaultServer) -> None:
    server.always(UNAVAILABLE)
    leanbase.api_key, leanbase.host = "k", server.url
    leanbase.max_retries = 0
    for _ in range(6):
        leanbase.capture("e", distinct_id="u")
        leanbase.shutdown()
    assert len(server.requests) < 12, (
        "each client would make two requests without the breaker of the one before"
    )
    server.always(Behaviour())
    leanbase.capture("e", distinct_id="u")
    assert leanbase.shutdown()
    leanbase.capture("e", distinct_id="u")
    assert leanbase.stats()["delivered"] == 1, "the success has closed the breaker"


def test_another_client_of_the_same_endpoint_has_its_own_breaker(make: Make, server: FaultServer) -> None:
    paused_client(make, server).shutdown()
    before = len(server.requests)
    another = make(server, max_retries=0)
    another.capture("e", distinct_id="u")
    assert len(server.requests) == before + 1


@pytest.mark.rule("Q-61")
def test_a_forked_child_has_its_own_breaker(make: Make, server: FaultServer) -> None:
    client = paused_client(make, server)
    breaker_of(client)._lock.acquire()
    server.always(Behaviour())

    def send() -> None:
        client.capture("child", distinct_id="u")
        assert client.stats()["delivered"] == 1

    run_in_forked_child(send)


def test_another_host_has_its_own_breaker(make: Make, server: FaultServer, local: Any) -> None:
    paused_client(make, server)
    client = make(local)
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1
