"""Definitions without a thread: their ages, one set for an invocation, and endpoints that fail."""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.feature_flags import Definitions, DefinitionsSource, SourceError, store
from leanbase.feature_flags.breaker import PAUSE_SECONDS
from leanbase.feature_flags.store import WAIT_SECONDS, DefinitionsStore
from leanbase.testing import LambdaContext, LambdaSimulator
from leanbase.transports.deadline import Deadline
from tests.feature_flags.conftest import FlagServer, flag
from tests.support.fault_server import Behaviour
from tests.support.forking import run_in_forked_child
from tests.support.threads import run_in_threads, start_thread

Make = Callable[..., Leanbase]


class Clock:
    """The clocks of ages, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        wall, monotonic = time.time, time.monotonic
        monkeypatch.setattr(time, "time", lambda: wall() + self.passed)
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self.passed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Source(DefinitionsSource):
    """Has what a test gives it, and remembers how often it was asked."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self.asked = 0
        self.error: Exception | None = None

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        if known is not None and list(known) == list(self.keys):
            return None
        return Definitions.from_json({"flags": [flag(key) for key in self.keys]})


def store_of(*sources: DefinitionsSource, ttl: float = 60.0, max_age: float = 300.0) -> DefinitionsStore:
    return DefinitionsStore(sources, ttl=ttl, max_age=max_age)


def keys(definitions: Definitions | None) -> list[str]:
    return list(definitions or ())


def test_definitions_are_loaded_once_and_asked_for_again_after_their_time(clock: Clock) -> None:
    source = Source("a")
    ours = store_of(source)
    for _ in range(3):
        assert keys(ours.pinned().definitions) == ["a"]
    assert source.asked == 1
    clock.passed = 61
    source.keys = ("b",)
    assert keys(ours.pinned().definitions) == ["b"], "outside a scope the call asks before it answers"
    clock.passed = 122
    ours.pinned()
    clock.passed = 150
    ours.pinned()
    assert source.asked == 3


@pytest.mark.rule("F-9")
def test_one_set_for_all_reads_of_a_scope(client: Leanbase, clock: Clock) -> None:
    source = Source("a")
    ours = store_of(source)
    with client.delivery_scope():
        first = ours.pinned()
        source.keys = ("b",)
        clock.passed = 1000
        with client.delivery_scope():
            assert ours.pinned() is first
        seen: list[Any] = []
        context = contextvars.copy_context()
        start_thread(lambda: context.run(lambda: seen.append(ours.pinned()))).join(5)
        assert seen == [first], "a thread that carries the context"
        assert ours.load(Deadline.after(1)) is True
        assert ours.pinned() is first
    assert keys(ours.pinned().definitions) == ["b"]


def test_an_invocation_uses_what_there_is_and_asks_at_its_end(
    flags: FlagServer, client_of: Make, clock: Clock
) -> None:
    client = client_of(flags, secret_key="phs_secret")
    order: list[str] = []

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> list[str]:
        found = client.evaluate_flags("u", only_evaluate_locally=True)
        client.capture("e", distinct_id="u")
        order[:] = [each.line.split()[1].split("?")[0] for each in flags.requests]
        return found.keys

    assert handler({}, LambdaContext(10.0)) == ["beta"]
    clock.passed = 61
    flags.definitions = {"flags": [flag("new")]}
    flags.requests.clear()
    assert handler({}, LambdaContext(10.0)) == ["beta"]
    assert order == [], "nothing was asked before the answer"
    paths = [each.line.split()[1].split("?")[0] for each in flags.requests]
    assert paths == ["/batch/", "/flags/definitions"], "the events leave first"
    assert flags.requests[1].headers["if-none-match"] == '"v1"'
    assert handler({}, LambdaContext(10.0)) == ["new"]


@pytest.mark.rule("F-10")
def test_after_a_long_sleep_the_source_is_asked_first(
    flags: FlagServer, client_of: Make, clock: Clock
) -> None:
    client = client_of(flags, secret_key="phs_secret")
    assert client.get_all_flags("u", only_evaluate_locally=True) == {"beta": True}
    clock.passed = 600
    flags.definitions = {"flags": [flag("new")]}
    with client.delivery_scope():
        assert client.get_all_flags("u", only_evaluate_locally=True) == {"new": True}


