"""`leanbase replay`: a spool is emptied beside live writers, with a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leanbase import Leanbase
from leanbase.cli import main
from leanbase.cli.parsing import PROGRAM
from tests.support.fault_server import Behaviour, FaultServer

WRITER = """
import sys
from leanbase import Leanbase
client = Leanbase("phc_test", sys.argv[1], transport="spool", spool_directory=sys.argv[2], send_deadline=0.2, max_retries=0)
for number in range(int(sys.argv[3])):
    client.capture("spooled", distinct_id="u", properties={"n": number})
print("written", flush=True)
sys.stdin.readline()
import os
os._exit(0)
"""


@pytest.fixture
def spool(tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")
    monkeypatch.setenv("LEANBASE_MAX_RETRIES", "0")
    return tmp_path / "spool"


def writer(server: FaultServer, spool: Path, events: int) -> subprocess.Popen[str]:
    """A process that has spooled events, and lives until it gets a line."""
    command = [sys.executable, "-c", WRITER, server.url, str(spool), str(events)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=10)


@pytest.fixture
def away(server: FaultServer) -> None:
    server.always(Behaviour(status=503))


@pytest.mark.slow
def test_what_ended_processes_left_is_sent_beside_a_live_one(
    away: None, server: FaultServer, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, live = writer(server, spool, 5), writer(server, spool, 3)
    end(ended)
    server.always(Behaviour())
    before = len(server.accepted)
    assert main(["replay", "--directory", str(spool)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("5 events sent, 0 refused\n1 file(s) with ")
    assert output.endswith(" bytes are in use by running processes\n")
    assert sum(len(each.events) for each in server.accepted[before:]) == 5
    end(live)
    assert main(["replay", "--directory", str(spool), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "directory": str(spool),
        "delivered": 3,
        "refused": 0,
        "left_files": 0,
        "left_bytes": 0,
        "files_of_other_projects": 0,
        "reasons": [],
    }


@pytest.mark.slow
def test_a_server_that_is_away_is_1_and_nothing_is_lost(
    away: None, server: FaultServer, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end(writer(server, spool, 4))
    assert main(["replay", "--directory", str(spool)]) == 1
    output = capsys.readouterr()
    assert "0 events sent, 0 refused" in output.out
    assert "are still stored" in output.out
    assert output.err == "leanbase: the server responded with 503\n"
    server.always(Behaviour())
    assert main(["replay", "--directory", str(spool)]) == 0


@pytest.mark.slow
def test_refused_events_are_1(
    away: None, server: FaultServer, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end(writer(server, spool, 4))
    server.always(Behaviour(status=400))
    assert main(["replay", "--directory", str(spool)]) == 1
    assert "0 events sent, 4 refused" in capsys.readouterr().out


@pytest.mark.slow
def test_a_rejected_key_keeps_the_events(
    away: None, server: FaultServer, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end(writer(server, spool, 4))
    server.always(Behaviour(status=401))
    assert main(["replay", "--directory", str(spool)]) == 1
    output = capsys.readouterr()
    assert "0 events sent, 0 refused" in output.out
    assert "the API key was rejected" in output.err
    server.always(Behaviour())
    assert main(["replay", "--directory", str(spool)]) == 0
    assert "4 events sent" in capsys.readouterr().out


@pytest.mark.slow
def test_files_of_another_project_are_left_to_it(
    away: None,
    server: FaultServer,
    spool: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end(writer(server, spool, 2))
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_other")
    server.always(Behaviour())
    assert main(["replay", "--directory", str(spool)]) == 0
    assert capsys.readouterr().out == (
        "0 events sent, 0 refused\n1 file(s) belong to another key or host; replay them with its settings\n"
    )
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")
    assert main(["replay", "--directory", str(spool)]) == 0
    assert "2 events sent" in capsys.readouterr().out


def test_what_replay_needs(
    spool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--directory", str(spool)]) == 1
    assert f"there is no directory {spool}" in capsys.readouterr().err
    monkeypatch.delenv("LEANBASE_HOST")
    assert main(["replay", "--directory", str(spool)]) == 1
    assert capsys.readouterr().err == f"{PROGRAM}: set LEANBASE_HOST\n"
    assert not spool.exists()


@pytest.mark.slow
def test_many_events_are_sent_in_several_requests(
    server: FaultServer, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.always(Behaviour(status=503))
    client = Leanbase("phc_test", server.url, transport="spool", spool_directory=str(spool), max_retries=0)
    with client.delivery_scope():
        for _ in range(1200):
            client.capture("e", distinct_id="u")
    client.shutdown(timeout=0.5)
    server.always(Behaviour())
    assert main(["replay", "--directory", str(spool)]) == 0
    assert "1,200 events sent" in capsys.readouterr().out
    assert os.listdir(spool) == []
