"""Imports of the past through a queue: the relay marks them, in requests of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.cli import main
from leanbase.events.encoding import HistoricalEncodedEvent
from leanbase.local.server import LocalServer
from leanbase.transports import handoff
from tests.relay.sources import event, sqs_event
from tests.support.fault_server import FaultServer
from tests.support.moto_server import CREDENTIALS, MotoServer


def test_events_of_an_import_are_sent_in_requests_of_their_own(configured: Any, server: FaultServer) -> None:
    old, new = (
        handoff.encode([event("old"), event("older")], handoff.HISTORICAL),
        handoff.encode([event("new")]),
    )
    packed = handoff.encode_gzip([event("oldest")], handoff.HISTORICAL)
    assert configured(server)(sqs_event(old, new, packed)) == {"batchItemFailures": []}
    first, second = server.requests
    assert (first.envelope["historical_migration"], [each["event"] for each in first.events]) == (
        False,
        ["new"],
    )
    assert second.envelope["historical_migration"] is True
    assert [each["event"] for each in second.events] == ["old", "older", "oldest"]
    assert type(handoff.decode(packed)[0]) is HistoricalEncodedEvent
    assert not handoff.decode(json.dumps({**json.loads(new), "historical_migration": "yes"}))[0].is_historical


@pytest.mark.slow
def test_an_import_over_a_queue(
    moto: MotoServer,
    configured: Any,
    local: LocalServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    queue = moto.queue(VisibilityTimeout="60")
    monkeypatch.setenv("LEANBASE_QUEUE_URL", queue)
    path = tmp_path / "events.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["event", "distinct_id", "timestamp", "n"])
        writer.writerows(["order", f"user_{n}", 1709208000 + n, n] for n in range(2500))
    assert main(["import", "--transport", "sqs", str(path)]) == 0
    assert "2,500 rows read: 2,500 handed off" in capsys.readouterr().out
    relay = configured(local)
    while not moto.is_empty(queue):
        received = moto.receive(queue, wait=1)
        if received is not None:
            moto.delete(queue, received, relay(received))
    events = local.store.events()
    assert len(events) == 2500
    assert all(each["historical_migration"] for each in events)
    assert sorted(each["properties"]["n"] for each in events) == list(range(2500))


@pytest.mark.slow
def test_a_queue_that_does_not_exist_stops_an_import(
    moto: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEANBASE_QUEUE_URL", f"{moto.url}/123456789012/missing")
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"event": "e", "distinct_id": "u", "timestamp": 1709208000}))
    assert main(["import", "--transport", "sqs", str(path)]) == 1
    output = capsys.readouterr()
    assert "there is no such queue" in output.err
    assert "0 rows read" in output.out


@pytest.mark.slow
def test_a_client_for_imports_marks_what_it_hands_to_a_queue(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    queue = moto.queue()
    client = Leanbase(transport="sqs", queue_url=queue, historical_migration=True)
    client.capture("old", distinct_id="u", timestamp=1709208000)
    (message,) = (moto.receive(queue, wait=1) or {})["Records"]
    assert json.loads(message["body"])["historical_migration"] is True
