"""Celery tasks in a real worker.

A test starts a `LocalServer` in its own process and a worker in another one. `programs/publish_tasks.py` publishes
tasks of `apps/tasks.py` in a third process, through a broker that is a folder of files. The test asserts which
events the `LocalServer` has stored.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leanbase.local.server import LocalServer
from tests.integrations.helpers import exception_of
from tests.support.programs import program_command, run_program

APP = "tests.integrations.apps.tasks"
PROGRAMS = "tests.integrations.programs"
ARRIVAL_SECONDS = 30.0


@dataclass
class Worker:
    """A running worker.

    Attributes:
        local: Stores the events of the worker.
        environment: The variables with which tasks must be published.
        output: What the worker printed, once it has ended.
    """

    local: LocalServer
    environment: dict[str, Any]
    output: str = ""

    def publish(self, task: str, *numbers: int) -> None:
        """Publish a task, once for each number, in a context with identity, session and a tag."""
        done = run_program(f"{PROGRAMS}.publish_tasks", task, *numbers, **self.environment)
        assert done.returncode == 0, done.stderr

    def wait_for_events(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not wanted(events := self.local.store.events()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return events


@contextmanager
def running_worker(folder: Path, *options: str, **variables: str) -> Iterator[Worker]:
    for name in ("queue", "control", "results"):
        (folder / name).mkdir()
    with LocalServer() as local:
        environment = {"CELERY_FOLDER": str(folder), "INGESTION": local.url, **variables}
        command = program_command("celery", "-A", APP, "worker", "--loglevel", "info", *options)
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        worker = Worker(local, environment)
        try:
            yield worker
        finally:
            process.send_signal(signal.SIGTERM)
            worker.output, _ = process.communicate(timeout=60)
    assert "internal error" not in worker.output, worker.output


def events_of_task(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["properties"].get("celery.task_name") == f"{APP}.{name}"]


@pytest.mark.rule("D-9", "X-21")
@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tasks_have_the_identity_of_their_producer(pool: str, tmp_path: Path) -> None:
    with running_worker(tmp_path, "--pool", pool, "--concurrency", "2") as worker:
        worker.publish("order", 7)
        for task in ("fails", "retries", "calls_another", "ignored", "rejected", "expected"):
            worker.publish(task)
        worker.wait_for_events(lambda events: len(events) >= 6)
        time.sleep(1)  # more events would arrive meanwhile
        events = worker.local.store.events()
    assert len(events) == 6
    for event in events:
        assert event["distinct_id"] == "user_1"
        assert event["properties"]["$session_id"] == "s-1"
        assert event["properties"]["tenant"] == "acme"
        assert event["properties"]["celery.task_id"]
    assert len(events_of_task(events, "order")) == 2
    # Two processes may send the events of two retries in any order.
    assert sorted(event["properties"]["retries"] for event in events_of_task(events, "retries")) == [0, 1, 2]
    (failure,) = events_of_task(events, "fails")
    assert exception_of([failure]) == ("ValueError", "error", "task", False, "celery.task_failure")
    assert failure["properties"]["step"] == "payment"
    orders = {event["properties"]["number"]: event for event in events_of_task(events, "order")}
    assert orders[99]["properties"]["outer"] is True
    assert "outer" not in orders[7]["properties"]


@pytest.mark.rule("D-9", "K-17")
@pytest.mark.slow
def test_a_task_whose_process_is_lost_makes_one_exception_event(tmp_path: Path) -> None:
    with running_worker(tmp_path, "--pool", "prefork", "--concurrency", "2") as worker:
        worker.publish("too_slow")
        worker.publish("dies")
        worker.wait_for_events(lambda events: len(events) >= 3)
        time.sleep(2)  # more events would arrive meanwhile
        events = worker.local.store.events()
    failures = [event for event in events if event["event"] == "$exception"]
    assert sorted(exception_of([event]).type for event in failures) == [
        "TimeLimitExceeded",
        "WorkerLostError",
    ]
    for event in failures:
        assert event["distinct_id"] == "user_1"
        assert exception_of([event])[1:] == ("error", "task", False, "celery.task_failure")


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_no_event_is_lost_when_pool_processes_are_recycled(sync_mode: str, tmp_path: Path) -> None:
    options = ["--pool", "prefork", "--concurrency", "2", "--max-tasks-per-child", "2"]
    with running_worker(tmp_path, *options, SYNC_MODE=sync_mode) as worker:
        worker.publish("order", *range(20))
        events = worker.wait_for_events(lambda events: len(events) >= 20)
    assert sorted(event["properties"]["number"] for event in events) == list(range(20))
    assert {event["times_received"] for event in events} == {1}
    assert len({event["properties"]["pid"] for event in events}) >= 5


@pytest.mark.rule("K-1")
def test_an_eager_task_shares_the_context_and_the_scope_of_its_caller(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    environment: dict[str, Any] = {
        "CELERY_FOLDER": str(tmp_path),
        "EAGER": "1",
        "INGESTION": "http://127.0.0.1:9",
    }
    done = run_program(f"{PROGRAMS}.eager_tasks", **environment)
    assert done.returncode == 0, done.stderr


def test_invalid_headers_of_a_message_are_ignored() -> None:
    from leanbase.events.contexts import active, get_tags, new_context
    from leanbase.integrations import celery

    invalid: list[Any] = [
        None, 7, b"x", "{", "[]", "null", "[" * 20_000, '{"tags": [1], "distinct_id": 7, "session_id": {}}', "x" * 40_000,
    ]  # fmt: skip
    for carried in invalid:
        with new_context(fresh=True):
            celery._restore(carried)
            context = active()
            assert context is not None
            assert (get_tags(), context.nearest("distinct_id"), context.nearest("session_id")) == (
                {},
                None,
                None,
            )


def test_tags_too_large_for_a_message_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from leanbase.events.contexts import (
        get_context_distinct_id,
        get_tags,
        identify_context,
        new_context,
        tag,
    )
    from leanbase.integrations import celery

    with new_context(fresh=True):
        identify_context("user_1")
        tag("much", "x" * 40_000)
        carried = celery._carried()
    assert "are too large" in caplog.text
    assert "xxx" not in caplog.text
    with new_context(fresh=True):
        celery._restore(carried)
        assert (get_tags(), get_context_distinct_id()) == ({}, "user_1")


def test_a_client_of_the_wrong_type_raises_type_error() -> None:
    from leanbase.integrations.celery import install

    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        install(client="me")  # type: ignore[arg-type]
