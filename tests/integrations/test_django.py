"""The Django middleware, synchronous under gunicorn and asynchronous under uvicorn.

A fixture runs the project `apps/web_django.py` in a server process, and a `LocalServer` in this process, which stores
its events. Each test requests pages over HTTP with an id of its own, and looks at the stored events of this id. The
last tests run `programs/django_requests.py`, which uses Django's test client and prints the captured events.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from tests.integrations.helpers import SHORT_GRACE, exception_of
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.programs import run_program
from tests.support.waiting import wait_until
from tests.support.web_servers import ROOT, Application, application, gunicorn, serving, uvicorn

APP = "tests.integrations.apps.web_django:app"
SHOPS = ["threaded_shop", "async_shop"]
UNUSED = "http://127.0.0.1:9"
"""An address at which no server listens."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with Django's tables and one user."""
    path = tmp_path_factory.mktemp("django") / "database"
    subprocess.run(
        [sys.executable, "-c", "from tests.integrations.apps.web_django import prepare; prepare()"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "DJANGO_DATABASE": str(path), "INGESTION": UNUSED},
    )
    return path


@pytest.fixture(scope="module")
def threaded_shop(database: Path) -> Iterator[Application]:
    command = gunicorn(APP, "--threads", "4")
    with application(command, stops=False, DJANGO_DATABASE=str(database)) as running:
        yield running


@pytest.fixture(scope="module")
def async_shop(database: Path) -> Iterator[Application]:
    with application(uvicorn(APP), stops=False, DJANGO_DATABASE=str(database), DJANGO_ASYNC="1") as running:
        yield running


@pytest.fixture(scope="module")
def freezing_shop(database: Path) -> Iterator[Application]:
    """On a platform that may freeze the process after the response, so the events are sent before it."""
    with application(gunicorn(APP), stops=False, DJANGO_DATABASE=str(database), K_SERVICE="x") as running:
        yield running


@pytest.fixture(scope="module")
def freezing_async_shop(database: Path) -> Iterator[Application]:
    variables = {"DJANGO_DATABASE": str(database), "DJANGO_ASYNC": "1", "K_SERVICE": "x"}
    with application(uvicorn(APP), stops=False, **variables) as running:
        yield running


@pytest.fixture(params=SHOPS)
def shop(request: pytest.FixtureRequest) -> Application:
    found: Application = request.getfixturevalue(request.param)
    return found


@pytest.mark.rule("D-1", "D-2", "D-4", "M-10")
@pytest.mark.parametrize("path", ["/orders/7/", "/old/7"])
def test_events_carry_the_tags_of_the_request(shop: Application, path: str) -> None:
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


@pytest.mark.rule("D-1", "D-3")
@pytest.mark.parametrize("path", ["/", "/async", "/user", "/user-async"])
def test_the_id_is_the_primary_key_of_the_user_without_a_header(shop: Application, path: str) -> None:
    """Reading the user for this does not make a page vary by cookie."""
    cookie = shop.server.get("/login").headers["set-cookie"].partition(";")[0]
    count = len(shop.local.store.events())
    response = shop.server.get(path, headers={"Cookie": cookie})
    anonymous = shop.server.get(path)
    wait_until(lambda: len(shop.local.store.events()) >= count + 2)
    events = shop.local.store.events()[count:]
    known = next(event for event in events if event["distinct_id"] == "1")
    assert known["properties"]["email"] == "jo@example.com"
    assert [event["properties"].get("email") for event in events if event is not known] == [None]
    view_reads_user = "user" in path
    assert (
        response.headers.get("vary")
        == anonymous.headers.get("vary")
        == ("Cookie" if view_reads_user else None)
    )
    if view_reads_user:
        assert (response.data, anonymous.data) == (b"True", b"False")
    _, (by_header,) = shop.ask(path, count=1, headers={"Cookie": cookie})
    assert by_header["properties"]["email"] == "jo@example.com"


