"""Exceptions of the application's own signal handlers go through: the events are kept, the exception goes on."""

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
from tests.delivery.strikes import Strike
from tests.support.fault_server import Behaviour, FaultServer


class SoftTimeLimit(Exception):
    """As task queues have it."""


class Handler:
    """A handler that is a method, as RQ's is."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def strike(self, number: int, frame: object) -> None:
        raise self.kind("the time is up")

    __call__ = strike


@pytest.fixture(params=[SoftTimeLimit, TimeoutError, ValueError])
def limit(request: pytest.FixtureRequest) -> Iterator[Callable[[float], type[Exception]]]:
    """Sets a time limit, of seconds; gives what it raises."""
    kind: type[Exception] = request.param
    handlers: list[Any] = [Handler(kind).strike, Handler(kind), partial(Handler(kind).strike)]
    previous = signal.signal(signal.SIGALRM, handlers[hash(kind.__name__) % 3])
    gc.disable()  # what is raised in its callbacks, of which hypothesis has one, the interpreter passes over

    def start(seconds: float) -> type[Exception]:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return kind

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    gc.enable()


Limit = Callable[[float], type[Exception]]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def nap() -> None:
    for _ in range(500):
        time.sleep(0.01)


class Slow(BaseTransport):
    def send(self, events: Any, *, deadline: Any) -> Receipt:
        nap()
        return Receipt(delivered=len(events))


def test_a_time_limit_strikes_while_a_server_does_not_answer(limit: Limit, silent: str) -> None:
    client = Leanbase("k", silent, send_deadline=4, max_retries=2)
    with pytest.raises(limit(0.2)):
        client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    assert balanced(client)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["flush", "shutdown", "scope"])
def test_a_time_limit_strikes_in_calls_that_send(limit: Limit, silent: str, call: str) -> None:
    client = Leanbase("k", silent, send_deadline=1, max_retries=0)

    def act() -> None:
        with client.delivery_scope():
            client.capture("e", distinct_id="u")
            if call != "scope":
                getattr(client, call)(4)

    with pytest.raises(limit(0.2)):
        act()
    assert balanced(client)
    assert client.stats()["retained"] + client.stats()["dropped"].get("shutdown", 0) == 1


@pytest.mark.parametrize("around", ["nothing", "fallback", "spool"])
def test_a_time_limit_strikes_in_somebody_elses_transport(limit: Limit, around: str, tmp_path: Any) -> None:
    transport: BaseTransport = Slow()
    if around == "fallback":
        transport = FallbackTransport(transport, MemoryTransport())
    elif around == "spool":
        transport = SpoolTransport(tmp_path / "spool", transport, write_first=False)
    client = Leanbase("k", transport=transport)
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1


def test_a_time_limit_strikes_in_a_hook_and_is_not_its_failure(limit: Limit) -> None:
    client = Leanbase("k", transport=MemoryTransport(), before_send=lambda event: nap() or event)
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u")
    assert client.stats()["dropped"] == {}


def test_a_time_limit_strikes_in_the_text_of_a_value(limit: Limit) -> None:
    class SlowText:
        def __str__(self) -> str:
            nap()
            return "slow"

    client = Leanbase("k", transport=MemoryTransport())
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u", properties={"value": SlowText()})


def test_a_time_limit_strikes_in_on_error(limit: Limit) -> None:
    class Away(BaseTransport):
        def send(self, events: Any, *, deadline: Any) -> Receipt:
            return Receipt.retaining(events, "unavailable", RuntimeError("away"))

    client = Leanbase("k", transport=Away(), on_error=lambda error, events: nap())
    with pytest.raises(limit(0.1)):
        client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1


def test_a_time_limit_strikes_while_an_exception_leaves_a_context(limit: Limit) -> None:
    client = Leanbase("k", transport=Slow())

    def fail() -> None:
        with client.new_context():
            raise KeyError("of the application")

    with pytest.raises(limit(0.1)):
        fail()


def test_failures_that_no_signal_handler_raised_stay_inside() -> None:
    class Raises(BaseTransport):
        def send(self, events: Any, *, deadline: Any) -> Receipt:
            raise TimeoutError

    client = Leanbase("k", transport=Raises())
    assert client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    thread = threading.Thread(target=client.flush)
    thread.start()
    thread.join()
    assert of_signal_handler(ValueError()) is None


def test_the_applications_own_recursion_is_no_internal_error(caplog: pytest.LogCaptureFixture) -> None:
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


def raising(kind: type[BaseException]) -> Any:
    """Installs a handler of SIGALRM that raises; gives what undoes it."""

    def strike(number: int, frame: object) -> None:
        raise kind

    previous = signal.signal(signal.SIGALRM, strike)
    return lambda: signal.signal(signal.SIGALRM, previous)


def test_what_an_interrupt_keeps_from_on_error_it_hears_of_later(server: FaultServer) -> None:
    heard: list[list[str]] = []
    strikes = [True]

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        if strikes:
            strikes.clear()
            signal.raise_signal(signal.SIGALRM)
        heard.append([event["event"] for event in events])

    undo = raising(SoftTimeLimit)
    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=on_error)
    with pytest.raises(SoftTimeLimit):
        client.capture("first", distinct_id="u")
    assert heard == []
    assert client.stats()["dropped"] == {"rejected": 1}
    client.flush()
    assert heard == [["first"]]
    client.capture("second", distinct_id="u")
    assert heard == [["first"], ["second"]], "each is told once, and it is not taken for running any more"
    undo()


def test_what_a_handler_captures_inside_on_error_is_told_of_as_well(server: FaultServer) -> None:
    heard: list[str] = []
    strikes = [True]

    def strike(number: int, frame: object) -> None:
        client.capture("of the handler", distinct_id="u")

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        heard.extend(event["event"] for event in events)
        if strikes:
            strikes.clear()
            signal.raise_signal(signal.SIGALRM)

    previous = signal.signal(signal.SIGALRM, strike)
    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=on_error)
    client.capture("first", distinct_id="u")
    client.flush()
    signal.signal(signal.SIGALRM, previous)
    assert heard == ["first", "of the handler"]
    assert client.stats()["dropped"] == {"rejected": 2}


def test_what_on_error_itself_captures_is_not_told_of(server: FaultServer) -> None:
    heard: list[str] = []

    def on_error(error: Exception, events: list[dict[str, Any]]) -> None:
        heard.extend(event["event"] for event in events)
        client.capture("an error", distinct_id="u")

    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=on_error)
    client.capture("first", distinct_id="u")
    client.flush()
    assert heard == ["first"], "else it would be called for ever"
    assert client.stats()["dropped"] == {"rejected": 2}


class StruckLock:
    """A lock that an interrupt strikes as soon as it is had."""

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.strikes = True

    def _is_owned(self) -> bool:
        return bool(self.lock._is_owned())

    def acquire(self, timeout: float) -> bool:
        has_it: bool = self.lock.acquire(timeout=timeout)
        if self.strikes:
            raise SoftTimeLimit
        return has_it

    def release(self) -> None:
        self.lock.release()


def free(lock: Any) -> bool:
    """Whether another thread can have a lock."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(lock.acquire(timeout=0.2)))
    thread.start()
    thread.join()
    return found[0]


