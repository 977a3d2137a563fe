"""The ASGI middleware: under uvicorn with a FastAPI application, and in this process.

A fixture runs `apps/web_fastapi.py` in a server process, and a `LocalServer` in this process, which stores its events.
Each test requests a path over HTTP with an id of its own, and looks at the stored events of this id. The tests in the
second half call the middleware in this process, around a small ASGI application of their own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.integrations.asgi import LeanbaseMiddleware
from leanbase.transports import MemoryTransport
from tests.integrations.helpers import SHORT_GRACE, exception_of, wait_until_sent
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.waiting import wait_until
from tests.support.web_servers import Application, WebServer, application, serving, uvicorn

APP = "tests.integrations.apps.web_fastapi:app"


@pytest.fixture(scope="module")
def shop() -> Iterator[Application]:
    """Its events are sent after the response."""
    with application(uvicorn(APP), stops=False) as running:
        yield running


@pytest.fixture(scope="module")
def freezing_shop() -> Iterator[Application]:
    """On a platform that may freeze the process after the response, so the events are sent before it."""
    with application(uvicorn(APP), stops=False, K_SERVICE="shop") as running:
        yield running


# --- identity and tags --------------------------------------------------------------------------------


@pytest.mark.rule("D-9", "M-5", "M-10")
def test_events_carry_the_tags_of_the_request(shop: Application) -> None:
    headers = {
        "X-LEANBASE-SESSION-ID": "s-1",
        "X-Forwarded-For": "203.0.113.9, 10.0.0.1",
        "User-Agent": "test/1",
    }
    response, events = shop.ask("/orders/7?page=2&token=abc123", count=2, headers=headers)
    assert response.status == 200
    assert [event["event"] for event in events] == ["order viewed", "order shown"]
    properties = events[0]["properties"]
    assert properties["$session_id"] == "s-1"
    assert properties["order"] == 7
    assert properties["$request_method"] == "GET"
    assert properties["$request_path"] == "/orders/7"
    assert properties["$request_route"] == "/orders/{number}"
    assert properties["$ip"] == "203.0.113.9"
    assert properties["$user_agent"] == properties["$raw_user_agent"] == "test/1"
    assert properties["$current_url"].startswith(
        f"{shop.server.url}/orders/7?page=2&token=$$_leanbase_redacted"
    )
    assert "abc123" not in json.dumps(events)


@pytest.mark.rule("M-10")
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/threaded/3", "/threaded/{number}"),
        ("/shop/items/tea", "/shop/items/{name}"),
        ("/admin/reports/2026", "/admin/reports/{year}"),
    ],
)
def test_the_route_includes_the_prefixes_of_routers_and_mounts(
    shop: Application, path: str, route: str
) -> None:
    _, (event,) = shop.ask(path, count=1)
    assert event["properties"]["$request_route"] == route


@pytest.mark.rule("M-10")
def test_the_ip_is_the_address_of_the_connection_without_a_proxy_header(shop: Application) -> None:
    _, events = shop.ask("/threaded/3", count=1, headers={"X-Forwarded-Proto": "https"})
    assert events[0]["properties"]["$ip"] == "127.0.0.1"
    assert events[0]["properties"]["$current_url"].startswith("https://127.0.0.1:")


# --- exceptions ---------------------------------------------------------------------------------------


@pytest.mark.rule("D-9", "M-8", "X-21")
@pytest.mark.parametrize("server", ["shop", "freezing_shop"])
@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/fails", 500, ("ValueError", "error", "middleware", False, "asgi.middleware")),
        ("/fails-in-thread", 500, ("ValueError", "error", "middleware", False, "asgi.middleware")),
        ("/out-of-stock", 503, ("OutOfStock", "error", "middleware", True, "fastapi.exception_handler")),
    ],
)
def test_a_failing_request_makes_one_exception_event(
    server: str, path: str, status: int, expected: Any, request: pytest.FixtureRequest
) -> None:
    shop: Application = request.getfixturevalue(server)
    response, events = shop.ask(path, count=1)
    assert response.status == status
    assert exception_of(events) == expected
    frames = events[0]["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    assert frames[-1]["filename"].endswith("web_fastapi.py")
    if path == "/fails":
        assert events[0]["properties"]["step"] == "payment"


@pytest.mark.parametrize(("path", "status"), [("/missing", 404), ("/teapot", 418), ("/nowhere", 404)])
def test_an_exception_that_becomes_a_response_below_500_is_not_captured(
    shop: Application, path: str, status: int
) -> None:
    response, events = shop.ask(path, count=0)
    assert (response.status, events) == (status, [])


@pytest.mark.rule("M-10")
def test_an_exception_in_a_streamed_body_is_captured_with_the_status_of_the_response(
    shop: Application,
) -> None:
    who = str(uuid.uuid4())
    with pytest.raises(Exception, match=r"IncompleteRead|prematurely"):
        shop.server.get("/stream-fails", headers={"X-LEANBASE-DISTINCT-ID": who})
    events = shop.events_of(who, 1)
    assert exception_of(events).type == "RuntimeError"
    assert events[0]["properties"]["$response_status_code"] == 200


def test_a_client_that_disconnects_makes_no_exception_event(shop: Application) -> None:
    who = str(uuid.uuid4())
    response = shop.server.get("/endless", headers={"X-LEANBASE-DISTINCT-ID": who}, preload_content=False)
    response.read(2000)
    response.close()
    time.sleep(0.3)
    assert [event["event"] for event in shop.events_of(who, 1)] == ["endless began"]


def test_an_exception_has_the_identity_that_a_dependency_has_set(shop: Application) -> None:
    """Also if another middleware runs the dependency and the route in a task of its own."""
    assert shop.server.get("/guarded/dependency").status == 500
    events = shop.events_of("user of /guarded/dependency", 1)
    assert exception_of(events) == ("ValueError", "error", "middleware", False, "asgi.middleware")
    assert events[0]["properties"]["plan"] == "pro"


@pytest.mark.rule("K-6")
def test_an_exception_does_not_get_the_identity_of_a_task_beside_it(
    client: Leanbase, memory: MemoryTransport
) -> None:
    async def identify(number: int) -> None:
        leanbase.identify_context(f"user_{number}")
        leanbase.tag("number", number)
        await asyncio.sleep(0)
        if number == 1:
            raise ValueError("no money left")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        count = int(scope["path"][1:])
        await asyncio.gather(*(identify(number) for number in range(count)))
        raise ValueError("no money left")

    for count in (1, 3):
        memory.events.clear()
        with pytest.raises(ValueError, match="no money left"):
            call(LeanbaseMiddleware(app, client=client, flush="before_response"), {"path": f"/{count}"})
        (event,) = memory.events
        assert not event["distinct_id"].startswith("user_")
        assert "number" not in event["properties"]


# --- when events are sent -----------------------------------------------------------------------------


@pytest.mark.rule("M-8")
@pytest.mark.parametrize(
    ("path", "count"), [("/orders/7", 2), ("/threaded/1", 1), ("/stream", 3), ("/fails", 1)]
)
def test_where_the_platform_freezes_events_are_delivered_before_the_last_byte(
    freezing_shop: Application, path: str, count: int
) -> None:
    _, events = freezing_shop.ask(path)
    assert len(events) == count
    assert len({event["request"] for event in events}) == 1


def test_events_of_background_tasks_carry_the_tags_of_the_request(shop: Application) -> None:
    response, events = shop.ask("/background", count=2)
    assert response.data == b"soon"
    assert [event["event"] for event in events] == ["mail asked for", "mail sent"]
    assert {event["properties"]["$request_path"] for event in events} == {"/background"}


def test_an_event_of_a_task_that_outlives_its_request_is_sent(shop: Application) -> None:
    _, (event,) = shop.ask("/task", count=1)
    assert event["properties"]["$request_path"] == "/task"


def test_a_request_without_captures_makes_no_event(shop: Application) -> None:
    _, events = shop.ask("/", count=0)
    assert not events


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["before_response", "after_response", "each"])
def test_every_flush_policy_delivers(flush: str) -> None:
    with application(uvicorn(APP), FLUSH=flush) as shop:
        _, events = shop.ask("/orders/7", count=2)
        assert [event["event"] for event in events] == ["order viewed", "order shown"]
    assert not shop.server.output


# --- many requests -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.rule("M-7", "Q-5")
def test_200_concurrent_requests_each_have_their_own_context(shop: Application) -> None:
    """Each of 200 kept-alive connections is used twice."""
    host, port = shop.server.url.removeprefix("http://").split(":")

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, run: str) -> None:
        writer.write(
            f"GET /orders/{number} HTTP/1.1\r\nHost: shop\r\nX-LEANBASE-DISTINCT-ID: {run}-{number}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert json.loads(await reader.readexactly(length)) == {"number": number}

    async def main() -> None:
        connections = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(200)))
        for run in ("a", "b"):
            await asyncio.gather(*(ask(*connections[number], number, run) for number in range(200)))
        for _, writer in connections:
            writer.close()

    asyncio.run(main())
    ids = {f"{run}-{number}" for run in "ab" for number in range(200)}

    def stored_events() -> list[dict[str, Any]]:
        return [event for event in shop.local.store.events() if event["distinct_id"] in ids]

    wait_until(lambda: len(stored_events()) >= 800, 10)
    events = stored_events()
    assert len(events) == 800
    assert {event["times_received"] for event in events} == {1}
    for event in events:
        number = int(event["distinct_id"].partition("-")[2])
        assert event["properties"]["$request_path"] == f"/orders/{number}"
        if event["event"] == "order shown":
            assert event["properties"]["order"] == event["properties"]["number"] == number


@pytest.mark.rule("M-7")
def test_pipelined_requests_do_not_share_a_context(shop: Application) -> None:
    """uvicorn starts the second request inside the context of the first."""
    host, port = shop.server.url.removeprefix("http://").split(":")
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    with socket.create_connection((host, int(port))) as connection:
        requests = [
            f"GET /orders/1 HTTP/1.1\r\nHost: shop\r\nX-LEANBASE-DISTINCT-ID: {first}\r\n\r\n",
            f"GET /threaded/2 HTTP/1.1\r\nHost: shop\r\nX-LEANBASE-DISTINCT-ID: {second}\r\nConnection: close\r\n\r\n",
        ]
        connection.sendall("".join(requests).encode())
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.count(b"HTTP/1.1 200") == 2
    assert len(shop.events_of(first, 2)) == 2
    (event,) = shop.events_of(second, 1)
    assert "order" not in event["properties"]
    assert event["properties"]["$request_path"] == "/threaded/2"


@pytest.mark.rule("M-8")
@pytest.mark.slow
def test_a_silent_ingestion_server_delays_neither_requests_nor_the_end_of_the_server(
    server: FaultServer,
) -> None:
    """A send takes up to 10 s here."""
    server.always(Behaviour(instead="silence"))
    with serving(uvicorn(APP), INGESTION=server.url, **SHORT_GRACE) as shop:
        assert slowest_request(shop, 100) < 3
        started = time.monotonic()
        shop.stop()
        assert time.monotonic() - started < 5
    assert server.requests


def slowest_request(shop: WebServer, count: int) -> float:
    """Request a page several times, one after the other. Return the longest duration in seconds."""
    durations = []
    for number in range(count):
        started = time.monotonic()
        assert shop.get(f"/orders/{number}").status == 200
        durations.append(time.monotonic() - started)
    return max(durations)


@pytest.mark.slow
def test_with_a_buffer_all_events_are_sent_when_the_server_stops() -> None:
    with application(uvicorn(APP), SYNC_MODE="false") as shop:
        for number in range(20):
            assert shop.server.get(f"/orders/{number}").status == 200
        assert len(shop.local.store.events()) == 0
        shop.server.stop()
        events = shop.local.store.events()
    assert len(events) == 40
    assert len({event["request"] for event in events}) == 1


@pytest.mark.slow
def test_where_the_platform_freezes_a_buffer_is_flushed_before_the_response() -> None:
    with application(uvicorn(APP), SYNC_MODE="false", VERCEL="1") as shop:
        _, events = shop.ask("/orders/7")
        assert len(events) == 2


# --- WebSockets ----------------------------------------------------------------------------------------


def test_a_websocket_has_a_context_and_its_events_are_sent_when_it_closes(shop: Application) -> None:
    from websockets.sync.client import connect

    who = str(uuid.uuid4())
    address = shop.server.url.replace("http", "ws") + "/socket"
    with connect(address, additional_headers={"X-LEANBASE-DISTINCT-ID": who}) as client:
        for message in ("hello", "again"):
            client.send(message)
            assert client.recv() == message.upper()
        assert not shop.events_of(who)
        client.send("bye")
    events = shop.events_of(who, 2)
    assert [event["properties"]["text"] for event in events] == ["hello", "again"]
    assert events[0]["properties"]["$request_path"] == "/socket"
    assert events[0]["properties"]["$current_url"].startswith("ws://")


@pytest.mark.slow
def test_events_of_a_long_websocket_are_sent_at_intervals() -> None:
    from websockets.sync.client import connect

    with application(uvicorn(APP), LEANBASE_FLUSH_INTERVAL="0.2") as shop:
        who = str(uuid.uuid4())
        address = shop.server.url.replace("http", "ws") + "/socket"
        with connect(address, additional_headers={"X-LEANBASE-DISTINCT-ID": who}) as client:
            client.send("first")
            time.sleep(0.3)
            client.send("second")
            assert client.recv() == "FIRST"
            assert client.recv() == "SECOND"
            assert len(shop.events_of(who, 2)) == 2
            client.send("bye")


# --- in this process, around small applications ---------------------------------------------------------


Messages = list[dict[str, Any]]


def call(app: Any, scope: dict[str, Any] | None = None, responded: threading.Event | None = None) -> Messages:
    """Let an application respond to a request, and return the messages that it sent.

    Args:
        app: The application.
        scope: Keys of the ASGI scope that differ from those of a plain request.
        responded: Set when the application sends its body.
    """
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if responded is not None and message["type"] == "http.response.body":
            responded.set()

    asyncio.run(app({"type": "http", "path": "/", "headers": [], **(scope or {})}, receive, send))
    return sent


async def respond(send: Any, status: int = 200, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.rule("G-1")
def test_an_invalid_flush_policy_or_client_raises_at_construction() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(
        ConfigError, match="one of 'auto', 'before_response', 'after_response', 'each', not 'end'"
    ):
        LeanbaseMiddleware(app, flush="end")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        LeanbaseMiddleware(app, client="me")  # type: ignore[arg-type]


def test_lifespan_messages_pass_through_unchanged(client: Leanbase) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive))
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def receive() -> Any: ...

    async def send(message: Any) -> None:
        seen.append(message["type"])

    scope = {"type": "lifespan"}
    asyncio.run(LeanbaseMiddleware(app, client=client)(scope, receive, send))
    assert seen == [(scope, receive), "lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert scope == {"type": "lifespan"}


@pytest.mark.rule("D-2", "D-4", "D-8", "D-9")
def test_filter_extra_tags_and_tag_map(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked", distinct_id="user")
        await respond(send)

    tracked = LeanbaseMiddleware(
        app,
        client=client,
        request_filter=lambda scope: scope["path"] != "/health",
        extra_tags=lambda scope: {"tenant": "acme", "path": scope["path"]},
        tag_map=lambda tags: {name: value for name, value in tags.items() if name != "$ip"},
    )
    call(tracked, {"path": "/a", "client": ("192.0.2.1", 5)})
    wait_until_sent(client)
    properties = memory.events[0]["properties"]
    assert (properties["tenant"], properties["path"], "$ip" in properties) == ("acme", "/a", False)
    call(tracked, {"path": "/health"})
    assert "$request_path" not in memory.events[1]["properties"]

    def broken(_: Any) -> Any:
        raise RuntimeError

    call(LeanbaseMiddleware(app, client=client, request_filter=broken, extra_tags=broken), {"path": "/b"})
    wait_until_sent(client)
    assert memory.events[2]["properties"]["$request_path"] == "/b"
    tag_maps: list[Any] = [broken, lambda tags: None, lambda tags: [("secret", "leaks")]]
    for tag_map in tag_maps:
        call(LeanbaseMiddleware(app, client=client, tag_map=tag_map), {"path": "/c"})
        wait_until_sent(client)
        assert memory.events[-1]["properties"]["$context_tags"] == []
    assert {"request_filter", "extra_tags", "tag_map"} == {
        name for name in ("request_filter", "extra_tags", "tag_map") if name in caplog.text
    }


def test_identity_and_tags_are_looked_up_once_when_they_are_first_needed(client: Leanbase) -> None:
    calls = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/reads":
            assert leanbase.get_context_distinct_id() == "u-1"
            leanbase.get_tags()
            client.capture("asked")
            client.capture("asked")
        await respond(send)

    tracked = LeanbaseMiddleware(app, client=client, tag_map=lambda tags: calls.append(1) or tags)
    headers = [(b"x-leanbase-distinct-id", b"u-1")]
    call(tracked, {"path": "/quiet", "headers": headers})
    assert calls == []
    call(tracked, {"path": "/reads", "headers": headers})
    assert calls == [1]


@pytest.mark.rule("M-5", "K-3")
def test_identity_and_tags_of_the_application_win(client: Leanbase, memory: MemoryTransport) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        leanbase.identify_context("user_1")
        leanbase.tag("$request_path", "/mine")
        client.capture("asked")
        await respond(send)

    call(LeanbaseMiddleware(app, client=client), {"headers": [(b"x-leanbase-distinct-id", b"u-1")]})
    wait_until_sent(client)
    assert memory.events[0]["distinct_id"] == "user_1"
    assert memory.events[0]["properties"]["$request_path"] == "/mine"


@pytest.mark.rule("K-1", "M-7")
def test_a_request_leaves_nothing_in_the_asgi_scope_or_the_context_around_it(client: Leanbase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        leanbase.tag("a", 1)
        await respond(send)

    async def main() -> None:
        scope = {"type": "http", "path": "/", "headers": []}
        with leanbase.new_context():
            leanbase.tag("mine", True)

            async def send(message: Any) -> None: ...

            await LeanbaseMiddleware(app, client=client)(scope, send, send)  # type: ignore[arg-type]
            assert leanbase.get_tags() == {"mine": True}
        assert scope == {"type": "http", "path": "/", "headers": []}

    asyncio.run(main())


def test_a_middleware_inside_another_leaves_the_send_to_the_outer_one(
    client: Leanbase, memory: MemoryTransport
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked", distinct_id="u")
        await respond(send)

    inner = LeanbaseMiddleware(app, client=client, flush="before_response")
    call(LeanbaseMiddleware(inner, client=client, extra_tags=lambda scope: {"outer": True}))
    wait_until_sent(client)
    assert memory.events[0]["properties"]["outer"] is True


def test_inside_a_job_a_request_inherits_the_context_and_the_job_sends(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """Inside a plain context and scope, the request has a context and a scope of its own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked")
        await respond(send)

    tracked = LeanbaseMiddleware(app, client=client)

    @leanbase.job(client=client)
    def main() -> None:
        leanbase.tag("job", "nightly")
        call(tracked)
        assert not memory.events

    main()
    assert memory.events[0]["properties"]["job"] == "nightly"

    with client.new_context(), client.delivery_scope():
        leanbase.tag("job", "nightly")
        call(tracked)
        assert len(memory.events) == 1
    assert "job" not in memory.events[1]["properties"]


