"""`leanbase capture` and `leanbase local`, and what all commands share."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from leanbase.cli import COMMANDS, main
from tests.support.fault_server import Behaviour, FaultServer


@pytest.fixture
def configured(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")
    monkeypatch.setenv("LEANBASE_MAX_RETRIES", "0")
    return server


def test_capture(configured: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "-p",
        "version=1.4.2",
        "-p",
        "seconds=42",
        "-p",
        "ok=true",
        "-p",
        "equation=a=b",
        "-p",
        "ratio=NaN",
        "--group",
        "company=acme",
    ]
    when = ["--timestamp", "2024-02-29T12:00:00Z", "--uuid", "0198c0de-0000-7000-8000-000000000abc"]
    assert main(["capture", "deploy finished", "--distinct-id", "ci", *options, *when]) == 0
    (event,) = configured.events
    assert capsys.readouterr().out == f"{event['uuid']}\n"
    assert (event["event"], event["distinct_id"], event["timestamp"]) == (
        "deploy finished",
        "ci",
        "2024-02-29T12:00:00+00:00",
    )
    expected = {
        "version": "1.4.2",
        "seconds": 42,
        "ok": True,
        "equation": "a=b",
        "ratio": "NaN",
        "$groups": {"company": "acme"},
    }
    assert {name: event["properties"][name] for name in expected} == expected


def test_capture_without_a_person(configured: FaultServer) -> None:
    assert main(["capture", "e"]) == 0
    assert configured.events[0]["properties"]["$process_person_profile"] is False


@pytest.mark.parametrize(
    ("arguments", "behaviour", "message"),
    [
        (["e"], Behaviour(status=401), "the API key was rejected"),
        (["e"], Behaviour(status=503), "the server responded with 503"),
        ([" "], Behaviour(), "it is not valid"),
    ],
)
def test_capture_exits_1_if_the_event_did_not_arrive(
    arguments: list[str],
    behaviour: Behaviour,
    message: str,
    configured: FaultServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configured.always(behaviour)
    assert main(["capture", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "oops"], "-p needs a name and a value with = between them"),
        (["--timestamp", "yesterday"], "--timestamp must be like 2026-01-02T03:04:05Z"),
        (["--uuid", "nope"], "--uuid must be a UUID"),
    ],
)
def test_wrong_usage_of_capture_is_2(
    arguments: list[str], message: str, configured: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", "e", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert configured.events == []


def test_a_value_that_is_nested_without_end_is_a_string(configured: FaultServer) -> None:
    assert main(["capture", "e", "-p", "x=" + "[" * 100_000]) == 0


def test_capture_without_a_key_points_to_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "e"]) == 1
    assert "leanbase doctor says why" in capsys.readouterr().err


@pytest.mark.slow
def test_local(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "leanbase",
        "local",
        "--port",
        "0",
        "--database",
        str(tmp_path / "events.db"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://[\w.:]+", process.stdout.readline())
        assert found
        with urllib.request.urlopen(f"{found[0]}/events", timeout=10) as response:
            assert json.load(response) == {"events": []}
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert (tmp_path / "events.db").stat().st_mode & 0o777 == 0o600


def test_local_says_why_it_cannot_start(
    server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.db").write_text("not a database, but a text that is long enough to be read as one" * 20)
    assert main(["local", "--database", str(tmp_path / "no.db")]) == 1
    assert "no.db cannot be used: file is not a database" in capsys.readouterr().err
    assert main(["local", "--port", str(server.port)]) == 1
    assert "Address already in use; --port 0 takes a free one" in capsys.readouterr().err


@pytest.mark.parametrize("name", [each.__name__.rpartition(".")[2] for each in COMMANDS])
def test_each_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = {"historical": ["import"], "flags": ["flags", "eval"]}.get(name, [name])
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert re.search(r"^examples?:\n  .*leanbase ", output, re.MULTILINE)


def test_quiet_before_or_after_the_command(
    configured: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--quiet", "doctor"], ["doctor", "--quiet"]):
        main(arguments)
        assert capsys.readouterr().out.count("ok ") == 0
