"""No event is lost when a web server is stopped by SIGTERM, with a buffer and without, for each kind of server.

Each test starts a server with an application of `apps/`, requests a path several times, stops the server, and counts
the events that arrived.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fault_server import Behaviour, FaultServer
from tests.support.web_servers import Application, application, configuration

APPS = "tests.integrations.apps"
APPLICATIONS = {
    "FastAPI": (f"{APPS}.web_fastapi:app", "/threaded/3"),
    "Django": (f"{APPS}.web_django:app", "/async"),
    "Flask": (f"{APPS}.web_flask:app", "/"),
}
"""Each application, with a path whose request makes one event."""

UVICORN = ["uvicorn", "--port", "{port}"]
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}"]
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn with two workers": [*UVICORN, "--workers", "2"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}"],
    "daphne": ["daphne", "--bind", "127.0.0.1", "--port", "{port}"],
    "gunicorn with uvicorn workers": [*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker"],
    "gunicorn": GUNICORN,
    "gunicorn with threads": [*GUNICORN, "--threads", "4"],
    "gunicorn with gevent": [*GUNICORN, "--worker-class", "gevent"],
}


@contextmanager
def serving_application(server: str, app: str, folder: Path, **variables: str) -> Iterator[Application]:
    """Run an application on a kind of server. Django's database is a new file in the folder."""
    is_async = "" if app == "Flask" else "1"
    variables = {"DJANGO_ASYNC": is_async, "DJANGO_DATABASE": str(folder / "database"), **variables}
    with application([*SERVERS[server], APPLICATIONS[app][0]], stops=False, **variables) as shop:
        yield shop


def request_pages(shop: Application, app: str, count: int) -> None:
    for _ in range(count):
        assert shop.server.get(APPLICATIONS[app][1]).status == 200


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize("sync_mode", ["true", "false"])
@pytest.mark.parametrize(
    ("server", "app"),
    [
        ("uvicorn", "FastAPI"),
        ("uvicorn with two workers", "FastAPI"),
        ("hypercorn", "FastAPI"),
        ("daphne", "FastAPI"),
        ("gunicorn with uvicorn workers", "FastAPI"),
        ("uvicorn", "Django"),
        ("hypercorn", "Django"),
        ("daphne", "Django"),
        ("gunicorn with uvicorn workers", "Django"),
        ("gunicorn", "Flask"),
        ("gunicorn with threads", "Flask"),
        ("gunicorn with gevent", "Flask"),
    ],
)
def test_no_event_is_lost_when_the_server_is_stopped(
    server: str, app: str, sync_mode: str, tmp_path: Path
) -> None:
    with serving_application(server, app, tmp_path, SYNC_MODE=sync_mode) as shop:
        request_pages(shop, app, 20)
        shop.server.stop()
        events = shop.local.store.events()
    assert "Traceback" not in shop.server.output, shop.server.output
    assert len(events) == 20
    assert {event["times_received"] for event in events} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("app", ["FastAPI", "Django"])
@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_uvicorn_waits_at_its_end_for_a_slow_ingestion_server(
    app: str, sync_mode: str, tmp_path: Path, server: FaultServer
) -> None:
    server.always(Behaviour(delay=3))
    variables = configuration(server.url)
    with serving_application("uvicorn", app, tmp_path, SYNC_MODE=sync_mode, **variables) as shop:
        request_pages(shop, app, 6)
        shop.server.stop()
    assert len({event["uuid"] for request in server.accepted for event in request.events}) == 6
    assert "event(s)" not in shop.server.output, "an event that arrived was logged as lost"
