"""`leanbase flags`, as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leanbase.cli import main
from tests.feature_flags.conftest import PRO, FlagServer, flag, flags

__all__ = ["flags"]

CHECKOUT = {
    "groups": [
        {"properties": [PRO], "rollout_percentage": 0},
        {"properties": [{"key": "country", "value": ["DE", "FR"], "operator": "exact", "type": "person"}]},
    ],
    "multivariate": {"variants": [{"key": "blue", "rollout_percentage": 50}, {"key": "green", "rollout_percentage": 50}]},
    "payloads": {"green": '{"copy": "new"}'},
}  # fmt: skip
STICKY = flag("sticky", ensure_experience_continuity=True)
STATIC = flag("static", {"groups": [{"properties": [{"key": "id", "type": "cohort", "value": 99}]}]})
NEWER = {"key": "plan", "value": "x", "operator": "resembles", "type": "person"}
PARTLY = flag("partly", {"groups": [{"properties": [NEWER]}, {}]})


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"flags": [flag("checkout", CHECKOUT), flag("beta")]}))
    return f"file:{path}"


@pytest.mark.slow
def test_it_is_a_program_and_a_module(flags: FlagServer, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LEANBASE_HOST": flags.url,
        "LEANBASE_API_KEY": "phc_test",
        "LEANBASE_SECRET_KEY": "phs_secret",
    }
    output = tmp_path / "flags.json"
    command = [sys.executable, "-m", "leanbase", "flags", "pull", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"1 flags in {output}, ")
    found = json.loads(output.read_text())
    assert found["etag"] == '"v1"'
    assert [each["key"] for each in found["definitions"]["flags"]] == ["beta"]
    assert [each.name for each in tmp_path.iterdir()] == ["flags.json"], "no file is left beside it"
    program = Path(sys.executable).parent / "leanbase"
    version = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("leanbase 3.")


def test_pull_to_standard_output(
    flags: FlagServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flags", "pull"]) == 1
    assert "set LEANBASE_HOST and LEANBASE_API_KEY and LEANBASE_SECRET_KEY" in capsys.readouterr().err
    for name, value in {"HOST": flags.url, "API_KEY": "phc_test", "SECRET_KEY": "phs_secret"}.items():
        monkeypatch.setenv(f"LEANBASE_{name}", value)
    assert main(["flags", "pull"]) == 0
    assert json.loads(capsys.readouterr().out)["leanbase_flags"] == 1
    flags.serve_definitions(status=401)
    assert main(["flags", "pull"]) == 1
    error = capsys.readouterr().err
    assert "secret_key is not valid for this project" in error
    assert "phs_secret" not in error
    flags.serve_definitions(status=404)
    assert main(["flags", "pull"]) == 1
    assert "it has no flag definitions; check host (a local server needs --flags)" in capsys.readouterr().err
    assert main(["flags", "pull", "--output", "/no/such/folder/flags.json"]) == 1


def test_eval_shows_each_step(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--distinct-id",
        "user-123",
        "--person-property",
        "plan=pro",
        "--person-property",
        "country=DE",
    ]
    assert main(["flags", "eval", "checkout", "--definitions", bundle, *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "checkout = green",
        "  it is about the person 'user-123'",
        "  condition 1 of 2",
        '    plan exact "pro", given "pro": matches',
        "    rollout to 0.00 %, the hash of 'user-123' is 50.79 %: out",
        "  condition 2 of 2",
        '    country exact ["DE", "FR"], given "DE": matches',
        "    the hash for the variant is 83.34 %",
        '  payload: {"copy": "new"}',
    ]


def test_eval_says_what_is_missing(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flags", "eval", "checkout", "--definitions", bundle, "--distinct-id", "u"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("checkout = undecided: the server is asked\n")
    assert "given nothing: undecided (missing_context)" in out
    assert main(["flags", "eval", "gone", "--definitions", bundle, "--distinct-id", "u"]) == 1
    assert "there is no flag 'gone'; there are beta, checkout" in capsys.readouterr().err
    wrong = ["--distinct-id", "u", "--person-property", "plan"]
    assert main(["flags", "eval", "beta", "--definitions", bundle, *wrong]) == 2
    assert "--person-property needs a name and a value with = between them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "lines"),
    [
        ([], 0, ["2 flags; 0 can never be decided here"]),
        (
            [STICKY, STATIC, PARTLY],
            1,
            [
                "partly: may need the server: a filter, cohort or group type in it is not known here",
                "static: only the server decides it: a filter, cohort or group type in it is not known here",
                "sticky: only the server decides it: persons keep the value that they were given before",
                "5 flags; 2 can never be decided here",
            ],
        ),
    ],
)
def test_check_finds_flags_that_only_the_server_decides(
    more: list[Any], code: int, lines: list[str], bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(bundle.removeprefix("file:"))
    path.write_text(json.dumps({"flags": [flag("checkout", CHECKOUT), flag("beta"), *more]}))
    assert main(["flags", "check", "--definitions", bundle]) == code
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("arguments", [["flags"], ["nothing"], ["flags", "eval"], []])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: leanbase" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["pull", "check", "eval"])
def test_each_action_has_an_example(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["flags", action, "--help"])
    assert "example:" in capsys.readouterr().out