def test_no_lock_stays_held() -> None:
    struck = StruckLock()
    with pytest.raises(SoftTimeLimit):
        acquired(struck, 1.0)
    assert free(struck.lock)
    ours = threading.RLock()
    assert acquired(ours, 1.0)
    with ours:
        ours.release()
        assert not free(ours)
    assert free(ours)


def test_a_lock_that_is_not_had_in_time_stays_with_its_owner() -> None:
    lock = threading.RLock()
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            begun.set()
            over.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(5)
    assert not acquired(lock, 0.01)
    over.set()
    thread.join()


def test_idle_connections_wait_for_no_lock_of_a_queue(server: FaultServer) -> None:
    """`Condition.__enter__` is Python code: an interrupt after it has the lock would leave it held."""
    client = Leanbase("k", server.url)
    client.capture("e", distinct_id="u")
    strike = Strike(0, lambda: None, inside=queue.__file__)
    strike.during(lambda: client.capture("e", distinct_id="u"))
    assert not strike.struck
    assert len(server.events) == 2


def at_entry_of(function: Callable[..., object], call: Callable[[], object]) -> None:
    """Raise SIGALRM when a function of the package is entered during a call, once."""
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


def test_what_a_handler_captures_as_the_last_event_leaves_has_its_turn_at_the_end(
    server: FaultServer,
) -> None:
    server.script(Behaviour(status=503), Behaviour(), Behaviour(status=503))
    client = Leanbase("k", server.url, max_retries=0)
    previous = signal.signal(
        signal.SIGALRM, lambda *_: bool(client.capture("of the handler", distinct_id="u"))
    )
    client.capture("retained", distinct_id="u")
    at_entry_of(RetainingTransport._forget, lambda: client.capture("second", distinct_id="u"))
    signal.signal(signal.SIGALRM, previous)
    assert client.stats()["retained"] == 1
    assert len(_at_exit._watched) == 1


