"""`leanbase.historical.import_events`, against a server that fails on demand."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.historical import ImportStoppedError, Progress, import_events, lanes
from leanbase.local.server import LocalServer
from tests.historical.conftest import WHEN, row, rows
from tests.support.fault_server import Behaviour, FaultServer, Request
from tests.support.forking import run_in_forked_child


def uuids(server: FaultServer) -> list[str]:
    return [event["uuid"] for event in server.events]


def test_the_bytes_on_the_wire(server: FaultServer, client: Leanbase) -> None:
    leanbase.host, leanbase.api_key = server.url, "phc_test"
    given = [row(1, groups={"company": "acme"}), row(2, uuid="0198c0de-0000-7000-8000-000000000abc")]
    report = import_events(given)
    assert report
    assert (report.read, report.delivered, dict(report.files)) == (2, 2, {})
    (request,) = server.requests
    assert request.envelope["historical_migration"] is True
    first, second = request.events
    assert first["properties"] == {
        "n": 1,
        "$groups": {"company": "acme"},
        "$lib": "leanbase-python",
        "$lib_version": leanbase.__version__,
        "$geoip_disable": True,
    }, "nothing of this machine, and not $is_server"
    assert first["timestamp"] == "2024-02-29T12:00:00+00:00"
    assert UUID(first["uuid"]).version == 5
    assert second["uuid"] == "0198c0de-0000-7000-8000-000000000abc"


def test_an_import_has_nothing_of_the_context_that_it_runs_in(server: FaultServer, client: Leanbase) -> None:
    with leanbase.new_context():
        leanbase.identify_context("somebody else")
        leanbase.tag("plan", "pro")
        leanbase.set_context_session("0198c0de-0000-7000-8000-000000000abc")
        report = import_events([row(), {**row(), "distinct_id": None}], client=client)
    assert (report.delivered, report.rejected) == (1, 1), "nor its person"
    (event,) = server.events
    assert "plan" not in event["properties"]
    assert "$session_id" not in event["properties"]


def test_hooks_and_super_properties_of_the_client_apply(server: FaultServer, tmp_path: Path) -> None:
    def hook(event: dict[str, Any]) -> dict[str, Any] | None:
        event["properties"].pop("n")
        return event if event["distinct_id"] == "user_1" else None

    client = Leanbase("phc_test", server.url, before_send=hook, super_properties={"source": "old"})
    report = import_events(rows(3), client=client, rejects=tmp_path / "rejects")
    assert (report.delivered, report.rejected) == (1, 2)
    (event,) = server.events
    assert "n" not in event["properties"]
    assert event["properties"]["source"] == "old"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_file_of_rejects_that_has_no_room_stops_the_import(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    path = tmp_path / "rejects"

    def child() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the write that reaches it is a short one
        bad = {"event": "e", "distinct_id": "u", "timestamp": "never", "properties": {"x": "y" * 300}}
        with pytest.raises(ImportStoppedError, match="rejects cannot be written: File too large"):
            import_events([bad] * 5, client=client, rejects=path)

    run_in_forked_child(child)
    assert path.read_bytes() == b"", "a row that was cut off is removed"


def test_ids_come_from_the_content_and_the_occurrence(server: FaultServer, client: Leanbase) -> None:
    given = [row(1), row(2), row(1), {**row(1), "properties": {"n": 1.5}}, dict(reversed(row(1).items()))]
    import_events(given, client=client)
    first = uuids(server)
    assert len(set(first)) == 5, "two equal rows are two events, whatever the order of their keys"
    import_events(given, client=client)
    assert uuids(server)[5:] == first


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp": None}, "the row has no timestamp"),
        ({"timestamp": "yesterday"}, "timestamp cannot be read"),
        ({"timestamp": 17}, "timestamp cannot be read"),
        ({"distinct_id": " "}, "the row has no person"),
        ({"event": ""}, "the event name must be a non-empty string"),
        ({"event": 7}, "the event name must be a non-empty string, not int"),
        ({"properties": [1]}, "properties must be a mapping, not list"),
        ({"plan": "pro"}, "unknown key(s) plan: put them into properties"),
        ({"properties": {"text": "x" * 1_000_000}}, "the client dropped the event: it is too large"),
    ],
)
def test_a_row_that_makes_no_event_is_rejected_with_the_reason(
    change: dict[str, Any], reason: str, server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects.jsonl"
    report = import_events([row(1), {**row(2), **change}, row(3)], client=client, rejects=rejects)
    assert not report
    assert (report.read, report.delivered, report.rejected) == (3, 2, 1)
    assert report.files["rejects"] == str(rejects)
    (line,) = map(json.loads, rejects.read_text().splitlines())
    assert reason in line["reason"]
    assert line["row"] == 2
    assert {**row(2), **change}["event"] == line["content"]["event"]
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert len(server.events) == 2


def test_without_a_file_for_them_the_first_rejected_row_is_logged(
    client: Leanbase, caplog: pytest.LogCaptureFixture
) -> None:
    report = import_events([row(1), {"event": "secret"}, {"event": "other"}], client=client)
    assert report.rejected == 2
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "row 2 of rows is not imported: the row has no person" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_rows_without_a_person_are_the_same_person_in_each_run(server: FaultServer, client: Leanbase) -> None:
    for _ in range(2):
        assert import_events([row(distinct_id=None)], client=client, personless=True).delivered == 1
    first, second = server.events
    assert first == second
    assert first["properties"]["$process_person_profile"] is False


def test_a_checkpoint_continues_after_the_rows_that_were_passed_on(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert import_events(rows(250), client=client, checkpoint=checkpoint).delivered == 250
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"], "no file is left beside it"
    longer = [*rows(250), row(0), row(1000)]
    report = import_events(longer, client=client, checkpoint=checkpoint)
    assert (report.read, report.delivered) == (252, 252)
    assert len(server.events) == 252
    assert len(set(uuids(server))) == 252, "row(0) has occurred in the first run"


def test_a_checkpoint_belongs_to_its_rows_and_its_project(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    import_events(rows(5), client=client, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="its first 5 rows are not those that were passed on"):
        import_events([*rows(4), row(99)], client=client, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="it has 3 rows, and 5 were passed on"):
        import_events(rows(3), client=client, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="another server or key"):
        import_events(rows(5), client=Leanbase("phc_other", server.url), checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="with another format"):
        import_events(rows(5), client=client, checkpoint=checkpoint, personless=True)
    assert len(server.events) == 5


def test_a_file_that_is_no_checkpoint_is_left_alone(client: Leanbase, tmp_path: Path) -> None:
    precious = tmp_path / "precious.csv"
    precious.write_text("event,distinct_id\n" * 500)
    with pytest.raises(ConfigError, match=r"precious.csv cannot be used: file is not a database"):
        import_events(rows(1), client=client, checkpoint=precious)
    assert precious.read_text() == "event,distinct_id\n" * 500
    with pytest.raises(ConfigError, match="cannot be used: No such file or directory"):
        import_events(rows(1), client=client, checkpoint="/no/such/folder/checkpoint")


def test_two_imports_do_not_share_a_checkpoint(server: FaultServer, client: Leanbase, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[dict[str, Any]]:
        yield row()
        begun.set()
        go_on.wait(10)

    first = threading.Thread(
        target=import_events, args=(slowly(),), kwargs={"client": client, "checkpoint": checkpoint}
    )
    first.start()
    begun.wait(10)
    with pytest.raises(ConfigError, match="another import uses the checkpoint"):
        import_events(rows(1), client=client, checkpoint=checkpoint)
    go_on.set()
    first.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "outage",
    [
        Behaviour(status=503),
        Behaviour(status=429, headers={"Retry-After": "1"}),
        Behaviour(instead="reset"),
        Behaviour(status=500, body=b"<html>"),
    ],
    ids=["503", "429", "reset", "500"],
)
def test_an_outage_is_waited_out(
    outage: Behaviour, server: FaultServer, client: Leanbase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LONGEST_WAIT_SECONDS", 0.5)
    server.script(*[Behaviour()] * 3, *[outage] * 6)
    seen: list[Progress] = []
    report = import_events(rows(2000), client=client, on_progress=seen.append)
    assert (report.delivered, report.read) == (2000, 2000)
    delivered = [event["uuid"] for request in server.accepted for event in request.events]
    assert len(delivered) == len(set(delivered)) == 2000
    waiting = {each.waiting_for for each in seen if each.waiting_for}
    assert waiting, "the progress says what the import waits for"
    assert any("next try in" in each or "trying again" in each for each in waiting)


@pytest.mark.slow
def test_the_server_says_how_long_to_wait(server: FaultServer, client: Leanbase) -> None:
    server.script(Behaviour(status=429, headers={"Retry-After": "2"}))
    import_events(rows(10), client=client)
    first, second = server.requests
    assert second.at - first.at >= 2.0


@pytest.mark.slow
def test_while_the_server_is_away_one_lane_tries_again(server: FaultServer, client: Leanbase) -> None:
    server.always(Behaviour(status=503))

    def comes_back() -> None:
        time.sleep(3.0)
        server.always(Behaviour())

    threading.Thread(target=comes_back).start()
    assert import_events(rows(1000), client=client).delivered == 1000
    failed = len(server.requests) - len(server.accepted)
    assert failed <= 8 + 6, "each lane once, then one at a time with longer and longer waits"


@pytest.mark.slow
def test_a_server_that_is_away_from_the_start_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Leanbase("phc_test", f"http://127.0.0.1:{port}")
    seen: list[Progress] = []
    done: list[Any] = []
    thread = threading.Thread(
        target=lambda: done.append(import_events(rows(3), client=client, on_progress=seen.append))
    )
    thread.start()
    time.sleep(1.0)
    assert not done
    assert "ConnectionRefusedError" in (seen[-1].waiting_for or "")
    with LocalServer(port=port) as back:
        thread.join(20)
        assert len(back.store.events()) == 3
    assert done[0].delivered == 3


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_a_refused_key_stops_at_once(
    status: int, server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert import_events(rows(300), client=client, checkpoint=checkpoint).delivered == 300
    server.always(Behaviour(status=status, headers={"Location": "https://example.com/"}))
    before = len(server.requests)
    with pytest.raises(ImportStoppedError, match=str(status)) as stopped:
        import_events(
            [*rows(300), *(row(n) for n in range(5000, 9000))], client=client, checkpoint=checkpoint
        )
    assert (stopped.value.report.read, stopped.value.report.delivered) == (300, 300)
    assert len(server.requests) - before <= 8, "no more than were in flight"
    server.always(Behaviour())
    report = import_events([*rows(300), row(5000)], client=client, checkpoint=checkpoint)
    assert (report.read, report.delivered) == (301, 301)


def test_of_a_refused_batch_only_the_event_is_refused_that_is_at_fault(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    refusing(server, lambda event: event["properties"]["n"] == 42)
    report = import_events(rows(350), client=client, rejects=tmp_path / "rejects")
    assert (report.read, report.delivered, report.refused, report.rejected) == (350, 349, 1, 0)
    (line,) = map(json.loads, (tmp_path / "rejects").read_text().splitlines())
    assert line["row"] == 43
    assert line["reason"] == "the server responded with 400"
    arrived = {event["uuid"] for request in server.accepted for event in request.events}
    assert len(arrived) == 349


def refusing(server: FaultServer, is_refused: Any) -> None:
    """Let the server respond with 400 to each batch with such an event."""
    behave = server._behave

    def judged(connection: Any, behaviour: Behaviour, request: Request) -> bool:
        refused = any(is_refused(event) for event in request.events)
        return behave(connection, Behaviour(status=400) if refused else behaviour, request)

    server._behave = judged  # type: ignore[method-assign]


def test_a_few_refused_events_at_the_start_do_not_stop_the_import(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    refusing(server, lambda event: event["properties"]["n"] in (0, 1, 2, 500, 501))
    files: dict[str, Any] = {"rejects": tmp_path / "rejects", "checkpoint": tmp_path / "checkpoint"}
    report = import_events(rows(100), client=client, **files)
    assert (report.delivered, report.refused) == (97, 3)
    report = import_events([*rows(100), row(500), row(501)], client=client, **files)
    assert (report.read, report.delivered, report.refused) == (102, 97, 5), "a later run, all of it refused"


def test_a_server_that_refuses_every_event_of_the_first_batch_stops_the_import(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    server.always(Behaviour(status=400))
    with pytest.raises(ImportStoppedError, match="refuses every event of the first batch"):
        import_events(rows(500), client=client, checkpoint=tmp_path / "checkpoint")


def test_progress_of_a_broken_callback_and_of_a_good_one(
    client: Leanbase, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Progress] = []
    assert import_events(rows(3), client=client, on_progress=seen.append)
    assert seen[-1].report.delivered == 3

    def broken(_: Progress) -> None:
        raise RuntimeError("no")

    assert import_events(rows(3), client=client, on_progress=broken).delivered == 3
    assert "on_progress raised RuntimeError" in caplog.text


def test_rows_that_raise_end_the_import_with_what_was_passed_on(client: Leanbase, tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from rows(150)
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        import_events(failing(), client=client, checkpoint=tmp_path / "checkpoint")
    assert import_events(rows(160), client=client, checkpoint=tmp_path / "checkpoint").read == 160


@pytest.mark.parametrize("options", [{"disabled": True}, {"opted_out": True}, {"send": False}])
def test_a_client_that_sends_nothing_cannot_import(options: dict[str, Any], server: FaultServer) -> None:
    with pytest.raises(ConfigError, match="nothing can be imported"):
        import_events(rows(1), client=Leanbase("phc_test", server.url, **options))


def test_a_project_over_its_quota_stops_the_import(
    server: FaultServer, client: Leanbase, tmp_path: Path
) -> None:
    """The server accepts the events and discards them, so they do not count as delivered."""
    server.script(Behaviour())
    server.always(Behaviour(body=b'{"status": "Ok", "quota_limited": ["events"]}'))
    with pytest.raises(ImportStoppedError, match="over its quota") as stopped:
        import_events(rows(2000), client=client, checkpoint=tmp_path / "checkpoint")
    assert stopped.value.report.delivered <= 100
    server.always(Behaviour())
    assert import_events(rows(2000), client=client, checkpoint=tmp_path / "checkpoint").delivered == 2000


def test_rejects_that_cannot_be_written_stop_the_import(client: Leanbase, tmp_path: Path) -> None:
    given = [*rows(5), {"event": "e"}]
    with pytest.raises(ImportStoppedError, match="/dev/full cannot be written: No space left on device"):
        import_events(given, client=client, rejects="/dev/full", checkpoint=tmp_path / "checkpoint")
    report = import_events(given, client=client, rejects=tmp_path / "r", checkpoint=tmp_path / "checkpoint")
    assert (report.read, report.rejected) == (6, 1)


def test_a_file_of_rejects_that_was_removed_begins_again(client: Leanbase, tmp_path: Path) -> None:
    files: dict[str, Any] = {"rejects": tmp_path / "rejects", "checkpoint": tmp_path / "checkpoint"}
    import_events([{"event": "first"}], client=client, **files)
    files["rejects"].unlink()
    import_events([{"event": "first"}, {"event": "second"}], client=client, **files)
    (line,) = map(json.loads, files["rejects"].read_text().splitlines())
    assert line["content"] == {"event": "second"}


def test_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="set LEANBASE_API_KEY and LEANBASE_HOST"):
        import_events(rows(1))


def test_a_buffered_client_imports_without_its_buffer(server: FaultServer) -> None:
    client = Leanbase("phc_test", server.url, sync_mode=False, fallback="spool", spool_directory="/no/such")
    assert (
        import_events(rows(3), client=Leanbase("phc_test", server.url, transport="buffered")).delivered == 3
    )
    assert import_events(rows(3), client=client).delivered == 3
    assert len(server.events) == 6


def test_memory_stays_flat(client: Leanbase) -> None:
    import tracemalloc

    def many() -> Iterator[dict[str, Any]]:
        for number in range(20_000):
            yield row(number)
            if number == 2000:
                tracemalloc.start()

    import_events(many(), client=client)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    server_side = 20_000 * 800  # the test's server keeps what it gets
    assert peak < 8 * 2**20 + server_side


def test_an_interrupt_saves_the_checkpoint(server: FaultServer, client: Leanbase, tmp_path: Path) -> None:
    def interrupted() -> Iterator[dict[str, Any]]:
        yield from rows(450)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_events(interrupted(), client=client, checkpoint=tmp_path / "checkpoint")
    before = len(server.events)
    report = import_events(rows(500), client=client, checkpoint=tmp_path / "checkpoint")
    assert report.read == 500
    assert len(server.events) - before < 500
    assert len(set(uuids(server))) == 500


def test_timestamps(server: FaultServer, client: Leanbase) -> None:
    given = {
        "2024-02-29T12:00:00Z": "2024-02-29T12:00:00+00:00",
        "2024-02-29 12:00:00.5": "2024-02-29T12:00:00.500000+00:00",
        "2024-02-29T12:00:00+05:30": "2024-02-29T06:30:00+00:00",
        "1709208000": "2024-02-29T12:00:00+00:00",
        "1709208000123": "2024-02-29T12:00:00.123000+00:00",
        "20240229": "2024-02-29T00:00:00+00:00",
        "2024-W09-4": "2024-02-29T00:00:00+00:00",
        "2024-02-29T24:00": "2024-03-01T00:00:00+00:00",
        " 2024-02-29 ": "2024-02-29T00:00:00+00:00",
    }
    report = import_events([row(timestamp=each) for each in given], client=client)
    assert report.delivered == len(given)
    assert [event["timestamp"] for event in server.events] == list(given.values())
    assert WHEN in given


def test_nothing_is_left_open(client: Leanbase, tmp_path: Path) -> None:
    import_events(rows(3), client=client, checkpoint=tmp_path / "checkpoint")
    assert not [each for each in threading.enumerate() if each.name.startswith("leanbase-import")]
    assert not [name for name in os.listdir("/proc/self/fd") if "checkpoint" in _target(name)]


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
