"""Exceptions that the application's own signal handlers raise reach the application, and cost no events.

The first tests set a time limit, as a task queue does: a handler of SIGALRM that raises while a call of the
client takes long. The others raise SIGALRM at one chosen instruction, and check what the interrupt leaves
behind.
"""

from __future__ import annotations

import gc
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase, Receipt
from leanbase.interrupts import acquired, of_signal_handler
from leanbase.transports import (
    BaseTransport,
    BufferedTransport,
    FallbackTransport,
    MemoryTransport,
    SpoolTransport,
    _at_exit,
)
from leanbase.transports._retaining import RetainingTransport
from tests.conftest import balanced
from tests.delivery.interruption import Interruption
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.threads import run_in_threads, start_thread
from tests.support.transports import FailingTransport, GatedTransport, RaisingTransport

pytestmark = pytest.mark.untraced  # the interrupts come from a trace function


class SoftTimeLimit(Exception):
    """As task queues raise it."""


class Handler:
    """A handler that is a method, like RQ's, or a callable object."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def handle(self, number: int, frame: object) -> None:
        raise self.kind("the time is up")

    __call__ = handle


Limit = Callable[[float], type[Exception]]
Install = Callable[[Callable[..., object]], object]


@pytest.fixture(params=[SoftTimeLimit, TimeoutError, ValueError])
def limit(request: pytest.FixtureRequest) -> Iterator[Limit]:
    """A function that starts a time limit, in seconds, and returns the class of exception that it raises."""
    kind: type[Exception] = request.param
    handlers: list[Any] = [Handler(kind).handle, Handler(kind), partial(Handler(kind).handle)]
    previous = signal.signal(signal.SIGALRM, handlers[hash(kind.__name__) % 3])
    gc.disable()  # the interpreter ignores exceptions in its callbacks, and hypothesis has such a callback

    def start(seconds: float) -> type[Exception]:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return kind

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    gc.enable()


@pytest.fixture
def handle_sigalrm() -> Iterator[Install]:
    """A function that installs a handler of SIGALRM until the end of the test."""
    previous = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.signal(signal.SIGALRM, previous)


def raise_time_limit(number: int, frame: object) -> None:
    raise SoftTimeLimit


@pytest.fixture
def silent_url() -> Iterator[str]:
    """The URL of a server that accepts connections and never responds."""
    listener = socket.create_server(("127.0.0.1", 0))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def nap() -> None:
    for _ in range(500):
        time.sleep(0.01)


class SlowTransport(BaseTransport):
    def send(self, events: Any, *, deadline: Any) -> Receipt:
        nap()
        return Receipt(delivered=len(events))


@pytest.mark.rule("G-1", "Q-57", "Q-59")
def test_a_time_limit_interrupts_a_send_to_a_server_that_does_not_respond(
    limit: Limit, silent_url: str
) -> None:
    client = Leanbase("k", silent_url, send_deadline=4, max_retries=2)
    with pytest.raises(limit(0.2)):
        client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    assert balanced(client)


@pytest.mark.rule("G-1", "Q-57", "Q-59")
@pytest.mark.slow
@pytest.mark.parametrize("call", ["flush", "shutdown", "scope"])
def test_a_time_limit_interrupts_every_call_that_sends(limit: Limit, silent_url: str, call: str) -> None:
    client = Leanbase("k", silent_url, send_deadline=1, max_retries=0)

    def act() -> None:
        with client.delivery_scope():
            client.capture("e", distinct_id="u")
            if call != "scope":
                getattr(client, call)(4)

    with pytest.raises(limit(0.2)):
        act()
    assert balanced(client)
    assert client.stats()["retained"] + client.stats()["dropped"].get("shutdown", 0) == 1


@pytest.mark.rule("G-1", "Q-59")
@pytest.mark.parametrize("around", ["nothing", "fallback", "spool"])
def test_a_time_limit_interrupts_a_custom_transport(limit: Limit, around: str, tmp_path: Path) -> None:
    transport: BaseTransport = SlowTransport()
    if around == "fallback":
        transport = FallbackTransport(transport, MemoryTransport())
    elif around == "spool":
        transport = SpoolTransport(tmp_path / "spool", transport, write_first=False)
    client = Leanbase("k", transport=transport)
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1


@pytest.mark.rule("G-1")
def test_a_time_limit_in_a_hook_is_not_taken_for_a_failure_of_the_hook(limit: Limit) -> None:
    client = Leanbase("k", transport=MemoryTransport(), before_send=lambda event: nap() or event)
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u")
    assert client.stats()["dropped"] == {}


@pytest.mark.rule("G-1")
def test_a_time_limit_interrupts_the_str_of_a_value(limit: Limit) -> None:
    class SlowStr:
        def __str__(self) -> str:
            nap()
            return "slow"

    client = Leanbase("k", transport=MemoryTransport())
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u", properties={"value": SlowStr()})


@pytest.mark.rule("G-1", "Q-59")
def test_a_time_limit_interrupts_on_error(limit: Limit) -> None:
    client = Leanbase("k", transport=FailingTransport(), on_error=lambda error, events: nap())
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1


@pytest.mark.rule("G-1")
def test_a_time_limit_interrupts_the_capture_of_an_exception_that_leaves_a_context(limit: Limit) -> None:
    client = Leanbase("k", transport=SlowTransport())

    def fail() -> None:
        with client.new_context():
            raise KeyError("of the application")

    with pytest.raises(limit(0.1)):
        fail()


@pytest.mark.rule("G-1")
def test_an_exception_that_no_signal_handler_raised_does_not_reach_the_application() -> None:
    client = Leanbase("k", transport=RaisingTransport(TimeoutError()))
    assert client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    run_in_threads(client.flush)
    assert of_signal_handler(ValueError()) is None


@pytest.mark.rule("K-15", "K-17", "Q-57")
def test_a_recursion_error_of_the_application_is_captured_once_and_is_not_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = MemoryTransport()
    client = Leanbase("k", transport=memory)

    def walk(level: int) -> None:
        with client.new_context():
            walk(level + 1)

    with pytest.raises(RecursionError):
        walk(0)
    client.flush()
    assert len(memory.events) == 1
    assert "internal error" not in caplog.text
    assert client.stats()["dropped"] == {}
    assert balanced(client)
    assert sys.getrecursionlimit() > 0


# --- what an interrupt must not leave behind -----------------------------------------------------------


@pytest.mark.rule("G-1", "W-14")
def test_dropped_events_are_reported_later_if_a_signal_interrupts_on_error(
    server: FaultServer, handle_sigalrm: Install
) -> None:
    reported: list[list[str]] = []
    is_interrupted = [True]

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        if is_interrupted:
            is_interrupted.clear()
            signal.raise_signal(signal.SIGALRM)
        reported.append([event["event"] for event in events])

    handle_sigalrm(raise_time_limit)
    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=on_error)
    with pytest.raises(SoftTimeLimit):
        client.capture("first", distinct_id="u")
    assert reported == []
    assert client.stats()["dropped"] == {"rejected": 1}
    client.flush()
    assert reported == [["first"]]
    client.capture("second", distinct_id="u")
    assert reported == [["first"], ["second"]], (
        "each once; the interrupted call does not count as still running"
    )


@pytest.mark.rule("Q-59", "W-14")
def test_the_loss_of_an_event_that_a_signal_handler_captured_during_on_error_is_reported(
    server: FaultServer, handle_sigalrm: Install
) -> None:
    reported: list[str] = []
    is_interrupted = [True]

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        reported.extend(event["event"] for event in events)
        if is_interrupted:
            is_interrupted.clear()
            signal.raise_signal(signal.SIGALRM)

    handle_sigalrm(lambda *_: client.capture("of the handler", distinct_id="u"))
    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=on_error)
    client.capture("first", distinct_id="u")
    client.flush()
    assert reported == ["first", "of the handler"]
    assert client.stats()["dropped"] == {"rejected": 2}


def test_the_loss_of_an_event_that_on_error_captured_is_not_reported(server: FaultServer) -> None:
    reported: list[str] = []

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        reported.extend(event["event"] for event in events)
        client.capture("an error", distinct_id="u")

    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=on_error)
    client.capture("first", distinct_id="u")
    client.flush()
    assert reported == ["first"], "otherwise it would be called again and again"
    assert client.stats()["dropped"] == {"rejected": 2}


class InterruptedLock:
    """A lock whose `acquire` is interrupted as soon as it has acquired the lock."""

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()

    def _is_owned(self) -> bool:
        return bool(self.lock._is_owned())

    def acquire(self, timeout: float) -> bool:
        self.lock.acquire(timeout=timeout)
        raise SoftTimeLimit

    def release(self) -> None:
        self.lock.release()


def is_free(lock: Any) -> bool:
    """Return whether another thread can acquire a lock."""
    found: list[bool] = []
    run_in_threads(lambda: found.append(lock.acquire(timeout=0.2)))
    return found[0]


def test_an_interrupt_while_a_lock_is_acquired_leaves_it_free() -> None:
    interrupted = InterruptedLock()
    with pytest.raises(SoftTimeLimit):
        acquired(interrupted, 1.0)
    assert is_free(interrupted.lock)


def test_an_acquired_lock_is_held_once() -> None:
    lock = threading.RLock()
    assert acquired(lock, 1.0)
    with lock:
        lock.release()
        assert not is_free(lock)
    assert is_free(lock)


def test_a_lock_that_is_not_acquired_in_time_stays_with_its_owner() -> None:
    lock = threading.RLock()
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            is_over.wait(5)

    thread = start_thread(hold)
    is_held.wait(5)
    assert not acquired(lock, 0.01)
    is_over.set()
    thread.join()


def test_a_send_over_an_idle_connection_runs_no_code_of_a_queue(server: FaultServer) -> None:
    """`Condition.__enter__` is Python code: an interrupt just after it has the lock would leave it held."""
    client = Leanbase("k", server.url)
    client.capture("e", distinct_id="u")
    interruption = Interruption(0, lambda: None, inside=queue.__file__)
    interruption.during(lambda: client.capture("e", distinct_id="u"))
    assert not interruption.happened
    assert len(server.events) == 2


def raise_sigalrm_in(function: Callable[..., object], call: Callable[[], object]) -> None:
    """Make a call, and raise SIGALRM when a function of the package first begins during it."""
    code = function.__code__

    def trace(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is code:
            sys.settrace(None)
            signal.raise_signal(signal.SIGALRM)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)


@pytest.mark.rule("Q-50", "Q-59")
def test_an_event_captured_while_the_last_retained_event_leaves_is_sent_at_exit(
    server: FaultServer, handle_sigalrm: Install
) -> None:
    server.script(Behaviour(status=503), Behaviour(), Behaviour(status=503))
    client = Leanbase("k", server.url, max_retries=0)
    handle_sigalrm(lambda *_: client.capture("of the handler", distinct_id="u"))
    client.capture("retained", distinct_id="u")
    raise_sigalrm_in(RetainingTransport._forget, lambda: client.capture("second", distinct_id="u"))
    assert client.stats()["retained"] == 1
    assert len(_at_exit._watched) == 1


@pytest.mark.rule("Q-58")
def test_an_interrupt_just_after_outcomes_were_counted_costs_neither_the_receipt_nor_on_error(
    server: FaultServer, handle_sigalrm: Install
) -> None:
    reported: list[int] = []
    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=lambda error, events: reported.append(len(events)))
    handle_sigalrm(raise_time_limit)
    with client.delivery_scope(flush="each") as scope, pytest.raises(SoftTimeLimit):
        raise_sigalrm_in(RetainingTransport._record, lambda: client.capture("e", distinct_id="u"))
    assert not scope.receipt
    assert scope.receipt.dropped == {"rejected": 1}
    assert reported == [1]


@pytest.mark.rule("Q-58", "Q-59")
def test_an_interrupt_just_after_outcomes_were_counted_counts_no_event_twice(
    server: FaultServer, handle_sigalrm: Install
) -> None:
    server.script(Behaviour(), Behaviour(status=503))
    client = Leanbase("k", server.url, max_retries=0, on_error=lambda error, events: None)
    handle_sigalrm(raise_time_limit)
    with client.delivery_scope(flush="each") as scope:
        client.capture("delivered", distinct_id="u")
        with pytest.raises(SoftTimeLimit):
            raise_sigalrm_in(client._pipeline.outbox._report, lambda: client.capture("e", distinct_id="u"))
    assert scope.receipt.delivered == client.stats()["delivered"] == 2, (
        "the end of the scope sent the second one"
    )
    assert scope.receipt.retained == 0


@pytest.mark.rule("G-1", "Q-42")
def test_the_default_client_works_after_an_interrupted_shutdown(limit: Limit) -> None:
    leanbase.api_key, leanbase.host = "k", "https://leanbase.example.com"
    inner = GatedTransport()
    leanbase.transport = BufferedTransport(inner)
    leanbase.capture("one", distinct_id="u")
    kind = limit(0.3)
    with pytest.raises(kind):
        leanbase.shutdown()
    inner.may_continue.release(10)
    assert leanbase.capture("two", distinct_id="u")
    assert not leanbase.setup().disabled
    leanbase.shutdown()
    assert inner.events[-1]["event"] == "two"


def test_on_error_may_capture_with_another_client_that_has_its_own_on_error(server: FaultServer) -> None:
    reported: list[str] = []
    server.always(Behaviour(status=401))
    other = Leanbase(
        "k", server.url, on_error=lambda error, events: reported.extend(event["event"] for event in events)
    )
    client = Leanbase(
        "k", server.url, on_error=lambda error, events: bool(other.capture("an error", distinct_id="ops"))
    )
    for _ in range(5):
        client.capture("e", distinct_id="u")
    assert reported == ["an error"] * 5
    assert not other._pipeline.outbox._ledger.has_unreported()