@pytest.mark.rule("K-17")
def test_an_exception_object_is_captured_again_in_the_next_request(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """An application may store an exception and raise it in every request. Each request has one event."""
    stored = ValueError("no configuration")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise stored

    tracked = LeanbaseMiddleware(LeanbaseMiddleware(app, client=client), client=client)
    for _ in range(2):
        with pytest.raises(ValueError, match="no configuration"):
            call(tracked)
    wait_until_sent(client)
    assert [event["event"] for event in memory.events] == ["$exception", "$exception"]


@pytest.mark.rule("M-8")
def test_with_trailers_events_are_sent_before_the_last_trailer(
    client: Leanbase, memory: MemoryTransport
) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        client.capture("asked", distinct_id="u")
        seen.append(len(memory.events))
        await send({"type": "http.response.trailers", "headers": [], "more_trailers": False})
        seen.append(len(memory.events))

    call(LeanbaseMiddleware(app, client=client, flush="before_response"))
    assert seen == [0, 1]


@pytest.mark.rule("X-21", "M-8")
@pytest.mark.parametrize("flush", ["before_response", "after_response"])
def test_an_exception_that_becomes_a_5xx_response_has_the_source_of_its_handler(
    flush: Any, client: Leanbase, memory: MemoryTransport
) -> None:
    """Starlette raises an exception again after the response of a handler for `Exception`: it is unhandled."""
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    class OutOfStock(Exception):
        pass

    async def out_of_stock(request: Any) -> PlainTextResponse:
        raise OutOfStock

    async def fails(request: Any) -> PlainTextResponse:
        raise ValueError("no money left")

    async def later() -> None:
        assert responded.is_set(), "the response waits for its background task"

    async def sorry(request: Any, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("sorry", 503, background=BackgroundTask(later))

    async def everything(request: Any, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("oops", 500)

    app = Starlette(
        routes=[Route("/out-of-stock", out_of_stock), Route("/fails", fails)],
        exception_handlers={OutOfStock: sorry, Exception: everything},
    )
    tracked = LeanbaseMiddleware(app, client=client, flush=flush)
    responded = threading.Event()
    call(tracked, {"path": "/out-of-stock", "method": "GET", "query_string": b""}, responded)
    wait_until_sent(client)
    assert exception_of(memory.events)[3:] == (True, "asgi.exception_handler")
    memory.events.clear()
    with pytest.raises(ValueError, match="no money left"):
        call(tracked, {"path": "/fails", "method": "GET", "query_string": b""})
    wait_until_sent(client)
    assert exception_of(memory.events)[3:] == (False, "asgi.middleware")


def test_an_exception_that_the_caller_of_the_application_handles_is_not_captured(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """`sys.exc_info()` shows this exception inside the application, which responds with 503."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, 503)

    tracked = LeanbaseMiddleware(app, client=client, flush="before_response")
    try:
        raise KeyError("cache")
    except KeyError:
        call(tracked)
    assert not memory.events


@pytest.mark.rule("M-9")
def test_outgoing_requests_carry_no_header_of_the_sdk(
    make: Callable[..., Leanbase], server: FaultServer
) -> None:
    """Neither the application's own requests nor the sends of the client."""
    client = make(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked")
        with urllib3.PoolManager() as pool:
            pool.request("POST", f"{server.url}/other", body=b"{}", retries=False, timeout=5)
        await respond(send)

    names = [b"x-leanbase-session-id", b"x-leanbase-distinct-id", b"x-posthog-session-id"]
    call(LeanbaseMiddleware(app, client=client), {"headers": [(name, b"1") for name in names]})
    wait_until_sent(client, 1)
    assert len(server.requests) == 2
    sent = {name for request in server.requests for name in request.headers}
    assert not [name for name in sent if name.startswith(("x-leanbase", "x-posthog"))]


@pytest.mark.slow
@pytest.mark.rule("Q-54", "M-8")
def test_a_full_scope_does_not_send_on_the_event_loop(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.3))
    client = make(server, flush_at=10)
    durations = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started = time.monotonic()
        for number in range(30):
            client.capture("row", distinct_id="u", properties={"number": number})
        durations.append(time.monotonic() - started)
        await respond(send)

    call(LeanbaseMiddleware(app, client=client))
    wait_until_sent(client, 30)
    assert durations[0] < 0.2


@pytest.mark.rule("M-10")
def test_in_lambda_the_ip_is_the_one_that_the_platform_reports(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """Mangum puts the Lambda event into the ASGI scope. The client can set `X-Forwarded-For` to anything."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked")
        await respond(send)

    headers = [(b"x-forwarded-for", b"6.6.6.6, 203.0.113.9")]
    api = {"requestContext": {"http": {"sourceIp": "203.0.113.9"}}}
    balancer: dict[str, Any] = {"requestContext": {"elb": {}}}
    for event in (api, balancer):
        call(LeanbaseMiddleware(app, client=client), {"headers": headers, "aws.event": event})
        wait_until_sent(client)
        assert memory.events[-1]["properties"]["$ip"] == "203.0.113.9"
