"""Web servers in processes of their own, for real, with an application of the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

ROOT = Path(__file__).parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class WebServer:
    """A running server.

    Attributes:
        url: Its address, without a slash at the end.
        output: What it wrote, once it has ended.
    """

    url: str
    process: subprocess.Popen[str]
    output: str = ""

    def get(self, path: str = "/", **options: Any) -> urllib3.BaseHTTPResponse:
        """Ask it for something, over a new connection. The whole response is read."""
        options = {"timeout": 30, "retries": False, "redirect": False, **options}
        with urllib3.PoolManager() as pool:
            return pool.request(options.pop("method", "GET"), f"{self.url}{path}", **options)

    def stop(self) -> None:
        """End it as a platform does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.output, _ = self.process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def serving(
    command: Sequence[str], *, cwd: Path | None = None, stops: bool = True, **environment: str
) -> Iterator[WebServer]:
    """A server, from when it accepts connections until it has stopped.

    Args:
        command: A module and its arguments, in which `{port}` stands for the port.
        cwd: Where it runs. Default: the repository.
        stops: Whether it is to end well when it is asked to.
        environment: Variables beside those of this process.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *[part.format(port=port) for part in command]],
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = WebServer(f"http://127.0.0.1:{port}", process)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < end, "the server does not start"
                time.sleep(0.05)
        yield server
    except BaseException:
        process.kill()
        print(process.communicate()[0])
        raise
    server.stop()
    assert not stops or "Traceback" not in server.output, server.output


def uvicorn(app: str, *options: str) -> list[str]:
    return ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", *options, app]


def gunicorn(app: str, *options: str) -> list[str]:
    return ["gunicorn", "--bind", "127.0.0.1:{port}", *options, app]
