"""The transport `log`, which hands events off as lines of the log.

In most tests the log is a file, whose lines are read.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.transports import LogTransport, MemoryTransport, handoff
from leanbase.transports.log import MAX_LINE_BYTES
from tests.conftest import balanced
from tests.support.handoff import events_of_message
from tests.support.programs import run_program


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def logging_client(log: Path, **options: Any) -> Leanbase:
    return Leanbase(transport=LogTransport(os.open(log, os.O_CREAT | os.O_WRONLY)), **options)


@pytest.mark.rule("Q-54", "Q-57", "Q-58")
def test_the_events_of_a_scope_are_one_line(log: Path) -> None:
    client = logging_client(log)
    with client.delivery_scope() as scope:
        for number in range(3):
            client.capture("line\nbreak", distinct_id=f"ü{number}")
    (line,) = log.read_text().splitlines()
    assert [event["distinct_id"] for event in events_of_message(line)] == ["ü0", "ü1", "ü2"]
    assert line.startswith('{"leanbase":1,"events":[{')
    assert scope.receipt.handed_off == 3
    assert client.stats()["handed_off"] == 3
    assert balanced(client)


@pytest.mark.rule("Q-1")
def test_long_batches_become_several_lines_within_the_limit_in_order(log: Path) -> None:
    client = logging_client(log)
    with client.delivery_scope():
        for number in range(90):
            client.capture("e", distinct_id=number, properties={"text": "x" * (number * 97 % 9000)})
    lines = log.read_bytes().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= MAX_LINE_BYTES for line in lines)
    ids = [event["distinct_id"] for line in lines for event in events_of_message(line.decode())]
    assert ids == [str(number) for number in range(90)]


def test_an_event_larger_than_a_line_is_compressed_or_goes_to_the_fallback_or_is_dropped(log: Path) -> None:
    memory = MemoryTransport()
    client = logging_client(log, fallback=memory)
    client.capture("fits when compressed", distinct_id="u", properties={"text": "x" * 500_000})
    client.capture("does not", distinct_id="u", properties={"text": os.urandom(250_000).hex()})
    (line,) = log.read_text().splitlines()
    assert len(events_of_message(line)[0]["properties"]["text"]) == 500_000
    assert [event["event"] for event in memory.events] == ["does not"]
    assert (client.stats()["handed_off"], client.stats()["delivered"]) == (1, 1)
    alone = logging_client(log)
    alone.capture("does not", distinct_id="u", properties={"text": os.urandom(250_000).hex()})
    assert alone.stats()["dropped"] == {"too_large": 1}


def test_lines_are_not_mixed_with_the_output_of_the_program() -> None:
    """Python may still have some of that output in its own buffer."""
    ended = run_program("tests.transports.programs.print_and_log")
    assert ended.returncode == 0, ended.stderr
    first, *_ = lines = ended.stdout.splitlines()
    assert first == "before"
    assert [line if "{" not in line else events_of_message(line)[0]["event"] for line in lines] == [
        "before", "first", "between", "in the scope", "second", "after",
    ]  # fmt: skip
    assert ended.stderr == ""


@pytest.mark.slow
@pytest.mark.rule("Q-13")
def test_a_send_waits_for_a_slow_reader_until_the_deadline(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    client = Leanbase(transport=LogTransport(writer), send_deadline=0.2)
    for number in range(3):
        client.capture("e", distinct_id=number, properties={"text": "x" * 60_000})
    assert client.stats()["handed_off"] == 1
    assert client.stats()["retained"] == 2
    received = os.read(reader, 1 << 20)
    os.set_blocking(reader, False)
    client.flush(timeout=0.5)
    received += os.read(reader, 1 << 20)
    os.close(writer)
    lines = received.decode().splitlines()
    complete = [line for line in lines if line.endswith("]}")]
    assert events_of_message(complete[0])[0]["distinct_id"] == "0"
    assert all(line.startswith('{"leanbase":1') for line in lines)
    os.close(reader)


@pytest.mark.parametrize(
    ("level", "logged"), [("", "INFO"), ("DEBUG", "INFO"), ("WARN", "WARN"), ("FATAL", "FATAL")]
)
def test_a_line_has_the_level_below_which_lambda_would_drop_it(
    level: str, logged: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_LOG_FORMAT", "JSON")
    monkeypatch.setenv("AWS_LAMBDA_LOG_LEVEL", level)
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    client = Leanbase("k", transport=LogTransport(descriptor))
    client.capture("e", distinct_id="u")
    client.capture("large", distinct_id="u", properties={"text": "x" * 300_000})
    os.close(descriptor)
    for line in path.read_text().splitlines():
        found = json.loads(line)
        assert (found["leanbase"], found["level"]) == (1, logged)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["timestamp"])
        assert handoff.decode(line)