def test_an_interrupt_after_the_booking_leaves_receipt_and_on_error_true(server: FaultServer) -> None:
    heard: list[int] = []
    server.always(Behaviour(status=400))
    client = Leanbase("k", server.url, on_error=lambda error, events: heard.append(len(events)))
    undo = raising(SoftTimeLimit)
    with client.delivery_scope(flush="each") as scope, pytest.raises(SoftTimeLimit):
        at_entry_of(RetainingTransport._record, lambda: client.capture("e", distinct_id="u"))
    undo()
    assert not scope.receipt
    assert scope.receipt.dropped == {"rejected": 1}
    assert heard == [1]


def test_an_interrupt_after_the_booking_counts_what_was_delivered_once(server: FaultServer) -> None:
    server.script(Behaviour(), Behaviour(status=503))
    client = Leanbase("k", server.url, max_retries=0, on_error=lambda error, events: None)
    undo = raising(SoftTimeLimit)
    with client.delivery_scope(flush="each") as scope:
        client.capture("delivered", distinct_id="u")
        with pytest.raises(SoftTimeLimit):
            at_entry_of(client._pipeline.outbox._report, lambda: client.capture("e", distinct_id="u"))
    undo()
    assert scope.receipt.delivered == 1 + client.stats()["delivered"] - 1
    assert scope.receipt.delivered + scope.receipt.retained == 2


class SlowAtFirst(BaseTransport):
    is_slow = True

    def send(self, events: Any, *, deadline: Any) -> Receipt:
        if self.is_slow:
            time.sleep(2)
        return Receipt(delivered=len(events))


@pytest.mark.slow
def test_after_an_interrupted_shutdown_the_default_client_works(limit: Limit) -> None:
    leanbase.api_key, leanbase.host = "k", "https://leanbase.example.com"
    inner = SlowAtFirst()
    leanbase.transport = BufferedTransport(inner)
    leanbase.capture("one", distinct_id="u")
    kind = limit(0.3)
    with pytest.raises(kind):
        leanbase.shutdown()
    inner.is_slow = False
    time.sleep(2)
    assert leanbase.capture("two", distinct_id="u")
    assert not leanbase.setup().disabled
    leanbase.shutdown()


def test_an_on_error_that_reports_to_another_client_keeps_nothing_from_it(server: FaultServer) -> None:
    heard: list[str] = []
    server.always(Behaviour(status=401))
    other = Leanbase(
        "k", server.url, on_error=lambda error, events: heard.extend(event["event"] for event in events)
    )
    client = Leanbase(
        "k", server.url, on_error=lambda error, events: bool(other.capture("an error", distinct_id="ops"))
    )
    for _ in range(5):
        client.capture("e", distinct_id="u")
    assert heard == ["an error"] * 5
    assert not other._pipeline.outbox._ledger.has_untold()
