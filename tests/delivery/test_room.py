"""Memory is bounded in events and in bytes; an import waits for room and loses nothing that was admitted."""

from __future__ import annotations

import contextvars
import threading
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
from tests.transports.doubles import Failing

Make = Callable[..., Leanbase]

MIB = 1024 * 1024
AWAY = Behaviour(status=503)


def kept_bytes(client: Leanbase) -> int:
    ledger = client._pipeline.outbox._ledger
    assert ledger._kept_bytes == sum(map(len, ledger._kept))
    return ledger._kept_bytes


# --- bytes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sync_mode": False, "flush_interval": 0.01, "flush_at": 3}])
def test_what_is_kept_is_bounded_in_bytes(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("k", transport=Failing(), max_queue_bytes=MIB, **options)
    for number in range(40):
        client.capture("e", distinct_id=number, properties={"blob": "x" * 100_000})
        assert kept_bytes(client) <= MIB
    client.flush()
    stats = client.stats()
    assert 8 <= stats["retained"] <= 10
    assert stats["dropped"] == {"overflow": 40 - stats["retained"]}
    assert "max_queue_bytes 1048576" in caplog.text
    assert balanced(client)
    client.shutdown(timeout=0)


def test_the_oldest_go_when_a_send_comes_back(make: Make, server: FaultServer) -> None:
    heard: list[str] = []
    server.script(*[AWAY] * 3)
    client = make(
        server,
        max_retries=0,
        max_queue_bytes=3000,
        on_error=lambda error, events: heard.extend(
            event["distinct_id"] for event in events if "oldest" in str(error)
        ),
    )
    for number in range(3):
        client.capture("e", distinct_id=number, properties={"blob": "x" * 900})
    assert heard == ["0"]
    assert client.flush()
    assert [event["distinct_id"] for event in server.requests[-1].events] == ["1", "2"]


def test_a_full_buffer_refuses_what_is_too_many_bytes() -> None:
    client = Leanbase(
        "k", transport=MemoryTransport(), sync_mode=False, flush_interval=60, max_queue_bytes=5000
    )
    taken = [client.capture("e", distinct_id="u", properties={"blob": "x" * 900}) for _ in range(10)]
    assert 3 <= sum(uuid is not None for uuid in taken) < 5
    assert client.stats()["dropped"]["overflow"] == taken.count(None)
    small = client.capture("e", distinct_id="u")
    assert (small is not None) == (kept_bytes(client) <= 5000)
    client.flush()
    assert kept_bytes(client) == 0
    assert client.capture("e", distinct_id="u", properties={"blob": "x" * 900})
    client.shutdown()


def test_what_a_scope_leaves_behind_is_bounded_as_well() -> None:
    client = Leanbase("k", transport=Failing(), max_queue_bytes=10_000, flush_at=1000)
    client.disabled = False
    with client.delivery_scope():
        for number in range(30):
            client.capture("e", distinct_id=number, properties={"blob": "x" * 900})
        client.disabled = True  # what was collected is kept, without a send
    assert 7 <= client.stats()["retained"] <= 9
    assert client.stats()["dropped"] == {"overflow": 30 - client.stats()["retained"]}
    assert kept_bytes(client) <= 10_000


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
def test_in_lambda_the_default_is_an_eighth_of_the_memory_if_that_is_less(
    memory: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)
    assert Settings.resolve({}).max_queue_bytes == expected
    assert leanbase.max_queue_bytes == expected
    assert Settings.resolve({"max_queue_bytes": 99}).max_queue_bytes == 99
    monkeypatch.setenv("LEANBASE_MAX_QUEUE_BYTES", "1000")
    assert Settings.resolve({}).max_queue_bytes == 1000


def test_a_buffer_that_is_made_by_hand_is_bounded_as_well() -> None:
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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("in_scope", [False, True])
def test_an_import_waits_out_a_short_outage_and_loses_nothing(
    way: str, in_scope: bool, make: Make, server: FaultServer
) -> None:
    server.script(*[Behaviour()] * 3, *[AWAY] * 2)
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


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_flight_takes_room(way: str, make: Make, server: FaultServer) -> None:
    """A send that comes back with everything finds the room that it had."""
    server.always(AWAY)
    client = make(server, **IMPORT, **WAYS[way], send_deadline=0.2)
    most = 0
    uuids = []
    for number in range(53):
        uuids.append(client.capture("row", distinct_id=number))
        most = max(most, client.stats()["retained"])
    assert most <= 50
    assert uuids.count(None) == 3
    assert uuids[:50].count(None) == 0
    assert client.stats()["dropped"] == {"overflow": 3}, "only what was refused"
    assert client.stats()["retained"] == 50
    assert balanced(client)


def test_threads_of_an_import_together_lose_nothing(make: Make, server: FaultServer) -> None:
    server.script(*[Behaviour(), AWAY] * 2)
    client = make(server, **IMPORT, sync_mode=False, flush_interval=0.05)
    threads = [
        threading.Thread(target=lambda: [client.capture("row", distinct_id=n) for n in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.flush()
    assert client.stats()["delivered"] == 400
    assert client.stats()["dropped"] == {}


def test_a_caller_that_waits_is_let_go_by_a_shutdown(make: Make, server: FaultServer) -> None:
    server.always(AWAY)
    client = make(server, **IMPORT, sync_mode=False, send_deadline=30)
    for number in range(50):
        client.capture("row", distinct_id=number)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(client.capture("late", distinct_id="u")))
    waiting.start()
    time.sleep(0.2)
    client.shutdown(timeout=1)
    waiting.join(5)
    assert answers == [None]
    assert balanced(client)


def test_a_capture_inside_on_error_does_not_wait_for_its_own_send(make: Make, server: FaultServer) -> None:
    server.always(AWAY)
    client: Leanbase = make(
        server,
        **IMPORT,
        send_deadline=0.5,
        on_error=lambda error, events: client.capture("error", distinct_id="u"),
    )
    for number in range(49):
        client.capture("row", distinct_id=number)
    assert balanced(client)


def test_in_the_context_of_a_scope_that_is_closed_an_import_stays_in_order(
    make: Make, server: FaultServer
) -> None:
    server.always(Behaviour(delay=0.01))
    client = make(server, **{**IMPORT, "max_queue_size": 20}, **WAYS["buffered"])
    with client.delivery_scope():
        context = contextvars.copy_context()
    context.run(lambda: [client.capture("row", distinct_id=number) for number in range(100)])
    client.flush()
    assert [event["distinct_id"] for event in server.events] == [str(number) for number in range(100)]


@pytest.mark.parametrize("room", [50, 51])
def test_what_outer_scopes_have_collected_makes_room(room: int) -> None:
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


def test_elsewhere_nobody_waits(make: Make, server: FaultServer) -> None:
    server.always(AWAY)
    client = make(server, max_queue_size=5, max_retries=0)
    for number in range(20):
        client.capture("e", distinct_id=number)
    assert client.stats()["retained"] == 5
    assert client.stats()["dropped"] == {"overflow": 15}
