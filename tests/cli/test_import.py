"""`leanbase import` as a process: its output, its exit codes, a terminal, and kills."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase.cli import main
from leanbase.local.server import LocalServer
from tests.support.fault_server import Behaviour, FaultServer

KEY = "phc_do_not_show_this"


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    return written(tmp_path / "events.csv", 300)


def written(path: Path, rows: int) -> Path:
    lines = [f"order,user_{n % 50},{1709208000 + n},{n}" for n in range(rows)]
    path.write_text("event,distinct_id,timestamp,n\n" + "\n".join(lines) + "\n")
    return path


def environment(url: str, **more: str) -> dict[str, str]:
    return {**os.environ, "LEANBASE_HOST": url, "LEANBASE_API_KEY": KEY, **more}


def run(url: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leanbase", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(url, **more), timeout=60
    )


@pytest.mark.slow
def test_the_last_lines_say_what_became_of_the_rows(server: FaultServer, csv_file: Path) -> None:
    with csv_file.open("a") as file:
        file.write(",user_1,1709208000,1\norder,,1709208000,1\n")
    done = run(server.url, "import", str(csv_file))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "302 rows read: 300 delivered, 0 refused, 2 rejected",
        "  1 row(s): the event name must be a non-empty string, not a blank string (row 301)",
        "  1 row(s): the row has no person: its distinct_id is missing or blank (row 302)",
        f"rows that were not imported: {csv_file}.rejects.jsonl",
        f"checkpoint: {csv_file}.checkpoint",
    ]
    assert done.stderr == ""
    again = run(server.url, "import", "--allow-rejects", "--json", str(csv_file))
    assert again.returncode == 0
    assert json.loads(again.stdout) == {
        "read": 302,
        "delivered": 300,
        "handed_off": 0,
        "refused": 0,
        "rejected": 2,
        "files": {"checkpoint": f"{csv_file}.checkpoint", "rejects": f"{csv_file}.rejects.jsonl"},
        "dry_run": False,
        "reasons": [],  # the earlier run has named them
    }
    assert len(server.events) == 300


def test_a_dry_run_names_the_first_rows_for_each_reason(
    csv_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with csv_file.open("a") as file:
        file.write("order,,1709208000,1\n" * 5)
    assert main(["import", "--dry-run", str(csv_file)]) == 1
    reason = "the row has no person: its distinct_id is missing or blank"
    assert f"  5 row(s): {reason} (rows 301, 302, 303, …)\n" in capsys.readouterr().out
    assert main(["import", "--dry-run", "--json", str(csv_file)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["would_be_sent"], report["rejected"]) == (300, 5)
    assert "delivered" not in report
    assert report["files"] == {}
    rows = [[number, str(csv_file)] for number in (301, 302, 303)]
    assert report["reasons"] == [{"reason": reason, "rows": 5, "first_rows": rows}]


def test_a_dry_run_sends_and_writes_nothing(
    csv_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "--dry-run", str(csv_file)]) == 0
    assert capsys.readouterr().out == "300 rows read: 300 would be sent, 0 refused, 0 rejected\n"
    assert [each.name for each in csv_file.parent.iterdir()] == ["events.csv"]


@pytest.mark.slow
def test_wrong_usage_is_2_and_other_failures_1(server: FaultServer, csv_file: Path) -> None:
    assert run(server.url, "import").returncode == 2
    assert run(server.url, "import", "--format", "xml", str(csv_file)).returncode == 2
    assert run(server.url, "import", "--event", "a", "--event-column", "b", str(csv_file)).returncode == 2
    done = run("", "import", str(csv_file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "leanbase: set LEANBASE_HOST\n"


@pytest.mark.slow
def test_a_refused_key_is_said_and_not_shown(server: FaultServer, csv_file: Path) -> None:
    server.always(Behaviour(status=401))
    done = run(server.url, "import", str(csv_file))
    assert done.returncode == 1
    assert (
        done.stderr
        == "leanbase: the import stopped: the server responded with 401: the API key was rejected\n"
    )
    assert done.stdout.startswith("0 rows read: 0 delivered, 0 refused, 0 rejected\n")
    assert KEY not in done.stdout


@pytest.mark.slow
def test_without_a_terminal_an_outage_is_one_line(server: FaultServer, csv_file: Path) -> None:
    server.script(*[Behaviour(status=503, headers={"Retry-After": "1"})] * 2)
    done = run(server.url, "import", str(csv_file))
    assert done.returncode == 0
    assert re.fullmatch(r"\d+ rows  waiting: the server responded with 503; .*\n", done.stderr)
    assert "\x1b" not in done.stdout + done.stderr
    assert run(server.url, "--quiet", "import", str(csv_file)).stderr == ""


def in_terminal(url: str, *arguments: str, **more: str) -> tuple[int, str]:
    """Run the command with a terminal of 80 columns; give its exit code and all that was written to it."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(environment(url, TERM="xterm", COLUMNS="80", **more))
        os.execv(sys.executable, [sys.executable, "-m", "leanbase", *arguments])
    written = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:
                break
            if not part:
                break
            written += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode()


