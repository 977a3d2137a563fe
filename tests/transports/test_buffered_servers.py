"""The buffer under servers and libraries that fork and patch: gunicorn and gevent.

Gunicorn runs `programs/wsgi_app.py` in worker processes, and the test sends it requests. Gevent patches a
process that runs `programs/gevent_patched.py`. Both send their events to a server in the test's process.
Asserted is what it received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.events import received_names
from tests.support.fault_server import FaultServer
from tests.support.programs import run_program
from tests.support.waiting import wait_until
from tests.support.web_servers import WebServer, gunicorn, serving

APP = "tests.transports.programs.wsgi_app:app"


@contextmanager
def serving_app(ingestion: FaultServer, *options: str, interval: float) -> Iterator[WebServer]:
    """Run the application on gunicorn with this `flush_interval`. End it with SIGTERM, as a platform does."""
    with serving(gunicorn(APP, *options), INGESTION=ingestion.url, INTERVAL=str(interval)) as web:
        yield web


def request(web: WebServer, count: int) -> None:
    for _ in range(count):
        assert web.get().data == b"thanks"


@pytest.mark.rule("Q-2", "Q-62")
@pytest.mark.slow
@pytest.mark.parametrize(
    "workers",
    [("--worker-class", "sync"), ("--threads", "4"), ("--worker-class", "gevent")],
    ids=["sync", "threads", "gevent"],
)
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["no preload", "preload"])
def test_gunicorn_workers_send_their_buffer_while_they_run(
    server: FaultServer, workers: tuple[str, ...], preload: tuple[str, ...]
) -> None:
    with serving_app(server, "-w", "2", *workers, *preload, interval=0.2) as web:
        request(web, 20)
        wait_until(lambda: received_names(server).count("request") >= 20, 10)
        assert received_names(server).count("request") == 20
    assert Counter(received_names(server)) == {"request": 20, "loaded": 1 if preload else 2}


@pytest.mark.slow
@pytest.mark.rule("Q-50", "Q-62")
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["no preload", "preload"])
def test_gunicorn_workers_send_their_buffer_when_they_end(
    server: FaultServer, preload: tuple[str, ...]
) -> None:
    with serving_app(server, "-w", "2", *preload, interval=3600) as web:
        request(web, 10)
        assert "request" not in received_names(server)
    assert Counter(received_names(server)) == {"request": 10, "loaded": 1 if preload else 2}


GEVENT_PATCHED = "tests.transports.programs.gevent_patched"


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize("first", ["patch", "import"])
def test_a_buffer_that_gevent_has_patched_sends_from_a_greenlet(server: FaultServer, first: str) -> None:
    ended = run_program(GEVENT_PATCHED, "send_after_interval", server.url, first)
    assert "'delivered': 1" in ended.stdout, ended.stderr
    assert len(server.events) == 1


@pytest.mark.slow
@pytest.mark.rule("Q-31", "Q-50", "Q-62")
def test_a_buffer_that_gevent_has_patched_can_be_flushed_and_sends_at_exit(server: FaultServer) -> None:
    ended = run_program(GEVENT_PATCHED, "flush_and_exit", server.url)
    assert ended.returncode == 0, ended.stderr
    assert len({event["uuid"] for event in server.events}) == 501
