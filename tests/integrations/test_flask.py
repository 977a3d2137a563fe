"""The Flask extension under gunicorn, and with Flask's test client.

A fixture runs `apps/web_flask.py` in a server process, and a `LocalServer` in this process, which stores its events. Each
test requests a path over HTTP with an id of its own, and looks at the stored events of this id.
The tests that make an application of their own use Flask's test client in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flask
import pytest

import leanbase
from leanbase import Leanbase
from leanbase.delivery import factory
from leanbase.integrations.flask import LeanbaseFlask
from leanbase.transports import MemoryTransport
from tests.integrations.helpers import exception_of, wait_until_sent
from tests.support.web_servers import Application, application, gunicorn

APP = "tests.integrations.apps.web_flask:app"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop() -> Iterator[Application]:
    with application(gunicorn(APP, "--threads", "4"), stops=False) as running:
        yield running


@pytest.fixture(scope="module")
def freezing_shop() -> Iterator[Application]:
    """On a platform that may freeze the process after the response, so the events are sent before it."""
    with application(gunicorn(APP), stops=False, FUNCTION_TARGET="app") as running:
        yield running


@pytest.mark.rule("D-9", "M-10")
def test_events_carry_the_tags_of_the_request(shop: Application) -> None:
    response, (event,) = shop.ask("/orders/7?page=2", count=1)
    assert response.data == b"7"
    properties = event["properties"]
    assert properties["order"] == 7
    assert properties["view"] == "order"
    assert properties["$request_route"] == "/orders/<int:number>"
    assert properties["$current_url"] == f"{shop.server.url}/orders/7?page=2"


def test_a_streamed_body_is_produced_inside_the_request(shop: Application) -> None:
    response, events = shop.ask("/stream", count=3)
    assert response.data == b"part 0 part 1 part 2 "
    assert [event["properties"]["path"] for event in events] == ["/stream"] * 3


@pytest.mark.rule("D-9", "X-21", "M-8")
@pytest.mark.parametrize("server", ["shop", "freezing_shop"])
@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/fails", 500, ("ValueError", "error", "middleware", False, "flask.got_request_exception")),
        ("/teardown-fails", 500, ("RuntimeError", "error", "middleware", False, "wsgi.middleware")),
        ("/out-of-stock", 503, ("OutOfStock", "error", "generic", True, None)),
    ],
)
def test_a_failing_request_makes_one_exception_event(
    server: str, path: str, status: int, expected: Any, request: pytest.FixtureRequest
) -> None:
    shop: Application = request.getfixturevalue(server)
    response, events = shop.ask(path, count=1)
    assert response.status == status
    assert exception_of(events) == expected
    assert "$response_status_code" not in events[0]["properties"]


@pytest.mark.parametrize(("path", "status"), [("/missing", 404), ("/teapot", 418), ("/nowhere", 404)])
def test_an_exception_that_becomes_a_response_below_500_is_not_captured(
    shop: Application, path: str, status: int
) -> None:
    response, events = shop.ask(path, count=0)
    assert (response.status, events) == (status, [])


@pytest.mark.rule("M-8")
@pytest.mark.parametrize(("path", "count"), [("/orders/7", 1), ("/stream", 3), ("/fails", 1)])
def test_where_the_platform_freezes_events_are_delivered_before_the_last_byte(
    freezing_shop: Application, path: str, count: int
) -> None:
    _, events = freezing_shop.ask(path)
    assert len(events) == count


@pytest.mark.rule("D-9")
def test_a_request_that_the_filter_rejects_has_no_tags(shop: Application) -> None:
    count = len(shop.local.store.events())
    assert shop.server.get("/health").data == b"well"
    (event,) = shop.local.store.events()[count:]
    assert "$request_path" not in event["properties"]


def test_requests_of_flasks_test_client_are_tracked(client: Leanbase, memory: MemoryTransport) -> None:
    """The extension is initialised twice, and Flask raises the exception of the view to the test."""
    app = flask.Flask(__name__)
    extension = LeanbaseFlask(client=client, flush="before_response")
    extension.init_app(app)
    extension.init_app(app)

    @app.get("/orders/<number>")
    def order(number: str) -> str:
        leanbase.tag("number", number)
        client.capture("viewed")
        return number

    @app.get("/fails")
    def fails() -> str:
        raise ValueError("no money left")

    with app.test_client() as visitor:
        assert visitor.get("/orders/7").data == b"7"
        assert flask.request.path == "/orders/7"
    assert memory.events[0]["properties"]["$request_route"] == "/orders/<number>"
    app.testing = True
    with pytest.raises(ValueError, match="no money left"):
        app.test_client().get("/fails")
    wait_until_sent(client)
    assert exception_of(memory.events[1:]).source == "flask.got_request_exception"


def test_a_filter_that_reads_the_body_leaves_it_to_the_view(client: Leanbase) -> None:
    app = flask.Flask(__name__)
    LeanbaseFlask(app, client=client, request_filter=lambda request: request.form.get("track") != "no")

    @app.post("/")
    def form() -> str:
        return flask.request.form["track"]

    assert app.test_client().post("/", data={"track": "yes"}).data == b"yes"


def test_with_the_pytest_plugin_events_are_recorded_when_the_response_is_returned(
    memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test never reads or closes the body of the response."""
    monkeypatch.setattr(factory, "_override", memory)
    app = flask.Flask(__name__)
    LeanbaseFlask(app, client=Leanbase("phc_test"))
    shop = Leanbase("phc_test")

    @app.get("/")
    def index() -> str:
        shop.capture("viewed")
        return "hello"

    assert app.test_client().get("/").status_code == 200
    assert [event["event"] for event in memory.events] == ["viewed"]


def test_filter_and_tags_receive_the_applications_own_class_of_requests(
    client: Leanbase, memory: MemoryTransport
) -> None:
    class Request(flask.Request):
        def __init__(self, environ: Any) -> None:
            super().__init__(environ)

    app = flask.Flask(__name__)
    app.request_class = Request
    classes = []
    LeanbaseFlask(
        app,
        client=client,
        flush="before_response",
        request_filter=lambda request: classes.append(type(request)) or True,
        extra_tags=lambda request: {"endpoint": request.endpoint},
    )

    @app.get("/")
    def index() -> str:
        client.capture("viewed")
        return "hello"

    assert app.test_client().get("/").data == b"hello"
    assert classes == [Request]
    assert memory.events[0]["properties"]["endpoint"] == "index"


def test_the_proxy_of_the_current_application_is_accepted(memory: MemoryTransport, client: Leanbase) -> None:
    """As in a file that the Functions Framework imports inside its application."""
    app = flask.Flask(__name__)
    with app.app_context():
        LeanbaseFlask(flask.current_app, client=client, flush="before_response")

    @app.get("/")
    def fail() -> str:
        raise ZeroDivisionError

    assert app.test_client().get("/").status_code == 500
    (event,) = memory.events
    assert event["properties"]["$exception_source"] == "flask.got_request_exception"


def test_the_proxy_without_an_application_raises_flasks_own_error() -> None:
    with pytest.raises(RuntimeError, match="application context"):
        LeanbaseFlask(flask.current_app)