@pytest.mark.rule("D-2", "D-5", "D-6", "X-21")
@pytest.mark.parametrize(
    ("path", "kind", "is_handled"),
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
def test_a_failing_request_makes_one_exception_event(
    shop: Application, path: str, kind: str, is_handled: bool
) -> None:
    who = str(uuid.uuid4())
    # Under WSGI, Django reads an asynchronous body before the response, so it can still respond with 500.
    with suppress(ProtocolError) if "stream" in path else nullcontext():
        assert shop.server.get(path, headers={"X-LEANBASE-DISTINCT-ID": who}).status >= 500
    events = shop.events_of(who, 1)
    assert exception_of(events) == (kind, "error", "middleware", is_handled, "django.middleware")
    properties = events[0]["properties"]
    assert properties["$request_path"] == path
    if path.startswith("/fails"):
        assert properties["step"] == "payment"
    frames = properties["$exception_list"][0]["stacktrace"]["frames"]
    assert any(frame["filename"].endswith("web_django.py") for frame in frames)


@pytest.mark.parametrize(
    ("path", "status"), [("/missing", 404), ("/not-found", 404), ("/denied", 403), ("/suspicious", 400)]
)
def test_an_exception_that_becomes_a_response_below_500_is_not_captured(
    shop: Application, path: str, status: int
) -> None:
    response, events = shop.ask(path, count=0)
    assert (response.status, events) == (status, [])


@pytest.mark.parametrize("path", ["/stream", "/stream-async"])
def test_a_streamed_body_is_produced_inside_the_request(shop: Application, path: str) -> None:
    response, events = shop.ask(path, count=3)
    assert response.data == b"part part part "
    assert [event["properties"]["$request_path"] for event in events] == [path] * 3


def test_a_discarded_response_loses_no_event(shop: Application) -> None:
    response, events = shop.ask("/replaced", count=1)
    assert (response.data, len(events)) == (b"instead", 1)
    response, events = shop.ask("/outer-fails-after", count=2)
    assert response.status == 500
    assert [event["event"] for event in events] == ["viewed", "$exception"]


@pytest.mark.rule("M-8")
def test_a_download_is_still_sent_by_the_server_itself(shop: Application) -> None:
    response, (event,) = shop.ask("/download", count=1)
    assert response.data.startswith(b'"""A Django project')
    assert event["event"] == "downloaded"


@pytest.mark.rule("M-8")
@pytest.mark.parametrize("server", ["freezing_shop", "freezing_async_shop"])
@pytest.mark.parametrize(
    ("path", "count"),
    [("/", 1), ("/async", 1), ("/stream", 3), ("/stream-async", 3), ("/download", 1), ("/fails", 1)],
)
def test_where_the_platform_freezes_events_are_delivered_before_the_last_byte(
    server: str, path: str, count: int, request: pytest.FixtureRequest
) -> None:
    shop: Application = request.getfixturevalue(server)
    _, events = shop.ask(path)
    assert len(events) == count


@pytest.mark.rule("D-2")
def test_a_request_that_the_filter_rejects_is_not_tracked(shop: Application) -> None:
    _, events = shop.ask("/health", count=0)
    assert not events


@pytest.mark.rule("D-8", "G-8")
def test_a_filter_or_tag_function_that_raises_does_not_fail_the_request(shop: Application) -> None:
    response, (event,) = shop.ask("/filter-fails", count=1)
    assert response.status == 200
    assert event["properties"]["$request_path"] == "/filter-fails"
    _, (event,) = shop.ask("/extra-fails", count=1)
    assert "extra" not in event["properties"]
    assert event["properties"]["$request_path"] == "/extra-fails"
    _, (event,) = shop.ask("/map-fails", count=1)
    assert event["properties"]["$context_tags"] == []


@pytest.mark.rule("M-8")
@pytest.mark.parametrize("shop_name", SHOPS)
def test_a_silent_ingestion_server_delays_no_request(
    shop_name: str, database: Path, server: FaultServer
) -> None:
    server.always(Behaviour(instead="silence"))
    is_async = shop_name == "async_shop"
    command = uvicorn(APP) if is_async else gunicorn(APP, "--threads", "4")
    variables: dict[str, Any] = {"DJANGO_DATABASE": str(database), **SHORT_GRACE}
    if is_async:
        variables["DJANGO_ASYNC"] = "1"
    with serving(command, INGESTION=server.url, LEANBASE_SEND_DEADLINE="4", **variables) as shop:
        for _ in range(30):
            started = time.monotonic()
            assert shop.get("/").status == 200
            assert time.monotonic() - started < 2
    assert server.requests


@pytest.mark.rule("G-1")
def test_an_invalid_flush_policy_stops_django_at_the_start() -> None:
    done = run_program("tests.integrations.apps.web_django", INGESTION=UNUSED, FLUSH="end")
    assert done.returncode != 0
    assert (
        "ConfigError: flush must be one of 'auto', 'before_response', 'after_response', 'each', not 'end'"
        in done.stderr
    )


# --- with Django's test client --------------------------------------------------------------------------


def run_django(function: str, *, expected: object, **variables: Any) -> str:
    """Run a function of `programs/django_requests.py`, compare what it returns, and return its log."""
    done = run_program("tests.integrations.programs.django_requests", function, INGESTION=UNUSED, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(expected), done.stderr
    return done.stderr


def test_each_request_of_djangos_test_client_is_tracked() -> None:
    email = "jo@example.com"
    expected = [("viewed", None), ("viewed", email), *[("part", email)] * 3, ("$exception", email)]
    run_django("visit_pages", expected=expected)


@pytest.mark.rule("D-7")
def test_a_setting_of_the_wrong_type_is_ignored_with_a_warning() -> None:
    log = run_django("close_a_body_early", expected=[("download ended", "u-1")])
    assert "LEANBASE_MW_CLIENT is ignored: its value has the wrong type, str" in log


def test_a_body_that_is_closed_early_is_closed_inside_the_request() -> None:
    run_django("close_a_body_early", expected=[("download ended", "u-1")])


def test_a_page_that_a_view_requests_does_not_end_the_request_of_the_view() -> None:
    run_django("view_that_asks_for_a_page", expected=["u-1", "u-1"], FLUSH="before_response")


@pytest.mark.rule("D-8")
def test_a_user_that_raises_when_it_is_read_costs_only_the_id_of_the_user() -> None:
    run_django("user_that_raises", expected=[("u-1", "/page")])


def test_a_closer_that_raises_makes_no_exception_event() -> None:
    run_django("closer_that_raises", expected=[("closed", "u-1")])
