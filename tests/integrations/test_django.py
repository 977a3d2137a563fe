"""The Django middleware, synchronous under gunicorn and asynchronous under uvicorn, seen from the ingestion server."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from tests.integrations.test_asgi import exception_of
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.web_servers import ROOT, Application, application, gunicorn, serving, uvicorn

APP = "tests.integrations.apps.web_django:app"
SERVERS = ["threads", "loop"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables of Django, and a user."""
    path = tmp_path_factory.mktemp("django") / "database"
    subprocess.run(
        [sys.executable, "-c", "from tests.integrations.apps.web_django import prepare; prepare()"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "DJANGO_DATABASE": str(path), "INGESTION": "http://127.0.0.1:9"},
    )
    return path


@pytest.fixture(scope="module")
def threads(database: Path) -> Iterator[Application]:
    command = gunicorn(APP, "--threads", "4")
    with application(command, stops=False, DJANGO_DATABASE=str(database)) as running:
        yield running


@pytest.fixture(scope="module")
def loop(database: Path) -> Iterator[Application]:
    with application(uvicorn(APP), stops=False, DJANGO_DATABASE=str(database), DJANGO_ASYNC="1") as running:
        yield running


@pytest.fixture(scope="module")
def frozen(database: Path) -> Iterator[Application]:
    with application(gunicorn(APP), stops=False, DJANGO_DATABASE=str(database), K_SERVICE="x") as running:
        yield running


@pytest.fixture(scope="module")
def frozen_loop(database: Path) -> Iterator[Application]:
    variables = {"DJANGO_DATABASE": str(database), "DJANGO_ASYNC": "1", "K_SERVICE": "x"}
    with application(uvicorn(APP), stops=False, **variables) as running:
        yield running


@pytest.fixture(params=SERVERS)
def shop(request: pytest.FixtureRequest) -> Application:
    found: Application = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("path", ["/orders/7/", "/old/7"])
def test_events_carry_the_request(shop: Application, path: str) -> None:
    response, (event,) = shop.ask(f"{path}?token=abc123", count=1, headers={"X-LEANBASE-SESSION-ID": "s-1"})
    assert response.data == b"7"
    properties = event["properties"]
    assert str(properties["order"]) == "7"
    assert properties["$session_id"] == "s-1"
    assert properties["$request_path"] == path
    assert properties["$request_route"] == {"/old/7": "^old/(?P<number>[0-9]+)$"}.get(
        path, "/orders/<int:number>/"
    )
    assert properties["$ip"] == "127.0.0.1"
    assert properties["$current_url"].startswith(f"{shop.server.url}{path}?token=$$_leanbase_redacted")
    assert (properties["extra"], properties["mapped"]) == ("tag", True)


@pytest.mark.parametrize("path", ["/", "/async", "/user", "/user-async"])
def test_the_user_is_who_asks(shop: Application, path: str) -> None:
    cookie = shop.server.get("/login").headers["set-cookie"].partition(";")[0]
    before = len(shop.local.store.events())
    response = shop.server.get(path, headers={"Cookie": cookie})
    anonymous = shop.server.get(path)
    events = wait_for(shop, before + 2)[before:]
    known = next(event for event in events if event["distinct_id"] == "1")
    assert known["properties"]["email"] == "jo@example.com"
    assert [event["properties"].get("email") for event in events if event is not known] == [None]
    looks = "user" in path
    assert response.headers.get("vary") == anonymous.headers.get("vary") == ("Cookie" if looks else None)
    if looks:
        assert (response.data, anonymous.data) == (b"True", b"False")
    _, (by_header,) = shop.ask(path, count=1, headers={"Cookie": cookie})
    assert by_header["properties"]["email"] == "jo@example.com"


def wait_for(shop: Application, count: int) -> list[dict[str, Any]]:
    import time

    deadline = time.monotonic() + 5
    while len(events := shop.local.store.events()) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return events


