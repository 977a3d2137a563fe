"""What threads, signals, forks and broken callbacks do to delivery: nothing lost, nothing twice, no hang."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase, Receipt
from leanbase.default import default_client
from leanbase.delivery.scope import DeliveryScope, activate
from leanbase.errors import ConfigError
from leanbase.transports import BaseTransport, MemoryTransport
from leanbase.transports._http.breaker import CircuitBreaker
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer

Make = Callable[..., Leanbase]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def run(code: str, timeout: float = 30) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- interrupts and signal handlers -----------------------------------------------------------------


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt"])
def test_an_exit_raised_in_the_middle_of_a_send_loses_nothing(raised: str, server: FaultServer) -> None:
    """A handler of SIGALRM or SIGTERM that raises cuts the send off; what it carried is retained."""
    server.script(Behaviour(status=503), Behaviour(delay=2))
    output = run(f"""
import signal, leanbase
client = leanbase.Leanbase("k", {server.url!r}, max_retries=0)
client.capture("retained", distinct_id="u")
def interrupt(number, frame): raise {raised}
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    client.capture("interrupted", distinct_id="u")
except {raised}:
    print(client.stats()["retained"])
print(client.flush(), client.stats()["retained"])
""")
    assert output == "2\n<Receipt delivered=2> 0\n"
    assert [event["event"] for event in server.requests[-1].events] == ["retained", "interrupted"]


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_a_signal_handler_may_shut_down_in_the_middle_of_a_send(delay: float, server: FaultServer) -> None:
    """What most programs do on SIGTERM. At any moment, the import of the HTTP stack included: no hang."""
    server.always(Behaviour(delay=0.6))
    output = run(f"""
import signal, time, leanbase
leanbase.api_key, leanbase.host = "k", {server.url!r}
took = []
def stop(number, frame):
    started = time.monotonic()
    leanbase.shutdown()
    took.append(time.monotonic() - started)
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, {delay or 0.01})
leanbase.capture("e", distinct_id="u")
print(took[0] < 2)
""")
    assert output == "True\n"
    assert len({event["uuid"] for event in server.events}) == 1


@pytest.mark.slow
def test_shutting_down_and_exiting_in_a_signal_handler_delivers_what_it_interrupted(
    server: FaultServer,
) -> None:
    """The usual end of a container: the send that waited for its retry never goes on, shutdown makes up for it."""
    server.script(Behaviour(status=503, headers={"Retry-After": "5"}))
    output = run(f"""
import signal, sys, leanbase
leanbase.api_key, leanbase.host = "k", {server.url!r}
def stop(number, frame):
    print(leanbase.shutdown())
    sys.exit(0)
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 2.0)
leanbase.capture("e", distinct_id="u")
""")
    assert output == "<Receipt delivered=1>\n"
    assert len({event["uuid"] for event in server.events}) == 1


def test_what_an_interrupted_send_drops_is_accounted_for(server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    output = run(f"""
import signal, leanbase
client = leanbase.Leanbase("k", {server.url!r}, max_retries=0, max_queue_size=2)
client.capture("first", distinct_id="u"); client.capture("second", distinct_id="u")
client._current().outbox._transport._inner._sender._max_retries = 5
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    client.capture("third", distinct_id="u")
except KeyboardInterrupt:
    print(client.stats()["retained"], client.stats()["dropped"])
""")
    assert output == "2 {'overflow': 1}\n"


@pytest.mark.slow
def test_signal_handlers_that_capture_all_the_time_never_deadlock(server: FaultServer) -> None:
    output = run(f"""
import signal, time, leanbase
client = leanbase.Leanbase("k", {server.url!r})
busy = False
def handler(number, frame):
    global busy
    if not busy:
        busy = True
        client.capture("from the handler", distinct_id="u")
        busy = False
client.capture("first", distinct_id="u")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
until = time.monotonic() + 3
while time.monotonic() < until:
    client.capture("e", distinct_id="u")
signal.setitimer(signal.ITIMER_REAL, 0)
stats = client.stats()
print(stats["captured"] == stats["delivered"] > 100)
""")
    assert output == "True\n"


# --- forks ------------------------------------------------------------------------------------------


@pytest.mark.rule("Q-61")
@needs_fork
def test_a_fork_while_every_lock_is_held_does_not_deadlock_the_child(server: FaultServer) -> None:
    output = run(f"""
