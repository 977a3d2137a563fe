"""Hand-off to the log."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.transports import LogTransport, MemoryTransport, handoff
from leanbase.transports.log import MAX_LINE_BYTES
from tests.conftest import balanced


def events_of(line: str) -> list[dict[str, Any]]:
    tagged = json.loads(line)
    assert tagged["leanbase"] == 1
    if "gzip" in tagged:
        tagged = json.loads(gzip.decompress(base64.b64decode(tagged["gzip"])))
        assert tagged["leanbase"] == 1
    found: list[dict[str, Any]] = tagged["events"]
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def client(log: Path, **options: Any) -> Leanbase:
    return Leanbase(transport=LogTransport(os.open(log, os.O_CREAT | os.O_WRONLY)), **options)


def test_a_batch_is_one_line(log: Path) -> None:
    leanbase = client(log)
    with leanbase.delivery_scope() as scope:
        for number in range(3):
            leanbase.capture("line\nbreak", distinct_id=f"ü{number}")
    (line,) = log.read_text().splitlines()
    assert [event["distinct_id"] for event in events_of(line)] == ["ü0", "ü1", "ü2"]
    assert line.startswith('{"leanbase":1,"events":[{')
    assert scope.receipt.handed_off == 3
    assert leanbase.stats()["handed_off"] == 3
    assert balanced(leanbase)


def test_lines_stay_below_the_limit_and_the_order_is_kept(log: Path) -> None:
    leanbase = client(log)
    with leanbase.delivery_scope():
        for number in range(90):
            leanbase.capture("e", distinct_id=number, properties={"text": "x" * (number * 97 % 9000)})
    lines = log.read_bytes().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= MAX_LINE_BYTES for line in lines)
    ids = [event["distinct_id"] for line in lines for event in events_of(line.decode())]
    assert ids == [str(number) for number in range(90)]


def test_an_event_larger_than_a_line_is_compressed_or_given_to_the_fallback(log: Path) -> None:
    memory = MemoryTransport()
    leanbase = client(log, fallback=memory)
    leanbase.capture("fits when compressed", distinct_id="u", properties={"text": "x" * 500_000})
    leanbase.capture("does not", distinct_id="u", properties={"text": os.urandom(250_000).hex()})
    (line,) = log.read_text().splitlines()
    assert len(events_of(line)[0]["properties"]["text"]) == 500_000
    assert [event["event"] for event in memory.events] == ["does not"]
    assert (leanbase.stats()["handed_off"], leanbase.stats()["delivered"]) == (1, 1)
    alone = client(log)
    alone.capture("does not", distinct_id="u", properties={"text": os.urandom(250_000).hex()})
    assert alone.stats()["dropped"] == {"too_large": 1}


def test_it_stays_whole_among_the_prints_of_the_program() -> None:
    """Also those that Python still has in its buffer."""
    code = (
        "import leanbase\n"
        "leanbase.transport = 'log'\n"
        "print('before')\n"
        "leanbase.capture('first', distinct_id='u')\n"
        "print('between')\n"
        "with leanbase.delivery_scope():\n"
        "    leanbase.capture('second', distinct_id='u')\n"
        "    print('in the scope')\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_ = lines = done.stdout.splitlines()
    assert first == "before"
    assert [line if "{" not in line else events_of(line)[0]["event"] for line in lines] == [
        "before", "first", "between", "in the scope", "second", "after",
    ]  # fmt: skip
    assert done.stderr == ""


def test_a_slow_reader_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    leanbase = Leanbase(transport=LogTransport(writer), send_deadline=0.2)
    for number in range(3):
        leanbase.capture("e", distinct_id=number, properties={"text": "x" * 60_000})
    assert leanbase.stats()["handed_off"] == 1
    assert leanbase.stats()["retained"] == 2
    received = os.read(reader, 1 << 20)
    os.set_blocking(reader, False)
    leanbase.flush(timeout=0.5)
    received += os.read(reader, 1 << 20)
    os.close(writer)
    lines = received.decode().splitlines()
    whole = [line for line in lines if line.endswith("]}")]
    assert events_of(whole[0])[0]["distinct_id"] == "0"
    assert all(line.startswith('{"leanbase":1') for line in lines)
    os.close(reader)


@pytest.mark.parametrize(
    ("level", "said"), [("", "INFO"), ("DEBUG", "INFO"), ("WARN", "WARN"), ("FATAL", "FATAL")]
)
def test_a_line_passes_the_level_at_which_lambda_drops_lines(
    level: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
        assert (found["leanbase"], found["level"]) == (1, said)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["timestamp"])
        assert handoff.decode(line)
