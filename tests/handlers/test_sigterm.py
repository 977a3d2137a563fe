"""SIGTERM in processes of their own: what is sent, by when, and who has the signal afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import leanbase
from leanbase.handlers.sigterm import grace_seconds
from tests.support.fault_server import Behaviour, FaultServer, black_hole

SCRIPT = """
import asyncio, os, signal, sys, threading, time
import leanbase
{before}
assert leanbase.install_sigterm_handler()
{body}
print("ready", flush=True)
{wait}
print("went on", flush=True)
"""
# Many short sleeps: CPython does not wake from one that a signal comes just before.
WAIT = "for _ in range(400): time.sleep(0.05)"
CAPTURE_IN_SCOPE = (
    "scope = leanbase.delivery_scope()\nscope.__enter__()\nleanbase.capture('collected', distinct_id='u')"
)


def terminated(
    url: str, body: str, before: str = "", wait: str = WAIT, **environment: str
) -> tuple[int, str, float]:
    """Run, SIGTERM, and what came of it: exit code, output, and how long that took."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body, before=before, wait=wait)],
        env={**os.environ, "LEANBASE_API_KEY": "k", "LEANBASE_HOST": url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=40)
    return process.returncode, output + errors, time.monotonic() - began


@pytest.mark.parametrize(
    ("variable", "seconds"),
    [
        ("AWS_LAMBDA_FUNCTION_NAME", 0.24),
        ("VERCEL", 0.4),
        ("K_SERVICE", 8.0),
        ("CLOUD_RUN_JOB", 8.0),
        ("RENDER", 24.0),
        ("ANYTHING", 8.0),
    ],
)
def test_the_platform_is_recognised(variable: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VERCEL", "K_SERVICE", "CLOUD_RUN_JOB", "RENDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    assert grace_seconds() == pytest.approx(seconds)


def test_what_an_open_scope_collected_is_sent(server: FaultServer) -> None:
    code, _, _ = terminated(server.url, CAPTURE_IN_SCOPE)
    assert code == -signal.SIGTERM
    assert [event["event"] for event in server.events] == ["collected"]


def test_what_a_buffer_holds_is_sent(server: FaultServer) -> None:
    code, _, _ = terminated(
        server.url, "leanbase.capture('buffered', distinct_id='u')", LEANBASE_SYNC_MODE="false"
    )
    assert code == -signal.SIGTERM
    assert [event["event"] for event in server.events] == ["buffered"]


def test_what_was_retained_is_sent(server: FaultServer) -> None:
    server.script(Behaviour(status=503))
    code, _, _ = terminated(
        server.url, "leanbase.capture('retained', distinct_id='u')", LEANBASE_MAX_RETRIES="0"
    )
    assert code == -signal.SIGTERM
    assert len(server.requests) == 2


def test_of_another_client_as_well(server: FaultServer) -> None:
    before = "mine = leanbase.Leanbase('k', sync_mode=False)\nleanbase.install_sigterm_handler(mine)"
    code, _, _ = terminated(server.url, "mine.capture('of mine', distinct_id='u')", before)
    assert code == -signal.SIGTERM
    assert [event["event"] for event in server.events] == ["of mine"]


@pytest.mark.parametrize("fallback", ["spool", "spool, written first", "log", "none"])
def test_what_cannot_be_sent_in_time_goes_to_the_fallback(fallback: str, tmp_path: Path) -> None:
    """And the process ends within the grace of its platform."""
    ways = {
        "spool": {"LEANBASE_FALLBACK": "spool"},
        "spool, written first": {"LEANBASE_TRANSPORT": "spool"},
        "log": {"LEANBASE_FALLBACK": "log"},
        "none": {},
    }
    spool = tmp_path / "spool"
    with black_hole() as hole:
        code, output, took = terminated(
            f"http://127.0.0.1:{hole.getsockname()[1]}",
            CAPTURE_IN_SCOPE,
            LEANBASE_SPOOL_DIRECTORY=str(spool),
            VERCEL="1",
            **ways[fallback],
        )
    assert code == -signal.SIGTERM
    assert took < 3  # the grace is 0.5 s, the machine may be slow
    on_disk = "".join(path.read_text() for path in spool.glob("*.spool"))
    assert ('"collected"' in on_disk) == fallback.startswith("spool")
    assert ('"collected"' in output) == (fallback == "log")
    assert ("1 event(s) could not be delivered and will be lost" in output) == (fallback == "none")


def test_the_previous_handler_has_its_turn_when_the_events_are_sent(server: FaultServer) -> None:
    before = """
def mine(number, frame):
    print("mine", threading.current_thread() is threading.main_thread(), flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, mine)
"""
    code, output, _ = terminated(server.url, CAPTURE_IN_SCOPE, before)
    assert code == 3
    assert "mine True" in output
    assert len(server.events) == 1


@pytest.mark.slow
def test_one_that_goes_on_is_asked_each_time(server: FaultServer) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))"
    wait = "time.sleep(1)\nleanbase.capture('later', distinct_id='u')\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(1)"
    code, output, _ = terminated(server.url, CAPTURE_IN_SCOPE, before, wait)
    assert code == 0
    assert output.count("mine") == 2
    assert "went on" in output
    assert [event["event"] for event in server.events] == ["collected", "later"]


