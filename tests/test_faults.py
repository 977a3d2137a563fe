"""Threads, signals, forks and broken callbacks: no event is lost or sent twice, and no call hangs.

The tests of signals and forks run a program of `tests/programs` against a `FaultServer`, and compare what the program
printed and what the server received. The other tests run in this process.
"""

from __future__ import annotations

import contextvars
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase, Receipt, forking
from leanbase.default import default_client
from leanbase.delivery.scope import DeliveryScope, activate
from leanbase.errors import ConfigError
from leanbase.transports import BaseTransport, MemoryTransport
from leanbase.transports._http.breaker import CircuitBreaker
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.forking import run_in_forked_child
from tests.support.programs import program_command, run_program
from tests.support.threads import start_thread
from tests.support.waiting import wait_until

Make = Callable[..., Leanbase]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def output_of(program: str, *arguments: object) -> str:
    """Run a program to its end, and return what it printed. Fail the test if the program fails."""
    done = run_program(f"tests.programs.{program}", *arguments, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def capture_in_thread(client: Leanbase) -> threading.Thread:
    return start_thread(client.capture, "e", distinct_id="u")


# --- interrupts and signal handlers -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.rule("Q-59", "Q-20", "Q-21")
@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt"])
def test_an_exception_of_a_signal_handler_in_a_send_loses_no_event(raised: str, server: FaultServer) -> None:
    server.script(Behaviour(status=503), Behaviour(delay=2))
    assert output_of("signals", "exception_in_a_send", server.url, raised) == "2\n<Receipt delivered=2> 0\n"
    assert [event["event"] for event in server.requests[-1].events] == ["retained", "interrupted"]


@pytest.mark.slow
@pytest.mark.rule("Q-59")
@pytest.mark.parametrize("delay", [0.01, 0.05, 0.3])
def test_a_signal_handler_may_shut_down_in_the_middle_of_a_send(delay: float, server: FaultServer) -> None:
    """Many programs do this on SIGTERM. The earlier signals interrupt the import of the HTTP stack."""
    server.always(Behaviour(delay=0.6))
    assert output_of("signals", "shutdown_in_a_send", server.url, delay) == "True\n"
    assert len({event["uuid"] for event in server.events}) == 1


@pytest.mark.slow
@pytest.mark.rule("Q-59")
def test_a_signal_handler_that_shuts_down_and_exits_delivers_the_interrupted_event(
    server: FaultServer,
) -> None:
    """Containers usually end like this. The interrupted send never resumes, so the shutdown sends its event."""
    server.script(Behaviour(status=503, headers={"Retry-After": "5"}))
    command = program_command("tests.programs.signals", "shutdown_and_exit", server.url)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: server.requests, 20)
        time.sleep(0.3)  # now the send waits for its retry
        process.send_signal(signal.SIGALRM)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "<Receipt delivered=1>\n")
    assert len({event["uuid"] for event in server.events}) == 1