@pytest.mark.parametrize(
    ("path", "kind", "handled"),
    [
        ("/fails", "ValueError", False),
        ("/fails-async", "ValueError", False),
        ("/inner-fails", "RuntimeError", False),
        ("/outer-fails-before", "RuntimeError", False),
        ("/out-of-stock", "OutOfStock", True),
        ("/stream-fails", "RuntimeError", False),
        ("/stream-fails-async", "RuntimeError", False),
    ],
)
def test_one_exception_for_each_failing_request(
    shop: Application, path: str, kind: str, handled: bool
) -> None:
    who = str(uuid.uuid4())
    # An asynchronous body is read before the response under WSGI, so that there a 500 is still possible.
    with suppress(ProtocolError) if "stream" in path else nullcontext():
        assert shop.server.get(path, headers={"X-LEANBASE-DISTINCT-ID": who}).status >= 500
    events = shop.events_of(who, 1)
    assert exception_of(events) == (kind, "error", "middleware", handled, "django.middleware")
    properties = events[0]["properties"]
    assert properties["$request_path"] == path
    if path.startswith("/fails"):
        assert properties["step"] == "payment"
    frames = properties["$exception_list"][0]["stacktrace"]["frames"]
    assert any(frame["filename"].endswith("web_django.py") for frame in frames)


@pytest.mark.parametrize(
    ("path", "status"), [("/missing", 404), ("/not-found", 404), ("/denied", 403), ("/suspicious", 400)]
)
def test_what_is_answered_below_500_is_no_failure(shop: Application, path: str, status: int) -> None:
    response, events = shop.ask(path, count=0)
    assert (response.status, events) == (status, [])


@pytest.mark.parametrize(
    ("path", "body"), [("/stream", b"part part part "), ("/stream-async", b"part part part ")]
)
def test_the_body_has_the_requests_context(shop: Application, path: str, body: bytes) -> None:
    response, events = shop.ask(path, count=3)
    assert response.data == body
    assert [event["properties"]["$request_path"] for event in events] == [path] * 3


def test_a_response_that_is_thrown_away_loses_no_event(shop: Application) -> None:
    response, events = shop.ask("/replaced", count=1)
    assert (response.data, len(events)) == (b"instead", 1)
    response, events = shop.ask("/outer-fails-after", count=2)
    assert response.status == 500
    assert [event["event"] for event in events] == ["viewed", "$exception"]


def test_a_download_is_sent_by_the_server_itself(shop: Application) -> None:
    response, (event,) = shop.ask("/download", count=1)
    assert response.data.startswith(b'"""A Django project')
    assert event["event"] == "downloaded"


@pytest.mark.parametrize("server", ["frozen", "frozen_loop"])
@pytest.mark.parametrize(
    ("path", "count"),
    [("/", 1), ("/async", 1), ("/stream", 3), ("/stream-async", 3), ("/download", 1), ("/fails", 1)],
)
def test_where_the_platform_freezes_all_is_there_before_the_last_byte(
    server: str, path: str, count: int, request: pytest.FixtureRequest
) -> None:
    frozen: Application = request.getfixturevalue(server)
    _, events = frozen.ask(path)
    assert len(events) == count


def test_filter_extra_tags_and_tag_map_that_fail(shop: Application) -> None:
    _, events = shop.ask("/health", count=0)
    assert not events
    _, (event,) = shop.ask("/extra-fails", count=1)
    assert "extra" not in event["properties"]
    assert event["properties"]["$request_path"] == "/extra-fails"
    _, (event,) = shop.ask("/map-fails", count=1)
    assert event["properties"]["$context_tags"] == []


@pytest.mark.parametrize("kind", SERVERS)
def test_a_silent_ingestion_server_delays_no_request(kind: str, database: Path, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    command = gunicorn(APP, "--threads", "4") if kind == "threads" else uvicorn(APP)
    variables: dict[str, Any] = {
        "DJANGO_DATABASE": str(database),
        "DJANGO_ASYNC": "1" if kind == "loop" else "",
    }
    import time

    with serving(command, INGESTION=server.url, LEANBASE_SEND_DEADLINE="4", **variables) as shop:
        for _ in range(30):
            before = time.monotonic()
            assert shop.get("/").status == 200
            assert time.monotonic() - before < 2
    assert server.requests


def test_a_wrong_policy_stops_django_at_the_start(database: Path) -> None:
    code = "from tests.integrations.apps.web_django import app"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "INGESTION": "http://127.0.0.1:9", "FLUSH": "end"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        "ConfigError: flush must be one of 'auto', 'before_response', 'after_response', 'each', not 'end'"
        in done.stderr
    )