def test_a_sandbox_that_slept_for_ten_minutes_sees_nothing_old(flags: FlagServer, tmp_path: Path) -> None:
    host, directory = flags.url, str(tmp_path / "shared")

    def handler(event: Any, context: Any) -> list[str]:
        return sorted(sleeper(host, directory).get_all_flags("u", only_evaluate_locally=True))

    with LambdaSimulator(handler, timeout=10) as function:
        assert function.invoke({}) == ["beta"]
        flags.definitions, flags.etag = {"flags": [flag("new")]}, '"v2"'
        flags.serve_definitions()
        function.thaw(30)
        assert function.invoke({}) == ["beta"], "half a minute is not old"
        function.thaw(600)
        assert function.invoke({}) == ["new"]


_sleepers: dict[str, Leanbase] = {}


def sleeper(host: str, directory: str) -> Leanbase:
    if host not in _sleepers:
        _sleepers[host] = Leanbase("phc_test", host, secret_key="phs_secret", spool_directory=directory)
    return _sleepers[host]


def test_one_of_many_threads_asks(clock: Clock) -> None:
    source = Source("a")
    ours = store_of(source)
    run_in_threads(*[ours.pinned] * 16)
    assert source.asked == 1
    clock.passed = 61
    run_in_threads(*[ours.pinned] * 16)
    assert source.asked == 2


@pytest.mark.rule("F-10")
def test_a_source_that_fails_is_left_alone_for_half_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source("a")
    source.error = SourceError("away")
    ours = store_of(source)
    for _ in range(3):
        assert ours.pinned().definitions is None
    assert source.asked == 1
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert ours.load(Deadline.after(1)) is False
    assert source.asked == 2, "load() asks all the same"
    clock.passed = PAUSE_SECONDS + 1
    source.error = None
    assert keys(ours.pinned().definitions) == ["a"]