@pytest.mark.rule("Q-22", "Q-57")
def test_an_event_that_an_interrupted_send_drops_is_counted(server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    output = output_of("signals", "interrupt_with_a_full_queue", server.url)
    assert output == "2 {'overflow': 1}\n"


@pytest.mark.rule("Q-59")
@pytest.mark.slow
def test_signal_handlers_that_capture_every_millisecond_do_not_deadlock(server: FaultServer) -> None:
    assert output_of("signals", "captures_in_a_handler", server.url) == "True\n"


# --- forks ------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-61")
@needs_fork
def test_a_fork_while_every_lock_is_held_does_not_deadlock_the_child(server: FaultServer) -> None:
    assert output_of("forks", "while_locks_are_held", server.url) == "0\n"
    assert [event["event"] for event in server.events] == ["parent", "child", "child again"]


@pytest.mark.rule("Q-60")
@needs_fork
def test_a_forked_child_has_no_retained_events_of_its_parent(server: FaultServer) -> None:
    server.script(Behaviour(status=503))
    output = output_of("forks", "with_a_retained_event", server.url)
    assert output == "0 <Receipt nothing to do> {}\n<Receipt delivered=1>\n"


@pytest.mark.slow
@pytest.mark.rule("Q-60")
@needs_fork
def test_a_deadline_of_the_parent_does_not_limit_the_child(server: FaultServer) -> None:
    assert output_of("forks", "with_a_deadline", server.url) == "1\n"


# --- threads ----------------------------------------------------------------------------------------


@pytest.mark.rule("Q-32")
@pytest.mark.slow
def test_flush_waits_for_sends_in_flight_and_reports_their_events(server: FaultServer, make: Make) -> None:
    """Events are reported as retained if a send in flight fails, or has not ended at the timeout."""
    client = make(server, max_retries=0)
    server.script(Behaviour(status=503, delay=0.3), Behaviour(delay=0.7))
    for timeout in (5.0, 0.2):
        server.requests.clear()
        thread = capture_in_thread(client)
        wait_until(lambda: server.requests)
        receipt = client.flush(timeout=timeout)
        assert not receipt
        assert receipt.retained == (1 if timeout == 5.0 else 2)
        thread.join()
    assert client.stats()["delivered"] == 2
    assert client.flush()


def test_a_finished_scope_does_not_limit_the_sends_of_its_threads(server: FaultServer, make: Make) -> None:
    """An expired deadline of the scope must not end these sends, and must not open the circuit breaker."""
    client = make(server)
    scope = DeliveryScope("end", Deadline.after(0.05))
    with activate(scope):
        late = contextvars.copy_context()
        scope.close()
    time.sleep(0.1)
    for _ in range(4):
        late.run(client.capture, "late", distinct_id="u")
    client.capture("other", distinct_id="u")
    assert client.stats()["delivered"] == 5


@pytest.mark.rule("Q-55")
def test_an_expired_deadline_does_not_open_the_circuit_breaker(server: FaultServer, make: Make) -> None:
    client = make(server)
    with activate(DeliveryScope("each", Deadline.after(0))):
        for _ in range(4):
            client.capture("e", distinct_id="u")
    assert server.requests == []
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 5


@pytest.mark.slow
@pytest.mark.rule("Q-54")
def test_a_scope_waits_at_its_end_for_a_send_in_flight_of_another_thread(
    server: FaultServer, make: Make
) -> None:
    server.script(Behaviour(delay=0.5))
    client = make(server)
    with client.delivery_scope() as scope:
        for number in range(99):
            client.capture("e", distinct_id=number)
        context = contextvars.copy_context()
        thread = start_thread(context.run, client.capture, "e", distinct_id="hundredth")
        wait_until(lambda: server.requests)
        client.capture("e", distinct_id="last")
    assert scope.receipt.delivered == 101
    assert client.stats()["retained"] == 0
    thread.join()


@pytest.mark.rule("Q-15")
def test_shutdown_ends_the_backoff_of_another_thread(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=503, headers={"Retry-After": "8"}))
    client = make(server)
    thread = capture_in_thread(client)
    wait_until(lambda: server.requests)
    time.sleep(0.1)
    started = time.monotonic()
    assert client.shutdown()
    assert time.monotonic() - started < 3
    thread.join()
    assert client.stats()["delivered"] == 1


@pytest.mark.slow
@pytest.mark.rule("Q-40")
def test_shutdown_reports_events_that_are_still_in_flight_at_its_timeout(
    server: FaultServer, make: Make
) -> None:
    server.script(Behaviour(delay=0.7))
    client = make(server)
    thread = capture_in_thread(client)
    wait_until(lambda: server.requests)
    receipt = client.shutdown(timeout=0.2)
    assert not receipt
    assert receipt.retained == 1
    thread.join()
    assert client.stats()["delivered"] == 1


def test_a_scope_may_be_left_in_another_context(client: Leanbase, memory: MemoryTransport) -> None:
    """Frameworks may start and clean up a generator in different contexts."""
    scope = client.delivery_scope()
    contextvars.copy_context().run(scope.__enter__)
    scope.__exit__(None, None, None)
    client.capture("e", distinct_id="u")
    assert len(memory.events) == 1


# --- the circuit breaker ----------------------------------------------------------------------------


@pytest.mark.rule("Q-55")
def test_requests_in_flight_that_fail_after_the_breaker_opened_do_not_lengthen_the_pause() -> None:
    breaker = CircuitBreaker()
    tickets = [breaker.try_acquire() or 0 for _ in range(10)]
    assert all(tickets)
    for ticket in tickets:
        breaker.failed(ticket, responded=True)
    assert breaker._pause == 30
    assert not breaker.try_acquire()
    breaker.succeeded()
    assert breaker.try_acquire()