def test_the_test_client_of_django() -> None:
    """Every request of it is tracked, and nothing is lost when its responses are closed."""
    code = """
import leanbase
from leanbase.transports import MemoryTransport
from tests.integrations.apps.web_django import prepare
prepare()
memory = leanbase.transport = MemoryTransport()
from django.test import Client
visitor = Client(raise_request_exception=False)
assert visitor.get("/").status_code == 200
assert visitor.get("/login").status_code == 200
assert visitor.get("/").status_code == 200
assert b"".join(visitor.get("/stream")) == b"part part part "
assert visitor.get("/fails").status_code == 500
leanbase.flush()
print([(event["event"], event["properties"].get("email")) for event in memory.events])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "INGESTION": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
    )
    mail = "jo@example.com"
    expected = [("viewed", None), ("viewed", mail), *[("part", mail)] * 3, ("$exception", mail)]
    assert done.stdout.strip().splitlines()[-1] == str(expected)


def in_django(code: str, *, expected: str, **variables: str) -> None:
    """Run some lines with Django's test client, and look at the last line that they print."""
    program = f"""
import leanbase, time
from leanbase.transports import MemoryTransport
from tests.integrations.apps.web_django import prepare
prepare()
memory = leanbase.transport = MemoryTransport()
from django.test import Client
visitor = Client(raise_request_exception=False)
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "INGESTION": "http://127.0.0.1:9", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().splitlines()[-1:] == [expected], done.stderr


def test_a_body_that_is_left_early_is_closed_inside_the_request() -> None:
    code = """
response = visitor.get("/download-slowly", headers={"X-LEANBASE-DISTINCT-ID": "u-1"})
next(iter(response.streaming_content))
response.close()
leanbase.flush()
print([(event["event"], event["distinct_id"]) for event in memory.events])
"""
    in_django(code, expected="[('download ended', 'u-1')]")


def test_a_page_that_a_view_asks_for_does_not_end_its_request() -> None:
    code = """
assert visitor.get("/asks-itself", headers={"X-LEANBASE-DISTINCT-ID": "u-1"}).content == b"[0, 0]"
leanbase.flush()
print([event["distinct_id"] for event in memory.events])
"""
    in_django(code, expected="['u-1', 'u-1']", FLUSH="before_response")


def test_a_user_that_cannot_be_read_costs_the_user_alone() -> None:
    code = """
from django.http import HttpResponse
from django.test import RequestFactory
from leanbase.integrations.django import LeanbaseContextMiddleware

class Request(type(RequestFactory().get("/"))):
    @property
    def user(self):
        raise RuntimeError

def view(request):
    leanbase.capture("viewed")
    return HttpResponse("hello")

request = RequestFactory().get("/page", headers={"X-LEANBASE-DISTINCT-ID": "u-1"})
request.__class__ = Request
LeanbaseContextMiddleware(view)(request).close()
leanbase.flush()
print([(event["distinct_id"], event["properties"]["$request_path"]) for event in memory.events])
"""
    in_django(code, expected="[('u-1', '/page')]")


def test_a_closer_that_raises_is_no_failure_of_the_request() -> None:
    code = """
from django.http import HttpResponse
from django.test import RequestFactory
from leanbase.integrations.django import LeanbaseContextMiddleware

def fail():
    leanbase.capture("closed")
    raise RuntimeError

def view(request):
    response = HttpResponse("hello")
    response._resource_closers.append(fail)
    return response

request = RequestFactory().get("/page", headers={"X-LEANBASE-DISTINCT-ID": "u-1"})
LeanbaseContextMiddleware(view)(request).close()
leanbase.flush()
print([(event["event"], event["distinct_id"]) for event in memory.events])
"""
    in_django(code, expected="[('closed', 'u-1')]")
