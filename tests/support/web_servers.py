"""Runs real web servers in separate processes, with an application of the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from leanbase.local.server import LocalServer

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 30.0
ARRIVAL_SECONDS = 10.0
MOMENT_SECONDS = 0.3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class WebServer:
    """A running server.

    Attributes:
        url: Its URL, without a slash at the end.
        output: Its output, after it has ended.
    """

    url: str
    process: subprocess.Popen[str]
    output: str = ""

    def get(self, path: str = "/", **options: Any) -> urllib3.BaseHTTPResponse:
        """Send a request over a new connection, and read the whole response."""
        options = {"timeout": 30, "retries": False, "redirect": False, **options}
        with urllib3.PoolManager() as pool:
            return pool.request(options.pop("method", "GET"), f"{self.url}{path}", **options)

    def stop(self) -> None:
        """Stop the server with SIGTERM, as a platform does."""
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
    """Start a server, wait until it accepts connections, and stop it at the end.

    Args:
        command: A module and its arguments. `{port}` is replaced by the port.
        cwd: The current directory. Default: the repository.
        stops: Whether to fail if the server's output has a traceback.
        environment: Variables in addition to those of this process.
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


@dataclass
class Application:
    """An application on a web server. Its events go to a local ingestion server."""

    server: WebServer
    local: LocalServer

    def ask(
        self, path: str, *, count: int | None = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> tuple[urllib3.BaseHTTPResponse, list[dict[str, Any]]]:
        """Send a request as a new person. Return the response, and the events of that person.

        Args:
            path: The path.
            count: The number of events to wait for. With 0, wait 0.3 s for an unexpected event. With `None`,
                do not wait.
            headers: Request headers.
            options: As for `WebServer.get`.
        """
        who = str(uuid.uuid4())
        given = {"X-LEANBASE-DISTINCT-ID": who, **(headers or {})}
        response = self.server.get(path, headers=given, **options)
        return response, self.events_of(who, count)

    def events_of(self, who: str, count: int | None = None) -> list[dict[str, Any]]:
        """Return the events of a person. For `count` see `ask`."""
        end = time.monotonic() + ARRIVAL_SECONDS
        while True:
            found = [event for event in self.local.store.events() if event["distinct_id"] == who]
            if count is None or (len(found) >= count and count > 0) or time.monotonic() > end:
                break
            if count == 0 and time.monotonic() > end - ARRIVAL_SECONDS + MOMENT_SECONDS:
                break
            time.sleep(0.01)
        return found


@contextmanager
def application(command: Sequence[str], **options: Any) -> Iterator[Application]:
    """Start an application and a local ingestion server. For options see `serving`."""
    with LocalServer() as local, serving(command, **{**configuration(local.url), **options}) as server:
        yield Application(server, local)


def configuration(host: str) -> dict[str, str]:
    """Return the environment variables for the default client of an application."""
    return {"INGESTION": host, "LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": host}
