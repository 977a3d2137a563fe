"""The applications of `examples/vercel`, with Vercel's variables.

Vercel's runtime runs an ASGI application with uvicorn, and a WSGI application in threads. So do these tests. They
freeze the process as soon as it has responded.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.support.events import received_names
from tests.support.fault_server import FaultServer
from tests.support.web_servers import WebServer, gunicorn, serving, uvicorn

FOLDER = Path(__file__).parents[2] / "examples" / "vercel"
VERCEL = {
    "VERCEL": "1",
    "VERCEL_ENV": "production",
    "VERCEL_REGION": "fra1",
    "VERCEL_GIT_COMMIT_SHA": "0a1b2c3d",
}
TAGS = {"deployment.environment.name": "production", "cloud.region": "fra1", "service.version": "0a1b2c3d"}

pytestmark = [pytest.mark.slow, pytest.mark.rule("P-1", "D-2")]


def request(application: WebServer, path: str, body: object = None) -> int:
    """Request something, and freeze the application as soon as it has responded."""
    method = "GET" if body is None else "POST"
    headers = {"Content-Type": "application/json", "X-LEANBASE-DISTINCT-ID": "user_1"}
    response = application.get(path, method=method, body=body and json.dumps(body), headers=headers)
    application.process.send_signal(signal.SIGSTOP)
    return response.status


@pytest.mark.parametrize(
    ("command", "good", "bad", "status"),
    [
        (
            uvicorn("api.orders:app"),
            ("/api/orders", {"sku": "tea", "quantity": 2}),
            ("/api/orders", {"sku": "water", "quantity": 2}),
            201,
        ),
        (
            gunicorn("api.reports:app", "--threads", "4"),
            ("/api/reports/2026",),
            ("/api/reports/1999",),
            200,
        ),
    ],
    ids=["asgi", "wsgi"],
)
def test_an_application_has_sent_its_events_when_it_responds(
    server: FaultServer, command: Sequence[str], good: Any, bad: Any, status: int
) -> None:
    environment: dict[str, Any] = {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **VERCEL}
    with serving(command, cwd=FOLDER, stops=False, **environment) as application:
        assert request(application, *good) == status
        (event,) = server.events
        application.process.send_signal(signal.SIGCONT)
        assert request(application, *bad) == 500
        (_, failure) = server.events
        application.process.send_signal(signal.SIGCONT)
    assert event["distinct_id"] == failure["distinct_id"] == "user_1"
    assert TAGS.items() <= event["properties"].items()
    assert failure["properties"]["$exception_type"] == "KeyError"


@pytest.mark.rule("P-2")
@pytest.mark.parametrize(
    "command",
    [uvicorn("tests.examples.programs.slow_asgi:app"), ["tests.examples.programs.slow_wsgi", "{port}"]],
    ids=["asgi", "wsgi"],
)
def test_a_request_that_sigterm_interrupts_has_sent_its_events_before_the_kill(
    server: FaultServer, command: Sequence[str]
) -> None:
    environment: dict[str, Any] = {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **VERCEL}
    with serving(command, stops=False, **environment) as application:
        asking = threading.Thread(target=lambda: suppressed(application.get, "/"))
        asking.start()
        assert application.process.stdout is not None
        while application.process.stdout.readline() != "ready\n":
            pass
        application.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        application.process.kill()
        asking.join()
        assert received_names(server) == ["request began"]


def suppressed(function: Callable[..., object], *arguments: object) -> None:
    """Call a function whose server is killed meanwhile."""
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        function(*arguments)
