"""Celery tasks in a real worker, on a broker of files, seen from the ingestion server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leanbase.local.server import LocalServer
from tests.integrations.test_asgi import exception_of
from tests.support.web_servers import ROOT

APP = "tests.integrations.apps.tasks"
ARRIVAL_SECONDS = 30.0


@dataclass
class Worker:
    local: LocalServer
    environment: dict[str, str]
    output: str = ""

    def publish(self, code: str) -> None:
        """Run a producer, in a context with identity, session and a tag."""
        program = f"""
import leanbase
from {APP} import *
with leanbase.new_context(fresh=True):
    leanbase.identify_context("user_1")
    leanbase.set_context_session("s-1")
    leanbase.tag("tenant", "acme")
    {code}
"""
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=self.environment)

    def events(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not wanted(events := self.local.store.events()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return events


@contextmanager
def working(folder: Path, *options: str, **variables: str) -> Iterator[Worker]:
    for name in ("queue", "control", "results"):
        (folder / name).mkdir()
    with LocalServer() as local:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CELERY_FOLDER": str(folder),
            "INGESTION": local.url,
            **variables,
        }
        command = [sys.executable, "-m", "celery", "-A", APP, "worker", "--loglevel", "info", *options]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        worker = Worker(local, environment)
        try:
            yield worker
        finally:
            process.send_signal(signal.SIGTERM)
            worker.output, _ = process.communicate(timeout=60)
    assert "internal error" not in worker.output, worker.output


def of_task(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["properties"].get("celery.task_name") == f"{APP}.{name}"]


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tasks_have_the_identity_of_who_asked_for_them(pool: str, tmp_path: Path) -> None:
    with working(tmp_path, "--pool", pool, "--concurrency", "2") as worker:
        for task in ("order.delay(7)", "fails.delay()", "retries.delay()", "calls_another.delay()"):
            worker.publish(task)
        for task in ("ignored", "rejected", "expected"):
            worker.publish(f"{task}.delay()")
        events = worker.events(lambda events: len(events) >= 6)
        time.sleep(1)
        events = worker.local.store.events()
    assert len(events) == 6
    for event in events:
        assert event["distinct_id"] == "user_1"
        assert event["properties"]["$session_id"] == "s-1"
        assert event["properties"]["tenant"] == "acme"
        assert event["properties"]["celery.task_id"]
    assert len(of_task(events, "order")) == 2
    assert [event["properties"]["retries"] for event in of_task(events, "retries")] == [0, 1, 2]
    (failure,) = of_task(events, "fails")
    assert exception_of([failure]) == ("ValueError", "error", "task", False, "celery.task_failure")
    assert failure["properties"]["step"] == "payment"
    second = next(event for event in of_task(events, "order") if event["properties"]["number"] == 99)
    assert second["properties"]["outer"] is True
    assert (
        "outer" not in next(event for event in of_task(events, "order") if event is not second)["properties"]
    )


@pytest.mark.slow
def test_a_task_whose_process_is_lost_is_told_of_once(tmp_path: Path) -> None:
    with working(tmp_path, "--pool", "prefork", "--concurrency", "2") as worker:
        worker.publish("too_slow.delay()")
        worker.publish("dies.delay()")
        events = worker.events(
            lambda events: len(of_task(events, "dies")) + len(of_task(events, "too_slow")) >= 3
        )
        time.sleep(2)
        events = worker.local.store.events()
    failures = [event for event in events if event["event"] == "$exception"]
    kinds = sorted(exception_of([event])[0] for event in failures)
    assert kinds == ["TimeLimitExceeded", "WorkerLostError"]
    for event in failures:
        assert event["distinct_id"] == "user_1"
        assert exception_of([event])[1:] == ("error", "task", False, "celery.task_failure")


@pytest.mark.slow
@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_nothing_is_lost_with_children_that_come_and_go(sync_mode: str, tmp_path: Path) -> None:
    options = ["--pool", "prefork", "--concurrency", "2", "--max-tasks-per-child", "2"]
    with working(tmp_path, *options, SYNC_MODE=sync_mode) as worker:
        worker.publish("[order.delay(number) for number in range(20)]")
        events = worker.events(lambda events: len(events) >= 20)
    assert sorted(event["properties"]["number"] for event in events) == list(range(20))
    assert {event["times_received"] for event in events} == {1}
    assert len({event["properties"]["pid"] for event in events}) >= 5


def test_an_eager_task_shares_the_context_and_the_scope_of_its_caller(tmp_path: Path) -> None:
    program = f"""
import leanbase
from leanbase.transports import MemoryTransport
from {APP} import order, fails
memory = leanbase.transport = MemoryTransport()
with leanbase.delivery_scope(), leanbase.new_context(fresh=True):
    leanbase.identify_context("user_1")
    leanbase.tag("tenant", "acme")
    order.delay(7)
    fails.delay()
    assert "number" not in leanbase.get_tags() and not memory.events
kinds = [(event["event"], event["distinct_id"], event["properties"]["tenant"]) for event in memory.events]
assert kinds == [("order worked on", "user_1", "acme"), ("$exception", "user_1", "acme")], kinds
fails.delay()
assert len(memory.events) == 3, memory.events
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CELERY_FOLDER": str(tmp_path), "EAGER": "1"}
    environment["INGESTION"] = "http://127.0.0.1:9"
    (tmp_path / "results").mkdir()
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)


def test_what_a_message_claims_is_not_trusted() -> None:
    from leanbase.events.contexts import active, get_tags, new_context
    from leanbase.integrations import celery

    hostile: list[Any] = [
        None, 7, b"x", "{", "[]", "null", "[" * 20_000, '{"tags": [1], "distinct_id": 7, "session_id": {}}', "x" * 40_000,
    ]  # fmt: skip
    for carried in hostile:
        with new_context(fresh=True):
            celery._restore(carried)
            context = active()
            assert context is not None
            assert (get_tags(), context.nearest("distinct_id"), context.nearest("session_id")) == (
                {},
                None,
                None,
            )


def test_tags_that_are_too_much_for_a_message_stay_behind(caplog: pytest.LogCaptureFixture) -> None:
    from leanbase.events.contexts import get_tags, identify_context, new_context, tag
    from leanbase.integrations import celery

    with new_context(fresh=True):
        identify_context("user_1")
        tag("much", "x" * 40_000)
        carried = celery._carried()
    assert "are too large" in caplog.text
    assert "xxx" not in caplog.text
    with new_context(fresh=True):
        celery._restore(carried)
        assert get_tags() == {}


def test_a_wrong_client_is_found_at_once() -> None:
    from leanbase.integrations.celery import install

    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        install(client="me")  # type: ignore[arg-type]
