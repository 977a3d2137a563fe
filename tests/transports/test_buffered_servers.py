"""The buffer under the servers that fork and patch: gunicorn and gevent, for real."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_server import FaultServer
from tests.transports.test_buffered import run

APP = """
import os, leanbase
client = leanbase.Leanbase("k", os.environ["INGESTION"], sync_mode=False, flush_interval=float(os.environ["INTERVAL"]))
client.capture("loaded", distinct_id="u")

def app(environ, start_response):
    assert client.capture("request", distinct_id="u", properties={"pid": os.getpid()})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"thanks"]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def gunicorn(path: Path, server: FaultServer, *options: str, interval: float) -> Any:
    """A gunicorn that serves `APP`; ended as a platform does it."""
    (path / "app.py").write_text(APP)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *options, "app:app"],
        cwd=path,
        env={**os.environ, "INGESTION": server.url, "INTERVAL": str(interval), "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def get() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read() == b"thanks"

    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, "gunicorn does not start"
                time.sleep(0.05)
        yield get
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert "Traceback" not in output, output


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize(
    "workers", [("--worker-class", "sync"), ("--threads", "4"), ("--worker-class", "gevent")]
)
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_gunicorn_workers_send_from_their_thread(
    tmp_path: Path, server: FaultServer, workers: tuple[str, ...], preload: tuple[str, ...]
) -> None:
    with gunicorn(tmp_path, server, "-w", "2", *workers, *preload, interval=0.2) as get:
        for _ in range(20):
            get()
        end = time.monotonic() + 10
        while sum(event["event"] == "request" for event in server.events) < 20 and time.monotonic() < end:
            time.sleep(0.02)
        assert Counter(event["event"] for event in server.events)["request"] == 20
    assert Counter(event["event"] for event in server.events) == {
        "request": 20,
        "loaded": 1 if preload else 2,
    }


@pytest.mark.rule("Q-50", "Q-62")
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_gunicorn_workers_send_what_is_left_when_they_are_ended(
    tmp_path: Path, server: FaultServer, preload: tuple[str, ...]
) -> None:
    with gunicorn(tmp_path, server, "-w", "2", *preload, interval=3600) as get:
        for _ in range(10):
            get()
        assert not [event for event in server.events if event["event"] == "request"]
    assert Counter(event["event"] for event in server.events) == {
        "request": 10,
        "loaded": 1 if preload else 2,
    }


PATCH = "from gevent import monkey; monkey.patch_all()\n"
PROGRAM = """
import sys, threading, time
import leanbase
client = leanbase.Leanbase("k", sys.argv[1], sync_mode=False, flush_interval={interval})
"""


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize("patched", ["first", "late"])
def test_patched_by_gevent_it_sends_from_a_greenlet(server: FaultServer, patched: str) -> None:
    first, late = (PATCH, "") if patched == "first" else ("import leanbase\n", PATCH)
    program = (
        first
        + late
        + PROGRAM.format(interval=0.1)
        + "client.capture('e', distinct_id='u'); time.sleep(1); print(client.stats())"
    )
    ended = run(program, server.url, warnings="default")
    assert "'delivered': 1" in ended.stdout, ended.stderr
    assert len(server.events) == 1


@pytest.mark.rule("Q-62")
def test_patched_by_gevent_flush_shutdown_and_exit_work(server: FaultServer) -> None:
    program = (
        PATCH
        + PROGRAM.format(interval=3600)
        + """
def capture():
    for n in range(50):
        client.capture("e", distinct_id=n)
threads = [threading.Thread(target=capture) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert client.flush()
assert client.stats()["delivered"] == 500
client.capture("e", distinct_id="at exit")
"""
    )
    ended = run(program, server.url, warnings="default")
    assert ended.returncode == 0, ended.stderr
    assert len({event["uuid"] for event in server.events}) == 501
