"""Web servers of every kind: nothing is lost when they are stopped, with a buffer and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fault_server import Behaviour, FaultServer
from tests.support.web_servers import application, configuration

APPS = "tests.integrations.apps"
FASTAPI = [f"{APPS}.web_fastapi:app", "/threaded/3"]
DJANGO = [f"{APPS}.web_django:app", "/async"]
FLASK = [f"{APPS}.web_flask:app", "/"]
UVICORN = ["uvicorn", "--port", "{port}"]
HYPERCORN = ["hypercorn", "--bind", "127.0.0.1:{port}"]
DAPHNE = ["daphne", "--bind", "127.0.0.1", "--port", "{port}"]
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}"]
UVICORN_WORKER = [*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker"]
GEVENT = [*GUNICORN, "--worker-class", "gevent"]


@pytest.mark.slow
@pytest.mark.parametrize("sync_mode", ["true", "false"])
@pytest.mark.parametrize(
    ("command", "app"),
    [
        (UVICORN, FASTAPI),
        ([*UVICORN, "--workers", "2"], FASTAPI),
        (HYPERCORN, FASTAPI),
        (DAPHNE, FASTAPI),
        (UVICORN_WORKER, FASTAPI),
        (UVICORN, DJANGO),
        (HYPERCORN, DJANGO),
        (DAPHNE, DJANGO),
        (UVICORN_WORKER, DJANGO),
        (GUNICORN, FLASK),
        ([*GUNICORN, "--threads", "4"], FLASK),
        (GEVENT, FLASK),
    ],
    ids=lambda part: "-".join(part).replace(f"{APPS}.", "").replace("127.0.0.1", "").replace("{port}", ""),
)
def test_nothing_is_lost_when_the_server_is_stopped(
    command: list[str], app: list[str], sync_mode: str, tmp_path: Path
) -> None:
    is_async = "" if command in (GUNICORN, GEVENT) else "1"
    variables = {"SYNC_MODE": sync_mode, "DJANGO_ASYNC": is_async, "DJANGO_DATABASE": str(tmp_path / "none")}
    name, path = app
    with application([*command, name], stops=False, **variables) as shop:
        assert [shop.server.get(path).status for _ in range(20)] == [200] * 20
        shop.server.stop()
        events = shop.local.store.events()
    assert "Traceback" not in shop.server.output, shop.server.output
    assert len(events) == 20
    assert {event["times_received"] for event in events} == {1}


@pytest.mark.slow
@pytest.mark.parametrize(("app", "is_async"), [(FASTAPI, ""), (DJANGO, "1")], ids=["FastAPI", "Django"])
@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_a_slow_ingestion_server_is_waited_for_under_uvicorn(
    app: list[str], is_async: str, sync_mode: str, tmp_path: Path, server: FaultServer
) -> None:
    """Nothing is said to be lost that arrives."""
    server.always(Behaviour(delay=3))
    name, path = app
    variables = {"SYNC_MODE": sync_mode, "DJANGO_ASYNC": is_async, "DJANGO_DATABASE": str(tmp_path / "none")}
    with application([*UVICORN, name], stops=False, **{**variables, **configuration(server.url)}) as shop:
        assert [shop.server.get(path).status for _ in range(6)] == [200] * 6
        shop.server.stop()
    assert len({event["uuid"] for request in server.accepted for event in request.events}) == 6
    assert "event(s)" not in shop.server.output