def test_a_signal_that_was_ignored_stays_ignored(server: FaultServer) -> None:
    before = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code, output, _ = terminated(server.url, CAPTURE_IN_SCOPE, before, "time.sleep(1)")
    assert (code, "went on" in output) == (0, True)
    assert len(server.events) == 1


@pytest.mark.slow
def test_an_event_loop_that_handles_it_ends_as_it_would(server: FaultServer) -> None:
    wait = """
async def main():
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: (print("heard"), done.set()))
    leanbase.install_sigterm_handler()
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.sleep(0.5)
    with leanbase.delivery_scope():
        leanbase.capture("later", distinct_id="u")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(1)
        print("sent at the second signal:", leanbase.stats()["delivered"])
asyncio.run(main())
"""
    body = CAPTURE_IN_SCOPE + "\nthreading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()"
    code, output = terminated_by_itself(server.url, body, wait)
    assert (code, "went on" in output) == (0, True)
    assert output.count("heard") == 2
    assert "sent at the second signal: 2" in output
    assert len(server.events) == 2


def terminated_by_itself(url: str, body: str, wait: str) -> tuple[int, str]:
    script = SCRIPT.format(body=body, before="", wait=wait)
    environment = {**os.environ, "LEANBASE_API_KEY": "k", "LEANBASE_HOST": url}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=40
    )
    return done.returncode, done.stdout + done.stderr


def test_a_second_signal_does_not_wait(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    body = CAPTURE_IN_SCOPE + "\nthreading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()"
    code, _, took = terminated(server.url, body)
    assert code == -signal.SIGTERM
    assert took < 5


def test_a_forked_child_dies_of_it_and_leaves_the_parents_events_alone(server: FaultServer) -> None:
    wait = """
there, here = os.pipe()
pid = os.fork()
if not pid:
    os.write(here, b"1")
    for _ in range(200):  # a signal just before a sleep is only heard after it
        time.sleep(0.05)
    os._exit(9)
os.read(there, 1)  # CPython forgets a signal that comes in the middle of a fork
os.kill(pid, signal.SIGTERM)
print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
    code, output = terminated_by_itself(server.url, CAPTURE_IN_SCOPE, wait)
    assert (code, "child -15" in output) == (0, True)
    assert server.events == []


def test_the_module_s_function_in_a_thread_says_no() -> None:
    import threading

    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(leanbase.install_sigterm_handler()))
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.slow
def test_a_scope_that_ends_during_the_flush_does_not_take_its_events_with_it(tmp_path: Path) -> None:
    """Nor does the program, which would end before the fallback has them."""
    with black_hole() as hole:
        code, _, _ = terminated(
            f"http://127.0.0.1:{hole.getsockname()[1]}",
            CAPTURE_IN_SCOPE,
            wait="for _ in range(20): time.sleep(0.05)\nscope.__exit__()",
            LEANBASE_FALLBACK="spool",
            LEANBASE_SPOOL_DIRECTORY=str(tmp_path / "spool"),
            K_SERVICE="orders",
            LEANBASE_SEND_DEADLINE="3",
        )
    assert code == -signal.SIGTERM
    assert '"collected"' in "".join(path.read_text() for path in (tmp_path / "spool").glob("*.spool"))


def test_one_that_calls_us_back_is_no_loop(server: FaultServer) -> None:
    """Installed in front of ours, and ours in front of it once more."""
    before = """
leanbase.install_sigterm_handler()
ours = signal.getsignal(signal.SIGTERM)
def theirs(number, frame):
    print("theirs", flush=True)
    ours(number, frame)
signal.signal(signal.SIGTERM, theirs)
"""
    code, output, _ = terminated(server.url, CAPTURE_IN_SCOPE, before)
    assert code == -signal.SIGTERM
    assert output.count("theirs") == 1
    assert len(server.events) == 1


def test_wrong_use_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert not leanbase.install_sigterm_handler("client")  # type: ignore[arg-type]
    assert "client must be a Leanbase, not str" in caplog.text


@pytest.mark.slow
def test_a_program_that_outlives_its_grace_sends_as_before(server: FaultServer) -> None:
    """The limit of the flush is not one of the scopes that were open."""
    body = """
os.environ["VERCEL"] = "1"  # a grace of 0.5 s
signal.signal(signal.SIGTERM, lambda *_: None)
@leanbase.job
def main():
    leanbase.capture("before", distinct_id="u")
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(30): time.sleep(0.05)
    leanbase.capture("after", distinct_id="u")
main()
"""
    code, output = terminated_by_itself(server.url, body, "print(leanbase.stats())")
    assert (code, "not delivered" in output) == (0, False), output
    assert [event["event"] for event in server.events] == ["before", "after"]
