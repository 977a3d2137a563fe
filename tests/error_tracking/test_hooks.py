"""Uncaught exceptions are captured by `sys.excepthook`, `threading.excepthook` and `sys.unraisablehook`.

Two kinds of tests: those with `run_uncaught` start `programs/uncaught.py`, a process that ends with an uncaught
exception and sends it to the server of the test. The others call the hooks themselves, like the interpreter does.
"""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.error_tracking.rate_limit import RateLimiter
from leanbase.transports import MemoryTransport, _at_exit
from tests.error_tracking.conftest import RoundTrip
from tests.error_tracking.exception_format import functions
from tests.support.fault_server import FaultServer, black_hole
from tests.support.programs import run_program


@pytest.fixture(autouse=True)
def previous_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """The calls of the hooks that were installed before those of any client: names and arguments."""
    called: list[tuple[str, tuple[Any, ...]]] = []
    for owner, name in [(sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook")]:
        key = f"{owner.__name__}.{name}"
        monkeypatch.setattr(owner, name, lambda *args, key=key: called.append((key, args)))
    return called


def run_uncaught(name: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a function of `programs/uncaught.py` in a process whose default client has its hooks installed."""
    return run_program("tests.error_tracking.programs.uncaught", name, url)


@pytest.mark.rule("X-40", "X-43")
def test_an_uncaught_exception_arrives_before_the_interpreter_ends(round_trip: RoundTrip) -> None:
    ended = run_uncaught("error", round_trip.server.url)
    assert ended.returncode == 1
    assert "ValueError: uncaught" in ended.stderr
    assert "Traceback" in ended.stderr
    (properties,) = round_trip.exceptions()
    assert properties["$exception_level"] == "fatal"
    assert properties["$exception_source"] == "python.sys_excepthook"
    mechanism = properties["$exception_list"][0]["mechanism"]
    assert (mechanism["type"], mechanism["handled"]) == ("onuncaughtexception", False)


@pytest.mark.slow
@pytest.mark.rule("X-41")
def test_interrupts_and_exits_are_passed_on_and_not_captured(round_trip: RoundTrip) -> None:
    assert run_uncaught("exit_with_code_7", round_trip.server.url).returncode == 7
    assert "KeyboardInterrupt" in run_uncaught("interrupt", round_trip.server.url).stderr
    assert round_trip.received() == []


@pytest.mark.rule("X-40", "X-41")
def test_an_uncaught_exception_of_a_thread_is_captured_and_its_exit_is_not(round_trip: RoundTrip) -> None:
    ended = run_uncaught("error_in_thread", round_trip.server.url)
    assert ended.returncode == 0
    assert "ValueError: in a thread" in ended.stderr
    (properties,) = round_trip.exceptions()
    assert properties["$exception_level"] == "error"
    assert properties["$exception_source"] == "python.threading_excepthook"
    assert functions(properties)[-1] == "work"


@pytest.mark.rule("Q-52")
@pytest.mark.slow
def test_an_uncaught_exception_with_four_clients_and_an_unreachable_host_ends_after_two_seconds() -> None:
    with black_hole() as listener:
        ended = run_uncaught("error_with_four_clients", f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert "ValueError: uncaught" in ended.stderr
    assert "4 event(s) are lost" in ended.stderr
    assert "will be lost" not in ended.stderr  # it is said once, at the end
    assert 1.5 < float(ended.stdout) < 3.5


def test_unraisable_exceptions_are_captured_only_if_the_option_is_set(
    make: Callable[..., Leanbase], server: FaultServer, previous_calls: list[Any]
) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("in __del__")

    for options, events in [({}, 0), ({"enable_unraisable_exception_autocapture": True}, 1)]:
        client = make(server, enable_exception_autocapture=True, **options)
        Failing()
        assert len(server.events) == events
        client.shutdown()
    assert server.events[0]["properties"]["$exception_source"] == "python.sys_unraisablehook"
    assert [name for name, _ in previous_calls] == ["sys.unraisablehook"] * 2


@pytest.mark.rule("X-40")
def test_hooks_are_not_installed_by_default(memory: MemoryTransport) -> None:
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    Leanbase("phc_test", transport=memory)
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == hooks


def uncaught_exception() -> tuple[type[BaseException], BaseException, Any]:
    """Return the arguments with which the interpreter calls `sys.excepthook`."""
    try:
        raise ValueError("uncaught")
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.mark.rule("X-40")
def test_the_previous_hook_is_called_even_if_capturing_raises(previous_calls: list[Any]) -> None:
    def interrupted(event: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    client = Leanbase(
        "phc_test", transport="memory", before_send=interrupted, enable_exception_autocapture=True
    )
    uncaught = uncaught_exception()
    with pytest.raises(KeyboardInterrupt):
        sys.excepthook(*uncaught)
    assert previous_calls == [("sys.excepthook", uncaught)]
    client.shutdown()


@pytest.mark.rule("X-42")
@pytest.mark.parametrize("closed_first", [0, 1])
def test_clients_stack_their_hooks_and_close_in_any_order(
    closed_first: int, previous_calls: list[Any]
) -> None:
    original = sys.excepthook, threading.excepthook
    transports = [MemoryTransport(), MemoryTransport()]
    clients = [Leanbase("phc", transport=each, enable_exception_autocapture=True) for each in transports]
    uncaught = uncaught_exception()
    sys.excepthook(*uncaught)
    assert [len(each.events) for each in transports] == [1, 1]
    assert previous_calls == [("sys.excepthook", uncaught)]
    clients[closed_first].shutdown()
    sys.excepthook(*uncaught_exception())
    assert len(transports[closed_first].events) == 1
    assert len(transports[1 - closed_first].events) == 2
    assert len(previous_calls) == 2
    clients[1 - closed_first].shutdown()
    assert (sys.excepthook, threading.excepthook) == original
    sys.excepthook(*uncaught_exception())
    assert sorted(len(each.events) for each in transports) == [1, 2]
    assert len(previous_calls) == 3


@pytest.mark.rule("X-42")
def test_a_hook_that_is_still_installed_does_not_keep_a_closed_client_alive() -> None:
    first, second = (Leanbase("phc", transport="memory", enable_exception_autocapture=True) for _ in range(2))
    wrapped = sys.excepthook
    sys.excepthook = lambda *args: wrapped(*args)
    first.shutdown()
    second.shutdown()
    alive = [weakref.ref(first), weakref.ref(second)]
    del first, second
    gc.collect()
    assert [each() for each in alive] == [None, None]


@pytest.mark.rule("X-42")
def test_a_wrapped_hook_stays_installed_after_shutdown_and_calls_the_previous_hook(
    previous_calls: list[Any],
) -> None:
    memory = MemoryTransport()
    client = Leanbase("phc", transport=memory, enable_exception_autocapture=True)
    hook_of_client = sys.excepthook
    wrapper: Callable[..., Any] = lambda *args: hook_of_client(*args)  # noqa: E731
    sys.excepthook = wrapper
    client.shutdown()
    assert sys.excepthook is wrapper
    sys.excepthook(*uncaught_exception())
    assert len(previous_calls) == 1
    assert memory.events == []


@pytest.mark.rule("K-17")
def test_a_captured_exception_is_not_captured_again_by_the_hooks() -> None:
    memory = MemoryTransport()
    client = Leanbase("phc", transport=memory, enable_exception_autocapture=True)
    uncaught = uncaught_exception()
    client.capture_exception(uncaught[1])
    sys.excepthook(*uncaught)
    arguments_in_thread: Any = SimpleNamespace(
        exc_type=uncaught[0], exc_value=uncaught[1], exc_traceback=uncaught[2], thread=None
    )
    threading.excepthook(arguments_in_thread)
    assert len(memory.events) == 1
    client.shutdown()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.rule("X-44")
def test_a_burst_passes_up_to_one_less_than_the_bucket_size_and_refills_after_whole_intervals() -> None:
    clock = Clock()
    limiter = RateLimiter(5, 2, 10.0, clock)
    assert [limiter.admits("A") for _ in range(7)] == [True] * 4 + [False] * 3
    assert limiter.admits("B")
    clock.now += 9.9
    assert not limiter.admits("A")
    clock.now += 10.0  # 19.9 s: one interval, and 9.9 s of the next
    assert [limiter.admits("A") for _ in range(3)] == [True, False, False]
    clock.now += 0.1  # completes the second interval
    assert [limiter.admits("A") for _ in range(2)] == [True, False]
    clock.now += 1000.0
    assert [limiter.admits("A") for _ in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.rule("X-44")
def test_a_bucket_of_less_than_two_tokens_admits_nothing_and_an_interval_of_zero_everything() -> None:
    assert not RateLimiter(0, 10, 10.0).admits("A")
    assert not RateLimiter(1, 10, 10.0).admits("A")
    unlimited = RateLimiter(2, 0, 0.0)
    assert all(unlimited.admits("A") for _ in range(100))


@pytest.mark.rule("X-44")
def test_a_refill_never_exceeds_the_bucket_size() -> None:
    clock = Clock()
    limiter = RateLimiter(3, 100, 10.0, clock)
    assert [limiter.admits("A") for _ in range(3)] == [True, True, False]
    clock.now += 10.0
    assert [limiter.admits("A") for _ in range(3)] == [True, True, False]


def test_the_number_of_buckets_is_bounded() -> None:
    limiter = RateLimiter(3, 100, 10.0)
    for number in range(5000):
        limiter.admits(f"class {number}")
    assert len(limiter._buckets) <= 1000


@pytest.mark.rule("X-44")
def test_the_rate_limit_applies_to_the_hooks_and_not_to_capture_exception(
    previous_calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryTransport()
    client = Leanbase(
        "phc", transport=memory, enable_exception_autocapture=True,
        enable_exception_autocapture_rate_limiting=True, exception_autocapture_bucket_size=3,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "leanbase"):
        for _ in range(5):
            sys.excepthook(*uncaught_exception())
    assert len(memory.events) == 2
    assert len(previous_calls) == 5
    assert caplog.text.count("an uncaught ValueError is not captured") == 3
    for _ in range(5):
        client.capture_exception(ValueError())
    assert len(memory.events) == 7
    client.shutdown()


@pytest.mark.rule("O-2")
@pytest.mark.parametrize(
    ("given", "used"),
    [({}, (50, 10, 10.0)), ({"exception_autocapture_bucket_size": 1000}, (100, 10, 10.0)),
     ({"exception_autocapture_bucket_size": -1, "exception_autocapture_refill_rate": -1}, (0, 0, 10.0)),
     ({"exception_autocapture_refill_interval_seconds": 1e9}, (50, 10, 86_400.0)),
     ({"exception_autocapture_bucket_size": "many", "exception_autocapture_refill_interval_seconds": "long"},
      (100, 10, 86_400.0))],
)  # fmt: skip
def test_invalid_rate_limit_options_are_replaced_or_bounded_with_a_warning(
    given: dict[str, Any], used: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Leanbase("phc", transport="memory", **given)._current().settings
    assert used == (
        settings.exception_autocapture_bucket_size,
        settings.exception_autocapture_refill_rate,
        settings.exception_autocapture_refill_interval_seconds,
    )
    warned_about = {record.getMessage().split()[0] for record in caplog.records}
    assert warned_about == set(given)
    assert all(record.levelname == "WARNING" for record in caplog.records)


@pytest.mark.rule("O-1", "O-2")
def test_options_of_the_environment_are_parsed_and_replaced_if_invalid(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LEANBASE_EXCEPTION_AUTOCAPTURE_BUCKET_SIZE", "many")
    monkeypatch.setenv("LEANBASE_IN_APP_MODULES", "shop, billing.core")
    settings = Leanbase("phc", transport="memory")._current().settings
    assert settings.exception_autocapture_bucket_size == 100
    assert "LEANBASE_EXCEPTION_AUTOCAPTURE_BUCKET_SIZE is ignored" in caplog.text
    assert settings.in_app_modules == ("shop", "billing.core")


@pytest.mark.rule("X-40", "X-42")
def test_the_default_client_installs_its_hooks_with_setup_and_removes_them_with_shutdown() -> None:
    memory = MemoryTransport()
    leanbase.api_key, leanbase.transport = "phc", memory
    leanbase.enable_exception_autocapture = True
    for events in (1, 2):
        leanbase.setup()
        leanbase.setup()
        sys.excepthook(*uncaught_exception())
        assert len(memory.events) == events
        leanbase.shutdown()
    sys.excepthook(*uncaught_exception())
    assert len(memory.events) == 2


@pytest.mark.rule("Q-52")
def test_an_exception_in_a_thread_takes_no_time_from_a_later_exit(
    make: Callable[..., Leanbase], server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_at_exit, "_begun", None)
    make(server, enable_exception_autocapture=True)
    error = ValueError("in a thread")
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))
    assert _at_exit._begun is None
    sys.excepthook(KeyError, KeyError("uncaught"), None)
    assert _at_exit._begun is not None
    assert len(server.events) == 2