def test_the_last_definitions_serve_while_the_source_is_away(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source("a")
    ours = store_of(source)
    ours.pinned()
    source.error = RuntimeError("broken source")
    clock.passed = 10_000
    pinned = ours.pinned()
    assert (keys(pinned.definitions), pinned.is_stale) == (["a"], True)
    assert "RuntimeError" in caplog.text
    assert "the loaded definitions are used" in caplog.text


@pytest.mark.rule("F-11")
@pytest.mark.parametrize("status", [401, 402])
def test_definitions_that_may_not_be_used_are_forgotten(
    status: int,
    flags: FlagServer,
    client_of: Make,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    client = client_of(flags, secret_key="phs_secret")
    assert client.load_feature_flags() is True
    assert [each["key"] for each in client.feature_flag_definitions() or ()] == ["beta"]
    clock.passed = 61
    flags.serve_definitions(status=status)
    assert client.load_feature_flags() is False
    assert client.feature_flag_definitions() is None
    assert not list((tmp_path / "shared").glob("flags-*.json"))
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "phs_secret" not in caplog.text
    flags.requests.clear()
    client.evaluate_flags("u", only_evaluate_locally=True)
    assert flags.to("/flags/definitions") == []


FAULTS = {
    "an error": {"status": 500},
    "too many": {"status": 429, "headers": {"Retry-After": "1"}},
    "unavailable": {"status": 503},
    "a reset": {"instead": "reset"},
    "an empty answer": {"instead": "close"},
    "half a status line": {"instead": "half"},
    "half a body": {"respond": None, "body": b'{"flags": [{"key": "be'},
    "no definitions": {"respond": None, "body": b"{}"},
    "a 304 for something else": {"status": 304, "headers": {"ETag": '"other"'}, "respond": None, "body": b""},
}


@pytest.mark.rule("F-11")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_faults_keep_what_is_loaded(
    fault: dict[str, Any], flags: FlagServer, client_of: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(flags, secret_key="phs_secret")
    assert client.get_all_flags("u") == {"beta": True}
    clock.passed = 400
    flags.serve_definitions(**fault)
    assert client.get_all_flags("u") == {"beta": True}
    assert client.get_all_flags("u") == {"beta": True}
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
    clock.passed = 800
    flags.serve_definitions()
    flags.definitions = {"flags": [flag("new")]}
    assert client.get_all_flags("u") == {"new": True}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_faults_at_the_start_leave_it_to_the_server(
    fault: dict[str, Any], flags: FlagServer, client_of: Make
) -> None:
    flags.serve_definitions(**fault)
    flags.remote = {"beta": {"key": "beta", "value": "remote"}}
    client = client_of(flags, secret_key="phs_secret")
    assert client.get_all_flags("u") == {"beta": "remote"}
    assert client.get_all_flags("u") == {"beta": "remote"}
    assert len(flags.to("/flags/definitions")) == 1


@pytest.mark.slow
def test_an_endpoint_that_hangs_costs_one_short_wait(flags: FlagServer, client_of: Make) -> None:
    flags.serve_definitions(instead="silence")
    flags.routes["/flags/?"] = Behaviour(instead="silence")
    client = client_of(flags, secret_key="phs_secret", flags_timeout=0.3, flags_max_retries=0)
    started = time.monotonic()
    found = client.evaluate_flags("u")
    assert time.monotonic() - started < WAIT_SECONDS + 0.3 + 0.5
    assert found.error == "timeout"
    before = len(flags.to("/flags"))
    for _ in range(100):
        again = client.evaluate_flags("u")
    assert again.error == "connection_error"
    assert again.is_enabled("beta", True) is True
    assert len(flags.to("/flags")) == before, "for half a minute nobody is asked"


@pytest.mark.slow
def test_a_handler_never_waits_for_more_than_a_third_of_its_time(flags: FlagServer, client_of: Make) -> None:
    flags.serve_definitions(instead="silence")
    client = client_of(flags, secret_key="phs_secret")

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> float:
        started = time.monotonic()
        client.evaluate_flags("u", only_evaluate_locally=True)
        return time.monotonic() - started

    assert handler({}, LambdaContext(1.5)) < 0.6


def test_large_definitions_arrive_whole(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {"flags": [flag(f"flag-{number}", name="x" * 5000) for number in range(1000)]}
    client = client_of(flags, secret_key="phs_secret")
    assert client.load_feature_flags() is True
    assert len(client.get_all_flags("u")) == 1000


def test_endless_definitions_are_refused(
    flags: FlagServer, client_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leanbase.feature_flags import http

    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)
    flags.definitions = {"flags": [flag(f"flag-{number}") for number in range(100)]}
    assert client_of(flags, secret_key="phs_secret").load_feature_flags() is False


def test_a_forked_child_keeps_the_definitions(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags, secret_key="phs_secret")
    client.get_all_flags("u")
    before = len(flags.requests)
    run_in_forked_child(lambda: _assert_beta(client))
    assert len(flags.requests) == before


def _assert_beta(client: Leanbase) -> None:
    assert client.get_all_flags("u") == {"beta": True}


def test_the_freshest_file_and_the_first_remote_source() -> None:
    class File(Source):
        is_local = True

        def __init__(self, key: str, fetched_at: float) -> None:
            super().__init__(key)
            self.fetched_at = fetched_at

        def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
            self.asked += 1
            return Definitions.from_json({"flags": [flag(self.keys[0])]}, fetched_at=self.fetched_at)

    now = time.time()
    old, new, remote = File("old", now - 100), File("new", now - 5), Source("remote")
    assert keys(store_of(remote, old, new).pinned().definitions) == ["new"]
    assert remote.asked == 0
    stale = store_of(remote, File("ancient", now - 1000))
    assert keys(stale.pinned().definitions) == ["remote"]
    remote.error = SourceError("away")
    fallen_back = store_of(remote, File("ancient", now - 1000))
    assert keys(fallen_back.pinned().definitions) == ["ancient"]
    only_file = store_of(File("ancient", now - 1000))
    assert keys(only_file.pinned().definitions) == ["ancient"]
    assert only_file.pinned().is_stale is False, "there is nothing fresher"


def test_a_cold_start_loads_what_flag_definitions_names(
    flags: FlagServer, client_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")
    monkeypatch.setattr(store, "WAIT_SECONDS", 1.0)
    named = client_of(flags, secret_key="phs_secret", flag_definitions="api")
    leanbase.lambda_handler(client=named)(lambda event, context: None)
    assert len(flags.to("/flags/definitions")) == 1
    other = FlagServer()
    leanbase.lambda_handler(client=client_of(other, secret_key="phs_secret"))(lambda event, context: None)
    assert other.to("/flags/definitions") == [], "a secret key alone loads nothing"
    other.stop()
