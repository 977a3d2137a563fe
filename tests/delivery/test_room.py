"""Pending events are bounded in number and in bytes. An import waits for room, and loses no admitted event.

An import is a client with `historical_migration=True`.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.settings import Settings
from leanbase.transports import BufferedTransport, MemoryTransport
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.threads import run_in_threads, start_thread
from tests.support.transports import FailingTransport

Make = Callable[..., Leanbase]

MIB = 1024 * 1024
UNAVAILABLE = Behaviour(status=503)


def retained_bytes(client: Leanbase) -> int:
    ledger = client._pipeline.outbox._ledger
    assert ledger._kept_bytes == sum(map(len, ledger._kept))
    return ledger._kept_bytes


# --- bytes ---------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-22", "Q-57")
@pytest.mark.parametrize("options", [{}, {"sync_mode": False, "flush_interval": 0.01, "flush_at": 3}])
def test_retained_events_are_bounded_in_bytes(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = Leanbase("k", transport=FailingTransport(), max_queue_bytes=MIB, **options)
    for number in range(40):
        client.capture("e", distinct_id=number, properties={"blob": "x" * 100_000})
        assert retained_bytes(client) <= MIB
    client.flush()
    stats = client.stats()
    assert 8 <= stats["retained"] <= 10
    assert stats["dropped"] == {"overflow": 40 - stats["retained"]}
    assert "max_queue_bytes 1048576" in caplog.text
    assert balanced(client)
    client.shutdown(timeout=0)


@pytest.mark.rule("Q-22")
def test_the_oldest_events_are_dropped_when_a_failed_send_returns_them(
    make: Make, server: FaultServer
) -> None:
    dropped: list[str] = []
    server.script(*[UNAVAILABLE] * 3)
    client = make(
        server,
        max_retries=0,
        max_queue_bytes=3000,
        on_error=lambda error, events: dropped.extend(
            event["distinct_id"] for event in events if "oldest" in str(error)
        ),
    )
    for number in range(3):
        client.capture("e", distinct_id=number, properties={"blob": "x" * 900})
    assert dropped == ["0"]
    assert client.flush()
    assert [event["distinct_id"] for event in server.requests[-1].events] == ["1", "2"]


@pytest.mark.rule("Q-3")
def test_a_buffer_that_is_full_in_bytes_refuses_new_events() -> None:
    client = Leanbase(
        "k", transport=MemoryTransport(), sync_mode=False, flush_interval=60, max_queue_bytes=5000
    )
    uuids = [client.capture("e", distinct_id="u", properties={"blob": "x" * 900}) for _ in range(10)]
    assert 3 <= sum(uuid is not None for uuid in uuids) < 5
    assert client.stats()["dropped"]["overflow"] == uuids.count(None)
    small = client.capture("e", distinct_id="u")
    assert (small is not None) == (retained_bytes(client) <= 5000)
    client.flush()
    assert retained_bytes(client) == 0
    assert client.capture("e", distinct_id="u", properties={"blob": "x" * 900})
    client.shutdown()


@pytest.mark.rule("Q-22")
def test_retained_events_of_a_scope_are_bounded_in_bytes() -> None:
    client = Leanbase("k", transport=FailingTransport(), max_queue_bytes=10_000, flush_at=1000)
    client.disabled = False
    with client.delivery_scope():
        for number in range(30):
            client.capture("e", distinct_id=number, properties={"blob": "x" * 900})
        client.disabled = True  # the collected events are retained without a send
    assert 7 <= client.stats()["retained"] <= 9
    assert client.stats()["dropped"] == {"overflow": 30 - client.stats()["retained"]}
    assert retained_bytes(client) <= 10_000


@pytest.mark.rule("O-1")
@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("128", 16 * MIB),
        ("256", 32 * MIB),
        ("512", 64 * MIB),
        ("10240", 64 * MIB),
        ("", 64 * MIB),
        ("x", 64 * MIB),
    ],
)
def test_in_lambda_the_default_of_max_queue_bytes_is_at_most_an_eighth_of_the_memory(
    memory: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    assert Settings.resolve({}).max_queue_bytes == expected
    assert leanbase.max_queue_bytes == expected
    assert Settings.resolve({"max_queue_bytes": 99}).max_queue_bytes == 99
    monkeypatch.setenv("LEANBASE_MAX_QUEUE_BYTES", "1000")
    assert Settings.resolve({}).max_queue_bytes == 1000


@pytest.mark.rule("Q-3")
def test_a_buffer_that_the_application_creates_is_bounded_in_bytes() -> None:
    client = Leanbase(
        "k", transport=BufferedTransport(MemoryTransport(), max_queue_bytes=1, flush_interval=60)
    )
    assert client.capture("e", distinct_id="u") is None
    assert client.stats()["dropped"] == {"overflow": 1}


# --- an import -----------------------------------------------------------------------------------------

IMPORT: dict[str, Any] = {
    "historical_migration": True,
    "max_queue_size": 50,
    "flush_at": 10,
    "max_retries": 0,
}
WAYS: dict[str, dict[str, Any]] = {
    "buffered": {"sync_mode": False, "flush_interval": 0.05},
    "synchronous": {},
}


@pytest.mark.rule("Q-3")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("in_scope", [False, True])
def test_an_import_waits_during_a_short_outage_and_loses_no_event(
    way: str, in_scope: bool, make: Make, server: FaultServer
) -> None:
    server.script(*[Behaviour()] * 3, *[UNAVAILABLE] * 2)
    client = make(server, **IMPORT, **WAYS[way])
    uuids = []

    def work() -> None:
        for number in range(300):
            uuids.append(client.capture("row", distinct_id=number, timestamp="2020-01-02T03:04:05Z"))

    if in_scope:
        with client.delivery_scope():
            work()
    else:
        work()
    client.flush()
    assert all(uuids)
    assert client.stats()["delivered"] == 300
    assert client.stats()["dropped"] == {}


@pytest.mark.slow
@pytest.mark.rule("Q-3", "Q-57")
@pytest.mark.parametrize("way", WAYS)
def test_events_in_flight_count_against_the_limit_of_an_import(
    way: str, make: Make, server: FaultServer
) -> None:
    """Otherwise a failed send would find no room for the events that it returns."""
    server.always(UNAVAILABLE)
    client = make(server, **IMPORT, **WAYS[way], send_deadline=0.2)
    most = 0
    uuids = []
    for number in range(53):
        uuids.append(client.capture("row", distinct_id=number))
        most = max(most, client.stats()["retained"])
    assert most <= 50
    assert uuids.count(None) == 3
    assert uuids[:50].count(None) == 0
    assert client.stats()["dropped"] == {"overflow": 3}, "only the events that were not admitted"
    assert client.stats()["retained"] == 50
    assert balanced(client)


@pytest.mark.rule("Q-3")
def test_an_import_from_several_threads_loses_no_event(make: Make, server: FaultServer) -> None:
    server.script(*[Behaviour(), UNAVAILABLE] * 2)
    client = make(server, **IMPORT, sync_mode=False, flush_interval=0.05)
    run_in_threads(*[lambda: [client.capture("row", distinct_id=n) for n in range(100)]] * 4)
    client.flush()
    assert client.stats()["delivered"] == 400
    assert client.stats()["dropped"] == {}


@pytest.mark.rule("Q-15")
def test_a_shutdown_ends_the_wait_of_an_import(make: Make, server: FaultServer) -> None:
    server.always(UNAVAILABLE)
    client = make(server, **IMPORT, sync_mode=False, send_deadline=30)
    for number in range(50):
        client.capture("row", distinct_id=number)
    uuids: list[object] = []
    waiting = start_thread(lambda: uuids.append(client.capture("late", distinct_id="u")))
    time.sleep(0.2)
    client.shutdown(timeout=1)
    waiting.join(5)
    assert uuids == [None]
    assert balanced(client)


@pytest.mark.slow
def test_a_capture_inside_on_error_does_not_wait_for_its_own_send(make: Make, server: FaultServer) -> None:
    server.always(UNAVAILABLE)
    client: Leanbase = make(
        server,
        **IMPORT,
        send_deadline=0.5,
        on_error=lambda error, events: client.capture("error", distinct_id="u"),
    )
    for number in range(49):
        client.capture("row", distinct_id=number)
    assert balanced(client)


@pytest.mark.rule("Q-1")
def test_an_import_in_the_context_of_a_closed_scope_stays_in_order(make: Make, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.01))
    client = make(server, **{**IMPORT, "max_queue_size": 20}, **WAYS["buffered"])
    with client.delivery_scope():
        context = contextvars.copy_context()
    context.run(lambda: [client.capture("row", distinct_id=number) for number in range(100)])
    client.flush()
    assert [event["distinct_id"] for event in server.events] == [str(number) for number in range(100)]


@pytest.mark.rule("Q-3")
@pytest.mark.parametrize("room", [50, 51])
def test_an_import_sends_the_collected_events_of_outer_scopes_to_make_room(room: int) -> None:
    memory = MemoryTransport()
    client = Leanbase("k", transport=memory, historical_migration=True, max_queue_size=room, send_deadline=2)
    with client.delivery_scope():
        for number in range(50):
            client.capture("outer", distinct_id=number)
        with client.delivery_scope():
            started = time.process_time()
            assert client.capture("inner", distinct_id="u")
            assert time.process_time() - started < 0.5
    assert len(memory.events) == 51


@pytest.mark.rule("Q-22")
def test_a_client_that_is_not_an_import_drops_the_oldest_events_instead_of_waiting(
    make: Make, server: FaultServer
) -> None:
    server.always(UNAVAILABLE)
    client = make(server, max_queue_size=5, max_retries=0)
    for number in range(20):
        client.capture("e", distinct_id=number)
    assert client.stats()["retained"] == 5
    assert client.stats()["dropped"] == {"overflow": 15}
