"""Uncaught exceptions: whole processes that die of one, threads, stacked hooks, rate limits (X-40 to X-44)."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.error_tracking.rate_limit import RateLimiter
from leanbase.transports import MemoryTransport
from tests.error_tracking.conftest import Wire
from tests.error_tracking.wire import functions
from tests.support.fault_server import FaultServer, black_hole

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_hooks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """The hooks that were there before, which take down what they are called with."""
    called: list[tuple[str, tuple[Any, ...]]] = []
    for owner, name in [(sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook")]:
        key = f"{owner.__name__}.{name}"
        monkeypatch.setattr(owner, name, lambda *args, key=key: called.append((key, args)))
    return called


def run(url: str, script: str) -> subprocess.CompletedProcess[str]:
    setup = (
        "import leanbase, os, sys, threading\n"
        f"leanbase.api_key, leanbase.host = 'phc_test', {url!r}\n"
        "leanbase.enable_exception_autocapture = True\n"
        "leanbase.setup()\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-c", setup + script],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.rule("X-40", "X-43")
def test_an_uncaught_exception_arrives_before_the_interpreter_ends(wire: Wire) -> None:
    ended = run(wire.server.url, "leanbase.tag('a', 1)\nraise ValueError('uncaught')")
    assert ended.returncode == 1
    assert "ValueError: uncaught" in ended.stderr
    assert "Traceback" in ended.stderr
    (properties,) = wire.exceptions()
    assert properties["$exception_level"] == "fatal"
    assert properties["$exception_source"] == "python.sys_excepthook"
    mechanism = properties["$exception_list"][0]["mechanism"]
    assert (mechanism["type"], mechanism["handled"]) == ("onuncaughtexception", False)


@pytest.mark.rule("X-41")
def test_interrupts_and_exits_are_passed_on(wire: Wire) -> None:
    assert run(wire.server.url, "raise SystemExit(7)").returncode == 7
    assert "KeyboardInterrupt" in run(wire.server.url, "raise KeyboardInterrupt").stderr
    assert wire.received() == []


@pytest.mark.rule("X-40")
def test_an_exception_in_a_thread(wire: Wire) -> None:
    script = (
        "def work(): raise ValueError('in a thread')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "threading.Thread(target=sys.exit).start()\n"
    )
    ended = run(wire.server.url, script)
    assert ended.returncode == 0
    assert "ValueError: in a thread" in ended.stderr
    (properties,) = wire.exceptions()
    assert properties["$exception_level"] == "error"
    assert properties["$exception_source"] == "python.threading_excepthook"
    assert functions(properties)[-1] == "work"


@pytest.mark.rule("X-43")
@pytest.mark.slow
def test_a_black_hole_holds_the_exit_up_for_two_seconds_in_all() -> None:
    script = (
        "import time\n"
        "others = [leanbase.Leanbase('phc_2', leanbase.host, enable_exception_autocapture=True) for _ in range(3)]\n"
        "previous, started = sys.excepthook, time.monotonic()\n"
        "def timed(*args):\n"
        "    previous(*args); print('took', time.monotonic() - started)\n"
        "sys.excepthook = timed\n"
        "raise ValueError('uncaught')\n"
    )
    with black_hole() as listener:
        ended = run(f"http://127.0.0.1:{listener.getsockname()[1]}", script)
    assert "ValueError: uncaught" in ended.stderr
    assert "not delivered, and lost" in ended.stderr
    assert 1.5 < float(ended.stdout.split()[1]) < 6


def test_unraisable_exceptions_only_if_asked_for(
    make: Callable[..., Leanbase], server: FaultServer, own_hooks: list[Any]
) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("in __del__")

    for extra, events in [({}, 0), ({"enable_unraisable_exception_autocapture": True}, 1)]:
        client = make(server, enable_exception_autocapture=True, **extra)
        Failing()
        assert len(server.events) == events
        client.shutdown()
    assert server.events[0]["properties"]["$exception_source"] == "python.sys_unraisablehook"
    assert [name for name, _ in own_hooks] == ["sys.unraisablehook"] * 2


def test_off_by_default(memory: MemoryTransport) -> None:
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    Leanbase("phc_test", transport=memory)
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == hooks


def fail() -> tuple[type[BaseException], BaseException, Any]:
    try:
        raise ValueError("uncaught")
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.mark.rule("X-40")
def test_the_previous_hook_is_called_even_if_capturing_fails(own_hooks: list[Any]) -> None:
    def interrupted(event: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    client = Leanbase(
        "phc_test", transport="memory", before_send=interrupted, enable_exception_autocapture=True
    )
    uncaught = fail()
    with pytest.raises(KeyboardInterrupt):
        sys.excepthook(*uncaught)
    assert own_hooks == [("sys.excepthook", uncaught)]
    client.shutdown()


@pytest.mark.rule("X-42")
@pytest.mark.parametrize("closed_first", [0, 1])
def test_clients_stack_their_hooks_and_close_in_any_order(closed_first: int, own_hooks: list[Any]) -> None:
    original = sys.excepthook, threading.excepthook
    transports = [MemoryTransport(), MemoryTransport()]
    clients = [Leanbase("phc", transport=each, enable_exception_autocapture=True) for each in transports]
    uncaught = fail()
    sys.excepthook(*uncaught)
    assert [len(each.events) for each in transports] == [1, 1]
    assert own_hooks == [("sys.excepthook", uncaught)]
    clients[closed_first].shutdown()
    sys.excepthook(*fail())
    assert len(transports[closed_first].events) == 1
    assert len(transports[1 - closed_first].events) == 2
    assert len(own_hooks) == 2
    clients[1 - closed_first].shutdown()
    assert (sys.excepthook, threading.excepthook) == original
    sys.excepthook(*fail())
    assert sorted(len(each.events) for each in transports) == [1, 2]
    assert len(own_hooks) == 3


@pytest.mark.rule("X-42")
def test_a_closed_client_is_kept_alive_by_no_hook(own_hooks: list[Any]) -> None:
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
def test_a_hook_that_somebody_wrapped_becomes_a_pass_through(own_hooks: list[Any]) -> None:
    memory = MemoryTransport()
    client = Leanbase("phc", transport=memory, enable_exception_autocapture=True)
    ours = sys.excepthook
    wrapper: Callable[..., Any] = lambda *args: ours(*args)  # noqa: E731
    sys.excepthook = wrapper
    client.shutdown()
    assert sys.excepthook is wrapper
    sys.excepthook(*fail())
    assert len(own_hooks) == 1
    assert memory.events == []


def test_a_captured_exception_is_not_captured_again_by_the_hook(own_hooks: list[Any]) -> None:
    memory = MemoryTransport()
    client = Leanbase("phc", transport=memory, enable_exception_autocapture=True)
    uncaught = fail()
    client.capture_exception(uncaught[1])
    sys.excepthook(*uncaught)
    in_thread: Any = SimpleNamespace(
        exc_type=uncaught[0], exc_value=uncaught[1], exc_traceback=uncaught[2], thread=None
    )
    threading.excepthook(in_thread)
    assert len(memory.events) == 1
    client.shutdown()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.rule("X-44")
def test_a_burst_lets_one_less_than_the_bucket_through_and_refills_by_whole_intervals() -> None:
    clock = Clock()
    limiter = RateLimiter(5, 2, 10.0, clock)
    assert [limiter.admits("A") for _ in range(7)] == [True] * 4 + [False] * 3
    assert limiter.admits("B")
    clock.now += 9.9
    assert not limiter.admits("A")
    clock.now += 10.0  # 19.9 s: one interval, and 9.9 s of the next
    assert [limiter.admits("A") for _ in range(3)] == [True, False, False]
    clock.now += 0.1  # the rest was carried over
    assert [limiter.admits("A") for _ in range(2)] == [True, False]
    clock.now += 1000.0
    assert [limiter.admits("A") for _ in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.rule("X-44")
def test_bounds() -> None:
    assert not RateLimiter(0, 10, 10.0).admits("A")
    assert not RateLimiter(1, 10, 10.0).admits("A")
    always = RateLimiter(2, 0, 0.0)
    assert all(always.admits("A") for _ in range(100))
    clock = Clock()
    limiter = RateLimiter(3, 100, 10.0, clock)  # the rate counts as 3
    assert [limiter.admits("A") for _ in range(3)] == [True, True, False]
    for number in range(5000):
        limiter.admits(f"class {number}")
    assert len(limiter._buckets) <= 1000


@pytest.mark.rule("X-44")
def test_the_hooks_are_limited_by_class_and_nothing_else_is(
    own_hooks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryTransport()
    client = Leanbase(
        "phc", transport=memory, enable_exception_autocapture=True,
        enable_exception_autocapture_rate_limiting=True, exception_autocapture_bucket_size=3,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "leanbase"):
        for _ in range(5):
            sys.excepthook(*fail())
    assert len(memory.events) == 2
    assert len(own_hooks) == 5
    assert caplog.text.count("an uncaught ValueError is not captured") == 3
    for _ in range(5):
        client.capture_exception(ValueError())
    assert len(memory.events) == 7
    client.shutdown()


@pytest.mark.rule("X-44")
@pytest.mark.parametrize(
    ("given", "used"),
    [({}, (50, 10, 10.0)), ({"exception_autocapture_bucket_size": 1000}, (100, 10, 10.0)),
     ({"exception_autocapture_bucket_size": -1, "exception_autocapture_refill_rate": -1}, (0, 0, 10.0)),
     ({"exception_autocapture_refill_interval_seconds": 1e9}, (50, 10, 86_400.0)),
     ({"exception_autocapture_bucket_size": "many", "exception_autocapture_refill_interval_seconds": "long"},
      (100, 10, 86_400.0))],
)  # fmt: skip
def test_settings_that_make_no_sense(given: dict[str, Any], used: tuple[Any, ...]) -> None:
    settings = Leanbase("phc", transport="memory", **given)._current().settings
    assert used == (
        settings.exception_autocapture_bucket_size,
        settings.exception_autocapture_refill_rate,
        settings.exception_autocapture_refill_interval_seconds,
    )


@pytest.mark.rule("X-44")
def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_EXCEPTION_AUTOCAPTURE_BUCKET_SIZE", "many")
    monkeypatch.setenv("LEANBASE_IN_APP_MODULES", "shop, billing.core")
    settings = Leanbase("phc", transport="memory")._current().settings
    assert settings.exception_autocapture_bucket_size == 100
    assert settings.in_app_modules == ("shop", "billing.core")


def test_the_hooks_of_the_default_client_come_and_go_with_its_settings(own_hooks: list[Any]) -> None:
    import leanbase

    memory = MemoryTransport()
    leanbase.api_key, leanbase.transport = "phc", memory
    leanbase.enable_exception_autocapture = True
    for events in (1, 2):
        leanbase.setup()
        leanbase.setup()
        sys.excepthook(*fail())
        assert len(memory.events) == events
        leanbase.shutdown()
    sys.excepthook(*fail())
    assert len(memory.events) == 2
