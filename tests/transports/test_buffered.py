"""The buffer of `sync_mode=False`, against a real server and in real processes.

The server is in the test's process, and so is the client in most tests: the fixture `buffered` makes clients
whose thread sends after 50 ms, and the options `NEVER` keep that thread from sending at all. Tests of exits
and forks run a program of `programs/`, or fork. Asserted is what the server received, and in which requests.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.transports import BufferedTransport, FallbackTransport, MemoryTransport, SpoolTransport
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.support.events import encoded_events, received_names
from tests.support.fault_server import Behaviour, FaultServer, black_hole
from tests.support.forking import run_in_forked_child
from tests.support.programs import run_program
from tests.support.threads import run_in_threads, start_thread
from tests.support.transports import FailingTransport
from tests.support.waiting import wait_until

Make = Callable[..., Leanbase]
NEVER = {"flush_at": 10_000, "flush_interval": 3600}
"""Options of a buffer that sends nothing by itself."""


@pytest.fixture
def buffered(make: Make, server: FaultServer) -> Callable[..., Leanbase]:
    return lambda **options: make(server, sync_mode=False, **{"flush_interval": 0.05, **options})


def transport_of(client: Leanbase) -> Any:
    return client._current().outbox._transport


def buffer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "leanbase-buffer"]


# --- batches -------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-1", "Q-2")
def test_flush_at_events_are_sent_at_once_and_in_order(buffered: Make, server: FaultServer) -> None:
    client = buffered(flush_at=10, flush_interval=3600)
    for number in range(25):
        client.capture(f"e{number}", distinct_id="u")
    wait_until(lambda: len(server.events) >= 20)
    client.flush()
    assert received_names(server) == [f"e{number}" for number in range(25)]
    assert all(len(request.events) <= 10 for request in server.requests)


@pytest.mark.rule("Q-2")
def test_events_are_sent_after_flush_interval(buffered: Make, server: FaultServer) -> None:
    client = buffered(flush_at=1000, flush_interval=0.2)
    client.capture("e", distinct_id="u")
    assert not server.requests
    wait_until(lambda: server.events)
    assert client.flush()
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("G-2")
def test_a_capture_does_not_wait_for_a_server_that_hangs(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = buffered(flush_at=1, timeout=30)
    started = time.monotonic()
    for number in range(50):
        assert client.capture("e", distinct_id=number)
    assert time.monotonic() - started < 1
    assert client.stats()["retained"] == 50


@pytest.mark.rule("Q-3")
def test_a_full_buffer_drops_new_events_and_warns_once(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[int] = []
    client = make(
        server,
        sync_mode=False,
        max_queue_size=5,
        **NEVER,
        on_error=lambda error, events: reported.append(len(events)),
    )
    server.always(Behaviour(status=500))
    transport_of(client)._flush_at = 10_000  # the client has limited it to max_queue_size
    uuids = [client.capture(f"e{number}", distinct_id="u") for number in range(8)]
    assert [uuid is not None for uuid in uuids] == [True] * 5 + [False] * 3
    assert client.stats()["dropped"] == {"overflow": 3}
    assert client.stats()["retained"] == 5
    assert reported == [1, 1, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "max_queue_size is 5" in caplog.text
    server.always(Behaviour())
    assert client.flush()
    assert received_names(server) == [f"e{number}" for number in range(5)]
    assert balanced(client)


@pytest.mark.slow
@pytest.mark.rule("Q-3")
def test_an_import_waits_for_room_in_the_buffer(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.02))
    client = buffered(max_queue_size=20, flush_at=10, historical_migration=True)
    uuids = [client.capture(f"e{number}", distinct_id="u") for number in range(300)]
    assert all(uuids)
    client.flush()
    batches = [
        (request.connection, [event["event"] for event in request.events]) for request in server.requests
    ]
    assert [event["uuid"] for event in server.events] == uuids, batches
    assert all(request.envelope["historical_migration"] for request in server.requests)


@pytest.mark.rule("Q-2")
def test_an_import_sends_each_full_batch_before_capture_returns(buffered: Make, server: FaultServer) -> None:
    client = buffered(flush_at=3, historical_migration=True)
    for number in range(7):
        client.capture(f"e{number}", distinct_id="u")
        assert len(server.events) == (number + 1) // 3 * 3
    assert len(server.requests) == 2
    assert client.flush()
    assert received_names(server) == [f"e{number}" for number in range(7)]


@pytest.mark.rule("Q-2")
def test_an_import_on_an_event_loop_leaves_the_sends_to_the_thread(
    buffered: Make, server: FaultServer
) -> None:
    server.always(Behaviour(delay=0.2))
    client = buffered(flush_at=1, historical_migration=True)

    async def capture() -> int:
        assert client.capture("e", distinct_id="u")
        return client.stats()["delivered"]

    assert asyncio.run(capture()) == 0
    wait_until(lambda: client.stats()["delivered"] == 1, 5)


@pytest.mark.rule("Q-2")
def test_an_event_of_an_import_that_pauses_leaves_after_the_interval(
    buffered: Make, server: FaultServer
) -> None:
    """The thread sleeps until the first of them was due, and then until the latest."""
    client = buffered(flush_at=2, flush_interval=0.1, historical_migration=True)
    for number in range(5):
        client.capture(f"e{number}", distinct_id="u")
    assert len(server.events) == 4
    wait_until(lambda: len(server.events) == 5, 5)


@pytest.mark.slow
@pytest.mark.rule("Q-3", "Q-57")
def test_an_import_waits_until_the_deadline_at_most(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = buffered(max_queue_size=2, flush_at=1, historical_migration=True, send_deadline=0.3)
    uuids = [client.capture("e", distinct_id="u") for _ in range(6)]
    assert uuids[0]
    assert None in uuids
    assert client.stats()["dropped"] == {"overflow": uuids.count(None)}, (
        "only the events that were not admitted"
    )
    assert balanced(client)


@pytest.mark.rule("G-4", "Q-4", "Q-5", "Q-57")
def test_events_of_many_threads_arrive_once_each(buffered: Make, server: FaultServer) -> None:
    server.script(*[Behaviour(status=500), Behaviour(delay=0.01)] * 5)
    client = buffered(flush_at=7, max_retries=0)
    uuids: list[str | None] = []

    def capture() -> None:
        for number in range(200):
            uuids.append(client.capture("e", distinct_id=number))
            if number % 50 == 0:
                client.flush()

    run_in_threads(*[capture] * 8)
    assert client.flush(timeout=None)
    for request in server.requests:
        sent = [event["uuid"] for event in request.events]
        assert len(set(sent)) == len(sent)
    received = {event["uuid"] for event in server.events}
    assert received == set(uuids)
    assert client.stats()["delivered"] == len(uuids) == 1600
    assert balanced(client)


@pytest.mark.rule("Q-6")
def test_a_buffer_has_one_daemon_thread_from_its_first_event_on(buffered: Make, server: FaultServer) -> None:
    before = set(buffer_threads())
    client = buffered()
    assert client.flush()
    assert set(buffer_threads()) == before
    for number in range(50):
        client.capture("e", distinct_id=number)
    (thread,) = set(buffer_threads()) - before
    assert thread.daemon
    client.shutdown()
    wait_until(lambda: not thread.is_alive())


# --- after a failure -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.rule("Q-12")
def test_a_long_retry_after_pauses_the_thread_but_not_a_flush(buffered: Make, server: FaultServer) -> None:
    server.script(Behaviour(status=429, headers={"Retry-After": "3600"}))
    client = buffered(max_retries=0)
    client.capture("first", distinct_id="u")
    wait_until(lambda: server.requests)
    client.capture("second", distinct_id="u")
    time.sleep(0.3)
    assert len(server.requests) == 1
    assert client.flush()
    assert received_names(server)[1:] == ["first", "second"]


@pytest.mark.slow
@pytest.mark.rule("Q-20", "Q-21")
def test_failed_events_are_sent_with_the_next_event_and_not_before(
    buffered: Make, server: FaultServer
) -> None:
    reported: list[list[str]] = []
    server.script(Behaviour(status=503))
    client = buffered(
        max_retries=0, on_error=lambda error, events: reported.append([e["event"] for e in events])
    )
    client.capture("first", distinct_id="u")
    wait_until(lambda: reported)
    time.sleep(0.3)
    assert len(server.requests) == 1
    assert client.stats()["retained"] == 1
    client.capture("second", distinct_id="u")
    wait_until(lambda: len(server.requests) == 2)
    assert received_names(server) == ["first", "first", "second"]
    assert server.events[0]["uuid"] == server.events[1]["uuid"]
    assert reported == [["first"]]


@pytest.mark.rule("Q-21")
def test_a_buffer_that_is_full_of_failed_events_recovers(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    client = buffered(max_retries=0, max_queue_size=3, flush_at=3)
    for number in range(3):
        client.capture(f"e{number}", distinct_id="u")
    wait_until(lambda: len(server.requests) == 1)
    wait_until(
        lambda: client.stats()["retained"] == 3 and client.capture("too many", distinct_id="u") is None
    )
    server.always(Behaviour())
    client.capture("also too many", distinct_id="u")
    wait_until(lambda: client.stats()["delivered"] == 3)
    assert client.capture("again", distinct_id="u")


@pytest.mark.rule("Q-22")
def test_an_outage_does_not_fill_the_memory(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(status=503, delay=0.01))
    client = buffered(max_retries=0, max_queue_size=30, flush_at=10)
    for number in range(500):
        client.capture("e", distinct_id=number)
        assert transport_of(client).ledger.kept <= 30
    client.flush()
    assert client.stats()["retained"] <= 30
    assert set(client.stats()["dropped"]) == {"overflow"}
    assert balanced(client)


@pytest.mark.rule("Q-23")
def test_a_rejected_batch_does_not_block_the_next(buffered: Make, server: FaultServer) -> None:
    errors: list[Any] = []
    server.script(Behaviour(status=400))
    client = buffered(flush_at=2, flush_interval=3600, on_error=lambda error, events: errors.append(error))
    for number in range(6):
        client.capture(f"e{number}", distinct_id="u")
    client.flush()
    assert client.stats()["dropped"] == {"rejected": 2}
    assert client.stats()["delivered"] == 4
    assert [error.status for error in errors] == [400]


@pytest.mark.rule("Q-24")
@pytest.mark.parametrize("call", ["flush", "shutdown"])
def test_on_error_may_flush_and_shut_down_a_buffer(buffered: Make, server: FaultServer, call: str) -> None:
    server.always(Behaviour(status=400))
    done = threading.Event()

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        getattr(client, call)()
        done.set()

    client = buffered(on_error=on_error)
    client.capture("e", distinct_id="u")
    assert done.wait(5)
    assert balanced(client)


# --- flush ---------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-30")
def test_a_flush_without_pending_events_sends_no_request(buffered: Make, server: FaultServer) -> None:
    client = buffered()
    assert client.flush()
    assert not server.requests


@pytest.mark.rule("Q-31")
def test_a_flush_sends_all_pending_events_and_waits_for_the_outcome(make: Make, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.05))
    client = make(server, sync_mode=False, flush_interval=3600, flush_at=100)
    for number in range(99):
        client.capture("e", distinct_id=number)
    assert client.flush()
    assert len(server.requests) == 1
    assert client.stats()["delivered"] == 99


@pytest.mark.slow
@pytest.mark.rule("Q-32")
def test_a_flush_waits_for_the_batch_in_flight_and_does_not_retry_it(
    buffered: Make, server: FaultServer
) -> None:
    server.script(Behaviour(status=503, delay=0.5))
    client = buffered(max_retries=0, flush_at=1)
    client.capture("e", distinct_id="u")
    wait_until(lambda: server.requests)
    receipt = client.flush()
    assert not receipt
    assert receipt.retained == 1
    assert len(server.requests) == 1


@pytest.mark.rule("Q-32", "Q-33")
def test_a_flush_stops_at_the_first_failed_batch(make: Make, server: FaultServer) -> None:
    server.script(Behaviour(), Behaviour(status=503))
    client = make(server, sync_mode=False, flush_interval=3600, flush_at=1000, max_retries=0)
    transport = transport_of(client)
    transport._flush_at = 10
    transport._not_before = time.monotonic() + 3600  # so that the thread sends nothing
    for number in range(40):
        client.capture(f"e{number}", distinct_id="u")
    receipt = client.flush()
    assert not receipt
    assert (receipt.delivered, client.stats()["retained"]) == (10, 30)
    assert len(server.requests) == 2
    assert client.flush()
    assert received_names(server)[20:] == [f"e{number}" for number in range(10, 40)]


@pytest.mark.rule("Q-32", "Q-33")
def test_a_flush_ends_with_its_timeout_and_retains_its_events(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = buffered()
    client.capture("e", distinct_id="u")
    started = time.monotonic()
    assert not client.flush(timeout=0.2)
    assert time.monotonic() - started < 1.5
    assert client.stats()["retained"] == 1


@pytest.mark.rule("Q-34")
def test_concurrent_flushes_send_each_event_once(make: Make, server: FaultServer) -> None:
    client = make(server, sync_mode=False, **NEVER)
    for number in range(500):
        client.capture("e", distinct_id=number)
    run_in_threads(*[client.flush] * 8)
    assert len(server.events) == 500
    assert len({event["uuid"] for event in server.events}) == 500


# --- shutdown ------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-40", "Q-41", "Q-42")
def test_a_shutdown_sends_everything_and_ends_the_thread(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(server, sync_mode=False, **NEVER)
    for number in range(250):
        client.capture("e", distinct_id=number)
    thread = transport_of(client)._worker
    receipt = client.shutdown()
    assert receipt
    wait_until(lambda: not thread.is_alive())
    assert len(server.events) == 250
    assert not client.shutdown().delivered
    assert client.capture("late", distinct_id="u") is None
    assert "the client was shut down" in caplog.text
    assert len(server.events) == 250
    assert balanced(client)


@pytest.mark.rule("Q-43")
def test_events_that_a_shutdown_cannot_deliver_are_dropped_and_reported(
    buffered: Make, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(status=503))
    reported: list[int] = []
    client = buffered(**NEVER, max_retries=0, on_error=lambda error, events: reported.append(len(events)))
    for number in range(3):
        client.capture("e", distinct_id=number)
    client.shutdown()
    assert client.stats()["dropped"] == {"shutdown": 3}
    assert "3 event(s) could not be delivered before shutdown" in caplog.text
    assert 3 in reported


@pytest.mark.rule("Q-15")
def test_a_shutdown_ends_a_retry_wait(buffered: Make, server: FaultServer) -> None:
    server.always(Behaviour(status=503, headers={"Retry-After": "4"}))
    client = buffered(max_retries=1)
    client.capture("e", distinct_id="u")
    wait_until(lambda: server.requests)
    server.always(Behaviour())
    started = time.monotonic()
    assert client.shutdown()
    assert time.monotonic() - started < 2
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("Q-42")
def test_a_shutdown_of_the_module_after_every_request_loses_no_event(server: FaultServer) -> None:
    leanbase.api_key, leanbase.host, leanbase.sync_mode = "k", server.url, False
    for number in range(5):
        leanbase.capture(f"e{number}", distinct_id="u")
        assert leanbase.shutdown()
    assert received_names(server) == [f"e{number}" for number in range(5)]


@pytest.mark.rule("Q-42")
def test_a_buffer_can_be_used_again_after_a_shutdown_of_the_module() -> None:
    memory = MemoryTransport()
    leanbase.transport = BufferedTransport(memory, flush_interval=3600)
    for number in range(3):
        assert leanbase.capture(f"e{number}", distinct_id="u")
        assert leanbase.stats()["retained"] == 1
        assert leanbase.shutdown()
    assert [event["event"] for event in memory.events] == ["e0", "e1", "e2"]


@pytest.mark.slow
@pytest.mark.rule("Q-40", "Q-57")
def test_captures_during_a_shutdown_are_sent_or_refused(server: FaultServer) -> None:
    for _ in range(10):
        client = Leanbase("k", server.url, sync_mode=False, flush_at=3)
        admitted: list[str] = []

        def capture(client: Leanbase = client, admitted: list[str] = admitted) -> None:
            while uuid := client.capture("e", distinct_id="u"):
                admitted.append(uuid)

        thread = start_thread(capture)
        time.sleep(0.01)
        client.shutdown()
        thread.join()
        assert balanced(client)
        assert client.stats()["retained"] == 0
        assert set(admitted) <= {event["uuid"] for event in server.events}


# --- scopes and other transports -----------------------------------------------------------------------


@pytest.mark.rule("Q-1", "Q-54")
def test_the_end_of_a_scope_leaves_no_events_to_the_thread(make: Make, server: FaultServer) -> None:
    client = make(server, sync_mode=False, **NEVER)
    client.capture("before", distinct_id="u")
    with client.delivery_scope() as scope:
        client.capture("inside", distinct_id="u")
    assert received_names(server) == ["before", "inside"]
    assert scope.receipt.delivered == 1
    assert client.stats()["delivered"] == 2


@pytest.mark.rule("Q-54")
def test_a_lambda_handler_delivers_before_it_returns(make: Make, server: FaultServer) -> None:
    client = make(server, sync_mode=False, **NEVER)
    client.capture("in the init phase", distinct_id="u")

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> str | None:
        return client.capture("inside", distinct_id="u")

    assert handler({}, None)
    assert received_names(server) == ["in the init phase", "inside"]


@pytest.mark.rule("C-40")
def test_a_disabled_client_sends_nothing_until_it_is_enabled(buffered: Make, server: FaultServer) -> None:
    client = buffered()
    client._current().outbox.disabled = True
    transport = transport_of(client)
    with transport.ledger.lock:
        transport.keep(*encoded_events(1))
        transport._note_new()
    time.sleep(0.2)
    assert not server.requests
    client.disabled = False
    client.capture("next", distinct_id="u")
    wait_until(lambda: len(server.events) == 2)


def test_two_clients_cannot_share_a_buffer() -> None:
    transport = BufferedTransport(MemoryTransport())
    one = Leanbase(transport=transport)
    one.capture("e", distinct_id="u")
    with pytest.raises(ConfigError, match="belongs to another client"):
        Leanbase(transport=transport)
    one.shutdown()


def test_a_buffer_cannot_be_inside_another_transport(tmp_path: Any) -> None:
    inner = BufferedTransport(MemoryTransport())
    for make in (
        lambda: FallbackTransport(inner, MemoryTransport()),
        lambda: FallbackTransport(MemoryTransport(), inner),
        lambda: SpoolTransport(tmp_path / "s", inner),
        lambda: BufferedTransport(inner),
        lambda: Leanbase("k", "http://127.0.0.1:1", transport="memory", fallback="buffered"),
    ):
        with pytest.raises(ConfigError, match="sync_mode=False"):
            make()


@pytest.mark.parametrize("transport", ["memory", "log", "spool"])
def test_sync_mode_false_puts_a_buffer_around_any_transport(transport: str, tmp_path: Any) -> None:
    client = Leanbase(transport=transport, sync_mode=False, spool_directory=tmp_path / "spool")
    assert client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    assert client.flush()
    assert client.stats()["retained"] == 0
    client.shutdown()


def test_a_fallback_inside_a_buffer_gets_undelivered_events(server: FaultServer) -> None:
    memory = MemoryTransport()
    server.always(Behaviour(status=503))
    client = Leanbase("k", server.url, sync_mode=False, fallback=memory, flush_interval=0.05, max_retries=0)
    client.capture("e", distinct_id="u")
    wait_until(lambda: memory.events)
    wait_until(lambda: client.stats()["delivered"] == 1)
    client.shutdown()


# --- the end of the process ----------------------------------------------------------------------------


PROGRAMS = "tests.transports.programs"


def run_at_exit(ending: str, url: str) -> subprocess.CompletedProcess[str]:
    return run_program(f"{PROGRAMS}.buffer_at_exit", ending, url, python_options=("-W", "error"))


@pytest.mark.rule("Q-50")
@pytest.mark.parametrize(
    ("ending", "exit_code"),
    [("return_normally", 0), ("raise_system_exit", 3), ("raise_value_error", 1), ("start_a_thread", 0)],
)
def test_the_end_of_the_interpreter_sends_the_buffer(
    server: FaultServer, ending: str, exit_code: int
) -> None:
    ended = run_at_exit(ending, server.url)
    sent = received_names(server)
    assert sent.count("e") == 250, ended.stderr
    assert sent.count("thread") == (ending == "start_a_thread")
    assert ended.stderr.count("Traceback") == (ending == "raise_value_error")
    assert ended.returncode == exit_code


@pytest.mark.rule("Q-50")
def test_events_captured_in_exit_hooks_are_sent(server: FaultServer) -> None:
    ended = run_program(f"{PROGRAMS}.capture_at_exit", server.url, python_options=("-W", "error"))
    assert sorted(received_names(server)) == [
        "first",
        "registered after the first event",
        "registered before the first event",
        "registered before the import",
    ], ended.stderr
    assert ended.stderr == ""


@pytest.mark.rule("Q-51", "Q-52")
@pytest.mark.slow
def test_exit_takes_two_seconds_at_most_for_all_clients() -> None:
    hole = black_hole()
    ended = run_at_exit("buffer_in_three_clients", f"http://127.0.0.1:{hole.getsockname()[1]}")
    assert time.time() - float(ended.stdout) < 4, "2 s for the events, the rest for the interpreter"
    assert "3 event(s) are lost" in ended.stderr
    hole.close()


@pytest.mark.rule("Q-51")
@pytest.mark.slow
def test_a_send_in_flight_does_not_delay_the_exit() -> None:
    hole = black_hole()
    ended = run_at_exit("end_during_a_send", f"http://127.0.0.1:{hole.getsockname()[1]}")
    assert time.time() - float(ended.stdout) < 4
    assert ended.returncode == 0
    hole.close()


@pytest.mark.rule("Q-41")
def test_a_program_that_has_shut_its_client_down_twice_exits_cleanly(server: FaultServer) -> None:
    ended = run_at_exit("shut_down_twice", server.url)
    assert received_names(server) == ["e"]
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.rule("Q-50")
def test_at_exit_an_error_in_one_transport_does_not_stop_the_others(server: FaultServer) -> None:
    ended = run_program(f"{PROGRAMS}.buffer_at_exit", "close_with_errors", server.url)
    assert ended.returncode == 0, ended.stderr
    assert sorted(event["distinct_id"] for event in server.events) == list("0123")


# --- forks ---------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-60")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_parent_and_child_each_deliver_their_own_events(make: Make, server: FaultServer) -> None:
    client = make(server, sync_mode=False, **NEVER)
    client.capture("parent", distinct_id="u")

    def child() -> None:
        assert client.stats()["captured"] == 0
        assert not buffer_threads()
        client.capture("child", distinct_id="u")
        assert len(buffer_threads()) == 1
        assert client.flush().delivered == 1

    run_in_forked_child(child)
    assert client.flush().delivered == 1
    assert sorted(received_names(server)) == ["child", "parent"]


@pytest.mark.rule("Q-61")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_locks_are_held_does_not_hang_the_child(make: Make, server: FaultServer) -> None:
    client = make(server, sync_mode=False, flush_at=2)
    stop = threading.Event()

    def capture_continuously() -> None:
        while not stop.is_set():
            client.capture("parent", distinct_id="u")

    threads = [start_thread(capture_continuously) for _ in range(3)]
    transport = transport_of(client)

    def child() -> None:
        client.capture("child", distinct_id="u")
        assert client.flush().delivered == 1

    try:
        for _ in range(20):
            run_in_forked_child(child)
        with transport.ledger.lock:
            run_in_forked_child(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert received_names(server).count("child") == 21


@pytest.mark.slow
@pytest.mark.rule("Q-61")
def test_a_fork_during_the_imports_of_the_first_send_does_not_hang_the_child(server: FaultServer) -> None:
    ended = run_program(f"{PROGRAMS}.fork_while_importing", server.url, python_options=("-W", "ignore"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(received_names(server)) == ["child", "parent"]


def capture_in_child(url: str) -> None:
    client = Leanbase("k", url, sync_mode=False, flush_interval=3600)
    client.capture("child", distinct_id=os.getpid())


@pytest.mark.slow
@pytest.mark.rule("Q-62")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_processes_of_multiprocessing_send_their_buffer(server: FaultServer, method: Any) -> None:
    context = multiprocessing.get_context(method)
    children = [context.Process(target=capture_in_child, args=(server.url,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert received_names(server) == ["child"] * 3


@pytest.mark.rule("Q-62")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_client_created_before_the_fork_works_in_child_processes(make: Make, server: FaultServer) -> None:
    client = make(server, sync_mode=False, **NEVER)
    client.capture("parent", distinct_id="u")
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=client.capture, args=("child",), kwargs={"distinct_id": n}) for n in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert sorted(received_names(server)) == ["child"] * 3
    assert client.flush()


@pytest.mark.rule("Q-31")
def test_without_a_thread_a_flush_sends_the_buffer(
    make: Make, server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def fail(self: threading.Thread) -> None:
        if self.name == "leanbase-buffer":
            raise RuntimeError("can't start new thread")
        start(self)

    client = make(server, sync_mode=False, flush_at=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for number in range(3):
            assert client.capture("e", distinct_id=number)
        assert caplog.text.count("the sending thread cannot be started") == 1
        assert not server.requests
        assert client.flush()
    assert len(server.events) == 3


def test_the_thread_ends_after_its_client_is_garbage_collected(server: FaultServer) -> None:
    before = buffer_threads()
    for number in range(20):
        client: Leanbase | None = Leanbase("k", server.url, sync_mode=False, flush_interval=0.02)
        assert client
        client.capture(f"e{number}", distinct_id="u")
    client = None
    wait_until(lambda: len(server.events) == 20)

    def are_gone() -> bool:
        gc.collect()
        return len(buffer_threads()) <= len(before)

    wait_until(are_gone)
    assert sorted(received_names(server)) == sorted(f"e{number}" for number in range(20))


@pytest.mark.slow
def test_the_buffer_of_a_garbage_collected_client_is_sent(server: FaultServer) -> None:
    for number in range(20):
        Leanbase("k", server.url, sync_mode=False, flush_interval=0.1).capture(f"e{number}", distinct_id="u")
        gc.collect()
    wait_until(lambda: len(server.events) == 20)


def test_a_client_keeps_its_thread_between_sends(buffered: Make, server: FaultServer) -> None:
    client = buffered(flush_interval=0.02)
    client.capture("one", distinct_id="u")
    wait_until(lambda: server.events)
    thread = transport_of(client)._worker
    gc.collect()
    time.sleep(0.1)
    client.capture("two", distinct_id="u")
    wait_until(lambda: len(server.events) == 2)
    assert transport_of(client)._worker is thread
    assert thread.is_alive()


@pytest.mark.rule("Q-31", "Q-50")
@pytest.mark.skipif(sys.version_info < (3, 13), reason="needs the _interpreters of CPython 3.13")
def test_in_a_sub_interpreter_without_daemon_threads_a_flush_sends_the_buffer(server: FaultServer) -> None:
    ended = run_program(f"{PROGRAMS}.sub_interpreter", server.url, python_options=("-W", "error"))
    assert ended.stdout == "None\n"
    assert (
        ended.stderr.splitlines()
        == ["WARNING the sending thread cannot be started; events are sent by flush() and shutdown()"] * 2
    )
    assert received_names(server) == ["one", "two", "three", "at exit"]


@pytest.mark.rule("Q-43")
def test_closing_a_buffer_without_a_client_drops_undelivered_events() -> None:
    transport = BufferedTransport(FailingTransport(), flush_interval=3600)
    transport.send(encoded_events(3), deadline=Deadline.after(1))
    assert transport.flush(deadline=Deadline.after(1)).retained == 3
    assert transport.close(deadline=Deadline.after(1)).dropped == {"shutdown": 3}