@pytest.mark.slow
def test_a_terminal_shows_a_bar(server: FaultServer, tmp_path: Path) -> None:
    server.always(Behaviour(delay=0.1))
    server.script(*[Behaviour()] * 20, *[Behaviour(status=503, headers={"Retry-After": "1"})] * 3)
    path = written(tmp_path / "events.csv", 12_000)
    code, output = in_terminal(server.url, "import", str(path))
    assert code == 0
    drawn = output.split("\r\x1b[K")
    assert any(re.match(r" *\d+% █+░+  [\d,]+ rows  [\d,]+/s  \d+:\d\d left$", each) for each in drawn), drawn
    assert any("waiting: the server responded with 503; next try in 1 s" in each for each in drawn)
    assert all(len(each.splitlines()[0]) < 80 for each in drawn[:-1] if each), "it stays on its line"
    assert drawn[-1].splitlines()[0] == "12,000 rows read: 12,000 delivered, 0 refused, 0 rejected"


@pytest.mark.slow
def test_colours_only_on_a_terminal_and_never_with_no_color(server: FaultServer) -> None:
    code, output = in_terminal("http://127.0.0.1:9", "doctor")
    assert code == 1
    assert "\x1b[31mfailed\x1b[0m" in output
    code, output = in_terminal("http://127.0.0.1:9", "doctor", NO_COLOR="1")
    assert code == 1
    assert "\x1b" not in output
    assert "\x1b" not in run("http://127.0.0.1:9", "doctor").stdout


@pytest.mark.slow
def test_an_interrupt_is_130_and_the_same_command_continues(server: FaultServer, tmp_path: Path) -> None:
    path = written(tmp_path / "events.csv", 20_000)
    server.always(Behaviour(delay=0.05))
    command = [sys.executable, "-m", "leanbase", "import", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(server.url)
    ) as process:
        while len(server.requests) < 30:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.endswith("leanbase: interrupted; the same command continues\n")
    read = int(output.split(" ")[0].replace(",", ""))
    assert 2000 <= read < 20_000
    server.always(Behaviour())
    assert run(server.url, "import", str(path)).returncode == 0
    assert Counter(event["uuid"] for event in server.events).total() < 20_000 + 2000
    assert len({event["uuid"] for event in server.events}) == 20_000


@pytest.mark.slow
def test_interrupted_at_any_moment_and_resumed_the_numbers_are_right(tmp_path: Path) -> None:
    """An interrupt is an exception between any two instructions; what was noted is noted once."""
    rows = 30_000
    path = tmp_path / "events.csv"
    lines = [f"order,user_{n % 50},{1709208000 + n // 3},x" for n in range(rows - 600)]
    lines += [f",user_{n},1709208000,x" for n in range(600)]
    random.Random(5).shuffle(lines)
    path.write_text("event,distinct_id,timestamp,n\n" + "\n".join(lines) + "\n")
    dice = random.Random(11)
    command = [sys.executable, "-m", "leanbase", "--quiet", "import", "--allow-rejects", str(path)]
    codes = []
    with LocalServer() as server:
        for _ in range(15):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(server.url)
            )
            time.sleep(dice.uniform(0.35, 0.6))
            process.send_signal(signal.SIGINT)
            codes.append(process.wait(20))
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(server.url)
        )
        assert f"{rows:,} rows read: {rows - 600:,} delivered, 0 refused, 600 rejected" in done.stdout
        events = server.store.events()
    assert codes.count(130) >= 5
    assert len(events) == len({each["uuid"] for each in events}) == rows - 600
    rejects = Path(f"{path}.rejects.jsonl").read_text().splitlines()
    assert len({json.loads(line)["row"] for line in rejects}) == len(rejects) == 600


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_each_row_arrives_and_counts_once(tmp_path: Path) -> None:
    """Twenty kills, each at a random moment; rows repeat, so that occurrences have to be counted, too."""
    rows = 60_000
    path = tmp_path / "events.csv"
    lines = [f"order,user_{n % 50},{1709208000 + n // 3},x" for n in range(rows - 100)]
    lines += [f",user_{n},1709208000,x" for n in range(100)]
    random.Random(5).shuffle(lines)
    path.write_text("event,distinct_id,timestamp,n\n" + "\n".join(lines) + "\n")
    dice = random.Random(7)
    command = [sys.executable, "-m", "leanbase", "--quiet", "import", "--allow-rejects", str(path)]
    kills = 0
    with LocalServer() as server:
        while kills < 20:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment(server.url))
            try:
                process.wait(timeout=dice.uniform(0.2, 0.55))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
            else:
                assert process.returncode == 0
                break
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(server.url)
        )
        assert done.returncode == 0, done.stderr
        assert f"{rows:,} rows read: {rows - 100:,} delivered, 0 refused, 100 rejected" in done.stdout
        events = [(each["uuid"], each["timestamp"], each["distinct_id"]) for each in arrived(server)]
    assert kills == 20
    assert len(events) == len(set(events)) == len({uuid for uuid, *_ in events}) == rows - 100
    rejects = Path(f"{path}.rejects.jsonl").read_text().splitlines()
    assert len({json.loads(line)["row"] for line in rejects}) == len(rejects) == 100


def arrived(server: LocalServer) -> Iterator[dict[str, Any]]:
    yield from server.store.events()