import os, sys, leanbase
from leanbase.default import default_client
leanbase.api_key, leanbase.host = "k", {server.url!r}
leanbase.capture("parent", distinct_id="u")
outbox = default_client._current().outbox
retaining = outbox._transport
http = retaining._inner
locks = [default_client._lock, retaining.ledger.lock, http._sender._lock, http._sender._breaker._lock]
import threading
held, done = threading.Event(), threading.Event()
def hold():
    for lock in locks: lock.acquire()
    held.set(); done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    leanbase.capture("child", distinct_id="u")
    leanbase.flush()
    leanbase.shutdown()
    leanbase.capture("child again", distinct_id="u")
    leanbase.disabled = True
    leanbase.shutdown()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
""")
    assert output == "0\n"
    assert [event["event"] for event in server.events] == ["parent", "child", "child again"]


@pytest.mark.rule("Q-60")
@needs_fork
def test_what_the_parent_retained_is_never_the_childs(server: FaultServer) -> None:
    server.script(Behaviour(status=503))
    output = run(f"""
import os, sys, leanbase
client = leanbase.Leanbase("k", {server.url!r}, max_retries=0)
client.capture("parent", distinct_id="u")
if (pid := os.fork()) == 0:
    client.disabled = True
    print(client.stats()["retained"], client.shutdown(), client.stats()["dropped"], flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(client.flush())
""")
    assert output == "0 <Receipt nothing to do> {}\n<Receipt delivered=1>\n"


@pytest.mark.rule("Q-60")
@needs_fork
def test_a_deadline_of_the_parent_does_not_limit_the_child(server: FaultServer) -> None:
    output = run(f"""
import os, threading, time, leanbase
from leanbase.transports.deadline import Deadline
from leanbase.delivery.scope import DeliveryScope, activate
client = leanbase.Leanbase("k", {server.url!r})
with activate(DeliveryScope("end", Deadline.after(0.1))):
    if (pid := os.fork()) == 0:
        time.sleep(0.2)
        thread = threading.Thread(target=client.capture, args=("e",), kwargs=dict(distinct_id="u")); thread.start(); thread.join()
        print(client.stats()["delivered"], flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
""")
    assert output == "1\n"


# --- threads ----------------------------------------------------------------------------------------


@pytest.mark.rule("Q-32")
@pytest.mark.slow
def test_flush_speaks_of_sends_that_are_under_way(server: FaultServer, make: Make) -> None:
    """It waits for them; what they leave behind, or have not ended, is outstanding."""
    client = make(server, max_retries=0)
    server.script(Behaviour(status=503, delay=0.3), Behaviour(delay=1))
    for timeout in (5.0, 0.2):
        server.requests.clear()
        thread = threading.Thread(target=client.capture, args=("e",), kwargs={"distinct_id": "u"})
        thread.start()
        wait_for(lambda: server.requests)
        receipt = client.flush(timeout=timeout)
        assert not receipt
        assert receipt.retained == 1 if timeout == 5.0 else 2
        thread.join()
    assert client.stats()["delivered"] == 2
    assert client.flush()


def test_a_thread_of_an_ended_invocation_sends_in_its_own_time(server: FaultServer, make: Make) -> None:
    """The deadline of a scope that is finished limits nothing, and trips no breaker."""
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


def test_an_expired_deadline_says_nothing_about_the_endpoint(server: FaultServer, make: Make) -> None:
    client = make(server)
    with activate(DeliveryScope("each", Deadline.after(0))):
        for _ in range(4):
            client.capture("e", distinct_id="u")
    assert server.requests == []
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 5


def test_an_invocation_ends_when_what_its_threads_send_has_arrived(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(delay=0.5))
    client = make(server)
    with client.delivery_scope() as scope:
        for number in range(99):
            client.capture("e", distinct_id=number)
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(client.capture, "e"), kwargs={"distinct_id": "hundredth"}
        )
        thread.start()
        wait_for(lambda: server.requests)
        client.capture("e", distinct_id="last")
    assert scope.receipt.delivered == 101
    assert client.stats()["retained"] == 0
    thread.join()


@pytest.mark.rule("Q-15")
def test_shutdown_ends_the_backoff_of_another_thread(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=503, headers={"Retry-After": "8"}))
    client = make(server)
    thread = threading.Thread(target=client.capture, args=("e",), kwargs={"distinct_id": "u"})
    thread.start()
    wait_for(lambda: server.requests)
    time.sleep(0.1)
    started = time.monotonic()
    assert client.shutdown()
    assert time.monotonic() - started < 3
    thread.join()
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("Q-40")
def test_shutdown_says_what_is_still_under_way(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(delay=1.0))
    client = make(server)
    thread = threading.Thread(target=client.capture, args=("e",), kwargs={"distinct_id": "u"})
    thread.start()
    wait_for(lambda: server.requests)
    receipt = client.shutdown(timeout=0.2)
    assert not receipt
    assert receipt.retained == 1
    thread.join()
    assert client.stats()["delivered"] == 1


def test_a_scope_may_be_left_in_another_context(client: Leanbase, memory: MemoryTransport) -> None:
    """Frameworks run the clean-up of a generator elsewhere than its start."""
    scope = client.delivery_scope()
    contextvars.copy_context().run(scope.__enter__)
    scope.__exit__(None, None, None)
    client.capture("e", distinct_id="u")
    assert len(memory.events) == 1


# --- the breaker ------------------------------------------------------------------------------------


def test_failures_that_were_under_way_when_it_opened_do_not_lengthen_the_pause() -> None:
    breaker = CircuitBreaker()
    tickets = [breaker.try_acquire() or 0 for _ in range(10)]
    assert all(tickets)
    for ticket in tickets:
        breaker.failed(ticket, answered=True)
    assert breaker._pause == 30
    assert not breaker.try_acquire()
    breaker.succeeded()
    assert breaker.try_acquire()


def test_a_large_backlog_costs_a_refused_capture_next_to_nothing(server: FaultServer, make: Make) -> None:
    """Ten thousand events wait, the breaker is open: none of them is touched for the next one."""
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
    assert min(_seconds(lambda: client.capture("e", distinct_id="u")) for _ in range(20)) < 0.005
    assert len(server.requests) == before
    assert balanced(client)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- callbacks and settings -------------------------------------------------------------------------


def test_what_a_hook_changes_stays_with_its_event(memory: MemoryTransport) -> None:
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
def test_flush_inside_on_error_starts_no_cycle(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=503))
    receipts: list[Any] = []

    def on_error(error: Exception, events: list[Any]) -> None:
        receipts.append(client.flush())

    client = make(server, max_retries=0, on_error=on_error)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 1
    assert [receipt.retained for receipt in receipts] == [1]


class ForgetsToReturn(BaseTransport):
    def send(self, events: Any, *, deadline: Any) -> Any:
        pass


def test_a_transport_without_a_receipt_keeps_nobody_elses_events(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Leanbase("k", transport=ForgetsToReturn()), make(server)
    with bad.delivery_scope():
        bad.capture("e", distinct_id="u")
        good.capture("e", distinct_id="u")
    bad.capture("direct", distinct_id="u")
    assert good.stats()["delivered"] == 1
    assert bad.stats()["captured"] == bad.stats()["retained"] == 2
    assert "send() must return a Receipt, not NoneType" in caplog.text


@pytest.mark.parametrize("told_of", [0, 5])
def test_a_receipt_that_does_not_add_up_is_not_believed(
    told_of: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Inventive(BaseTransport):
        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            return Receipt(delivered=told_of)

    client = Leanbase("k", transport=Inventive())
    client.capture("e", distinct_id="u")
    assert client.stats()["captured"] == client.stats()["retained"] == 1
    assert f"Inventive: the receipt for 1 event(s) reports {told_of}; 1 event(s) are retained" in caplog.text


def test_the_default_client_survives_settings_that_never_arrive() -> None:
    leanbase.api_key, leanbase.host = "k", "   "
    assert leanbase.capture("e", distinct_id="u") is None
    assert leanbase.stats()["captured"] == 0


def test_broken_settings_are_not_enabled_by_an_attribute(caplog: pytest.LogCaptureFixture) -> None:
    leanbase.api_key, leanbase.host = "k", "nonsense"
    leanbase.capture("e", distinct_id="u")
    leanbase.disabled = False
    assert leanbase.capture("e", distinct_id="u") is None
    assert default_client.disabled
    assert "nonsense" not in caplog.text


@pytest.mark.rule("W-20")
def test_super_properties_that_fit_into_no_event() -> None:
    large: dict[str, Any] = {"a": [[0] * 10_000] * 60}
    with pytest.raises(ConfigError, match="super_properties are too large"):
        Leanbase("k", transport="memory", super_properties=large)
    leanbase.super_properties = large
    assert leanbase.capture("e", distinct_id="u") is None


@pytest.mark.rule("W-20")
def test_a_shared_text_is_not_multiplied_before_it_is_refused(client: Leanbase) -> None:
    """200 KB in the caller's hands stand for 300 MB of text, which is never made."""
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
def test_opting_in_outlives_a_shutdown_too() -> None:
    leanbase.transport = memory = MemoryTransport()
    leanbase.opted_out = True
    assert leanbase.capture("e", distinct_id="u") is None
    leanbase.opt_in()
    leanbase.shutdown()
    leanbase.capture("e", distinct_id="u")
    assert len(memory.events) == 1


@pytest.mark.rule("W-1")
def test_the_missing_key_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        leanbase.capture("e", distinct_id="u")
        leanbase.shutdown()
    assert len(caplog.records) == 1


@pytest.mark.rule("G-6")
def test_settings_do_not_show_the_key() -> None:
    from leanbase.settings import Settings

    assert "phc_secret" not in repr(Settings.resolve({"api_key": "phc_secret", "transport": "memory"}))


# --- answers ----------------------------------------------------------------------------------------


@pytest.mark.rule("W-16")
def test_a_location_that_is_none_is_terminal(server: FaultServer, make: Make) -> None:
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
def test_which_addresses_are_the_same_server(host: str, location: str, followed: bool) -> None:
    from leanbase.transports._http.connection import Response
    from leanbase.transports.http import HttpTransport

    answer = Response(307, {"Location": location}, b"")
    assert (HttpTransport("k", host)._redirected(answer) is not None) == followed


@pytest.mark.rule("W-16")
def test_another_port_is_another_server(server: FaultServer, make: Make) -> None:
    other = FaultServer()
    server.always(Behaviour(status=307, headers={"Location": f"{other.url}/batch/"}))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert other.requests == []
    assert client.stats()["dropped"] == {"rejected": 1}
    other.stop()


@pytest.mark.rule("W-16")
def test_redirects_make_no_new_connections(server: FaultServer, make: Make) -> None:
    client = make(server)
    for number in range(10):
        server.script(Behaviour(status=307, headers={"Location": f"/batch/?n={number}"}))
        client.capture("e", distinct_id="u")
    assert server.connections == 1
    assert server.requests[-1].line == "POST /batch/?n=9 HTTP/1.1"


@pytest.mark.rule("W-10")
def test_a_body_of_a_success_that_cannot_be_parsed_is_success(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(body=b'["quota_limited",' + b"[" * 60_000))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1


def test_sigterm_in_a_job_also_sends_what_was_retained(server: FaultServer) -> None:
    for policy in ("end", "each"):
        server.requests.clear()
        server.script(Behaviour(status=503))
        code = f"""
import time, leanbase
leanbase.api_key, leanbase.host, leanbase.max_retries = "k", {server.url!r}, 0
@leanbase.job(flush={policy!r})
def main():
    leanbase.capture("retained", distinct_id="u")
    leanbase.flush()
    print("ready", flush=True)
    for _ in range(400):  # CPython loses a signal that comes just before a sleep until after it
        time.sleep(0.05)
main()
"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if policy == "each":
            server.script(Behaviour(status=503))
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == -signal.SIGTERM
        assert [event["event"] for event in server.requests[-1].events] == ["retained"]
        assert len(server.requests) == (2 if policy == "end" else 3)