@pytest.mark.slow
def test_a_capture_while_sending_is_paused_takes_no_longer_with_many_retained_events(
    server: FaultServer, make: Make
) -> None:
    """About ten thousand events are retained. The next capture must not touch them."""
    server.always(Behaviour(status=503))
    client = make(server, max_retries=0)
    for _ in range(3):
        with client.delivery_scope():
            for number in range(99):
                client.capture("e", distinct_id=number)
    with client.delivery_scope():
        for number in range(9000):
            client.capture("e", distinct_id=number)
    before = len(server.requests)
    durations = []
    for _ in range(20):
        started = time.perf_counter()
        client.capture("e", distinct_id="u")
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.005
    assert len(server.requests) == before
    assert balanced(client)


# --- callbacks and settings -------------------------------------------------------------------------


@pytest.mark.rule("H-6")
def test_a_hook_that_changes_a_super_property_changes_one_event(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory, super_properties={"app": {}})

    def mark(event: dict[str, Any]) -> dict[str, Any]:
        event["properties"]["app"]["user"] = event["distinct_id"]
        return event

    client.before_send = mark
    client.capture("e", distinct_id="alice")
    client.before_send = None
    client.capture("e", distinct_id="bob")
    assert [event["properties"]["app"] for event in memory.events] == [{"user": "alice"}, {}]


@pytest.mark.rule("Q-24")
def test_flush_inside_on_error_makes_no_further_request(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=503))
    receipts: list[Any] = []

    def on_error(error: Exception, events: list[Any]) -> None:
        receipts.append(client.flush())

    client = make(server, max_retries=0, on_error=on_error)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 1
    assert [receipt.retained for receipt in receipts] == [1]


class ReturnsNoReceipt(BaseTransport):
    def send(self, events: Any, *, deadline: Any) -> Any:
        pass


@pytest.mark.rule("G-1")
def test_a_transport_that_returns_no_receipt_does_not_affect_other_clients(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Leanbase("k", transport=ReturnsNoReceipt()), make(server)
    with bad.delivery_scope():
        bad.capture("e", distinct_id="u")
        good.capture("e", distinct_id="u")
    bad.capture("direct", distinct_id="u")
    assert good.stats()["delivered"] == 1
    assert bad.stats()["captured"] == bad.stats()["retained"] == 2
    assert "send() must return a Receipt, not NoneType" in caplog.text


@pytest.mark.rule("Q-57", "Q-58")
@pytest.mark.parametrize("reported", [0, 5])
def test_a_receipt_with_a_wrong_number_of_outcomes_is_not_believed(
    reported: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Miscounting(BaseTransport):
        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            return Receipt(delivered=reported)

    client = Leanbase("k", transport=Miscounting())
    client.capture("e", distinct_id="u")
    assert client.stats()["captured"] == client.stats()["retained"] == 1
    message = f"Miscounting: the receipt for 1 event(s) reports {reported}; 1 event(s) are retained"
    assert message in caplog.text


@pytest.mark.rule("G-1")
def test_a_default_client_with_a_blank_host_does_not_raise() -> None:
    leanbase.api_key, leanbase.host = "k", "   "
    assert leanbase.capture("e", distinct_id="u") is None
    assert leanbase.stats()["captured"] == 0


@pytest.mark.rule("G-1", "G-6")
def test_a_default_client_with_an_invalid_host_cannot_be_enabled(caplog: pytest.LogCaptureFixture) -> None:
    leanbase.api_key, leanbase.host = "k", "nonsense"
    leanbase.capture("e", distinct_id="u")
    leanbase.disabled = False
    assert leanbase.capture("e", distinct_id="u") is None
    assert default_client.disabled
    assert "nonsense" not in caplog.text


@pytest.mark.rule("W-20", "G-1")
def test_super_properties_larger_than_an_event_raise_config_error() -> None:
    large: dict[str, Any] = {"a": [[0] * 10_000] * 60}
    with pytest.raises(ConfigError, match="super_properties are too large"):
        Leanbase("k", transport="memory", super_properties=large)
    leanbase.super_properties = large
    assert leanbase.capture("e", distinct_id="u") is None


@pytest.mark.rule("W-20")
def test_an_oversized_event_of_repeated_strings_is_never_encoded_in_full(client: Leanbase) -> None:
    """A string of 200 KB, 1,500 times in a list, would make 300 MB of JSON."""
    import tracemalloc

    rows = ["x" * 200_000] * 1500
    keys = [{"k" * 100_000: 1}] * 1000
    tracemalloc.start()
    try:
        assert client.capture("e", distinct_id="u", properties={"rows": rows}) is None
        assert client.capture("e", distinct_id="u", properties={"keys": keys}) is None
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert client.stats()["dropped"] == {"too_large": 2}


@pytest.mark.rule("C-35")
def test_opt_in_survives_a_shutdown() -> None:
    leanbase.transport = memory = MemoryTransport()
    leanbase.opted_out = True
    assert leanbase.capture("e", distinct_id="u") is None
    leanbase.opt_in()
    leanbase.shutdown()
    leanbase.capture("e", distinct_id="u")
    assert len(memory.events) == 1


@pytest.mark.rule("G-1")
def test_a_missing_key_is_logged_once_also_after_shutdowns(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        leanbase.capture("e", distinct_id="u")
        leanbase.shutdown()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.rule("G-6")
def test_the_repr_of_settings_does_not_show_the_key() -> None:
    from leanbase.settings import Settings

    assert "phc_secret" not in repr(Settings.resolve({"api_key": "phc_secret", "transport": "memory"}))


# --- responses --------------------------------------------------------------------------------------


@pytest.mark.rule("W-16")
def test_a_redirect_to_an_invalid_url_is_terminal(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=308, headers={"Location": "http://[bad/"}))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert client.stats()["dropped"] == {"rejected": 1}


@pytest.mark.rule("W-16")
@pytest.mark.parametrize(
    ("host", "location", "followed"),
    [
        ("http://h", "https://h:443/batch/", True),
        ("http://h:80", "https://h/batch/", True),
        ("http://h", "https://h:8443/batch/", False),
        ("https://h", "http://h/batch/", False),
        ("http://h:8000", "https://h:8000/batch/", False),
        ("http://h:80", "http://h/other/", True),
    ],
)
def test_a_redirect_is_followed_only_to_the_same_server(host: str, location: str, followed: bool) -> None:
    from leanbase.transports._http.connection import Response
    from leanbase.transports.http import HttpTransport

    response = Response(307, {"Location": location}, b"")
    assert (HttpTransport("k", host)._redirected(response) is not None) == followed


@pytest.mark.rule("W-16")
def test_a_redirect_to_another_port_is_terminal(server: FaultServer, make: Make) -> None:
    other = FaultServer()
    server.always(Behaviour(status=307, headers={"Location": f"{other.url}/batch/"}))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert other.requests == []
    assert client.stats()["dropped"] == {"rejected": 1}
    other.stop()


@pytest.mark.rule("W-16")
def test_redirects_reuse_the_connection(server: FaultServer, make: Make) -> None:
    client = make(server)
    for number in range(10):
        server.script(Behaviour(status=307, headers={"Location": f"/batch/?n={number}"}))
        client.capture("e", distinct_id="u")
    assert server.connections == 1
    assert server.requests[-1].line == "POST /batch/?n=9 HTTP/1.1"


@pytest.mark.rule("W-10")
def test_a_2xx_response_with_an_invalid_body_is_a_success(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(body=b'["quota_limited",' + b"[" * 60_000))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1


# --- SIGTERM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "failed_sends"), [("end", 1), ("each", 2)])
def test_sigterm_in_a_job_also_sends_retained_events(
    policy: str, failed_sends: int, server: FaultServer
) -> None:
    server.script(*[Behaviour(status=503)] * failed_sends)
    command = program_command("tests.programs.signals", "job", server.url, policy)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert [event["event"] for event in server.requests[-1].events] == ["retained"]
    assert len(server.requests) == failed_sends + 1


@needs_fork
def test_an_object_that_cannot_be_reset_in_a_child_does_not_keep_others_from_it() -> None:
    class Broken:
        def _reset_after_fork(self) -> None:
            raise OSError("a descriptor was closed")

    class Sound:
        is_reset = False

        def _reset_after_fork(self) -> None:
            self.is_reset = True

    objects: list[Broken | Sound] = [*(Broken() for _ in range(9)), *(Sound() for _ in range(9))]
    for each in objects:
        forking.reset_in_child(each)

    def child() -> None:
        assert [each.is_reset for each in objects if isinstance(each, Sound)] == [True] * 9

    run_in_forked_child(child)
