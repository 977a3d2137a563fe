"""The ASGI middleware under uvicorn, with FastAPI and Starlette, seen from the ingestion server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.integrations.asgi import LeanbaseMiddleware
from leanbase.transports import MemoryTransport
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.web_servers import Application, WebServer, application, serving, uvicorn

APP = "tests.integrations.apps.web_fastapi:app"


@pytest.fixture(scope="module")
def shop() -> Iterator[Application]:
    """The events leave after the response."""
    with application(uvicorn(APP), stops=False) as running:
        yield running


@pytest.fixture(scope="module")
def frozen() -> Iterator[Application]:
    """The events leave before the response, as where the process may be frozen after it."""
    with application(uvicorn(APP), stops=False, K_SERVICE="shop") as running:
        yield running


def exception_of(events: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What the one exception among some events says about how it was captured."""
    (properties,) = [event["properties"] for event in events if event["event"] == "$exception"]
    mechanism = properties["$exception_list"][0]["mechanism"]
    source = properties.get("$exception_source")
    return (
        properties["$exception_type"],
        properties["$exception_level"],
        mechanism["type"],
        mechanism["handled"],
        source,
    )


# --- who asks for what --------------------------------------------------------------------------------


def test_events_carry_the_request(shop: Application) -> None:
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


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/threaded/3", "/threaded/{number}"),
        ("/shop/items/tea", "/shop/items/{name}"),
        ("/admin/reports/2026", "/admin/reports/{year}"),
    ],
)
def test_routes_of_threads_routers_and_mounts(shop: Application, path: str, route: str) -> None:
    _, (event,) = shop.ask(path, count=1)
    assert event["properties"]["$request_route"] == route


def test_the_peer_is_who_asks_without_a_proxy(shop: Application) -> None:
    _, events = shop.ask("/threaded/3", count=1, headers={"X-Forwarded-Proto": "https"})
    assert events[0]["properties"]["$ip"] == "127.0.0.1"
    assert events[0]["properties"]["$current_url"].startswith("https://127.0.0.1:")


# --- what is a failure --------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", ["shop", "frozen"])
@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/fails", 500, ("ValueError", "error", "middleware", False, "asgi.middleware")),
        ("/fails-in-thread", 500, ("ValueError", "error", "middleware", False, "asgi.middleware")),
        ("/out-of-stock", 503, ("OutOfStock", "error", "middleware", True, "fastapi.exception_handler")),
    ],
)
def test_one_exception_for_each_failing_request(
    flush: str, path: str, status: int, expected: Any, request: pytest.FixtureRequest
) -> None:
    shop: Application = request.getfixturevalue(flush)
    response, events = shop.ask(path, count=1)
    assert response.status == status
    assert exception_of(events) == expected
    frames = events[0]["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    assert frames[-1]["filename"].endswith("web_fastapi.py")
    if path == "/fails":
        assert events[0]["properties"]["step"] == "payment"


@pytest.mark.parametrize(("path", "status"), [("/missing", 404), ("/teapot", 418), ("/nowhere", 404)])
def test_what_is_answered_below_500_is_no_failure(shop: Application, path: str, status: int) -> None:
    response, events = shop.ask(path, count=0)
    assert (response.status, events) == (status, [])


def test_a_failure_in_the_body_is_the_requests(shop: Application) -> None:
    who = str(uuid.uuid4())
    with pytest.raises(Exception, match=r"IncompleteRead|prematurely"):
        shop.server.get("/stream-fails", headers={"X-LEANBASE-DISTINCT-ID": who})
    events = shop.events_of(who, 1)
    assert exception_of(events)[0] == "RuntimeError"
    assert events[0]["properties"]["$response_status_code"] == 200


def test_a_client_that_hangs_up_is_no_failure(shop: Application) -> None:
    who = str(uuid.uuid4())
    response = shop.server.get("/endless", headers={"X-LEANBASE-DISTINCT-ID": who}, preload_content=False)
    response.read(2000)
    response.close()
    time.sleep(0.3)
    assert [event["event"] for event in shop.events_of(who, 1)] == ["endless began"]


def test_a_failure_has_the_identity_that_a_dependency_gave(shop: Application) -> None:
    """Below a middleware that runs the rest in a task of its own, where ours is inside of it as well."""
    assert shop.server.get("/guarded/dependency").status == 500
    events = shop.events_of("user of /guarded/dependency", 1)
    assert exception_of(events) == ("ValueError", "error", "middleware", False, "asgi.middleware")
    assert events[0]["properties"]["plan"] == "pro"


def test_a_failure_beside_others_mixes_no_persons(client: Leanbase, memory: MemoryTransport) -> None:
    async def one(number: int) -> None:
        leanbase.identify_context(f"user_{number}")
        leanbase.tag("number", number)
        await asyncio.sleep(0)
        if number == 1:
            raise ValueError("no money left")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        count = int(scope["path"][1:])
        await asyncio.gather(*(one(number) for number in range(count)))
        raise ValueError("no money left")

    for count in (1, 3):
        memory.events.clear()
        with pytest.raises(ValueError, match="no money left"):
            call(LeanbaseMiddleware(app, client=client, flush="before_response"), {"path": f"/{count}"})
        (event,) = memory.events
        assert not event["distinct_id"].startswith("user_")
        assert "number" not in event["properties"]


# --- when events leave --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "count"), [("/orders/7", 2), ("/threaded/1", 1), ("/stream", 3), ("/fails", 1)]
)
def test_where_the_platform_freezes_all_is_there_before_the_last_byte(
    frozen: Application, path: str, count: int
) -> None:
    _, events = frozen.ask(path)
    assert len(events) == count
    assert len({event["request"] for event in events}) == 1


def test_what_background_tasks_capture_is_the_requests(shop: Application) -> None:
    response, events = shop.ask("/background", count=2)
    assert response.data == b"soon"
    assert [event["event"] for event in events] == ["mail asked for", "mail sent"]
    assert {event["properties"]["$request_path"] for event in events} == {"/background"}


def test_what_a_task_captures_that_outlives_its_request_is_sent(shop: Application) -> None:
    _, (event,) = shop.ask("/task", count=1)
    assert event["properties"]["$request_path"] == "/task"


def test_a_request_without_events_sends_nothing(shop: Application) -> None:
    _, events = shop.ask("/", count=0)
    assert not events


@pytest.mark.slow
@pytest.mark.parametrize("flush", ["before_response", "after_response", "each"])
def test_every_policy_delivers(flush: str) -> None:
    with application(uvicorn(APP), FLUSH=flush) as shop:
        _, events = shop.ask("/orders/7", count=2)
        assert [event["event"] for event in events] == ["order viewed", "order shown"]
    assert not shop.server.output


# --- many at a time ------------------------------------------------------------------------------------


def test_200_requests_at_a_time_each_have_their_own_identity(shop: Application) -> None:
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
    deadline = time.monotonic() + 10
    wanted = {f"{run}-{number}" for run in "ab" for number in range(200)}
    while time.monotonic() < deadline:
        events = [event for event in shop.local.store.events() if event["distinct_id"] in wanted]
        if len(events) >= 800:
            break
        time.sleep(0.05)
    assert len(events) == 800
    assert {event["times_received"] for event in events} == {1}
    for event in events:
        number = int(event["distinct_id"].partition("-")[2])
        assert event["properties"]["$request_path"] == f"/orders/{number}"
        if event["event"] == "order shown":
            assert event["properties"]["order"] == event["properties"]["number"] == number


def test_pipelined_requests_do_not_share_a_context(shop: Application) -> None:
    """uvicorn starts the second one inside the context of the first."""
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


@pytest.mark.slow
def test_a_silent_ingestion_server_delays_no_request(server: FaultServer) -> None:
    """A send takes up to 10 s here; no request waits for it."""
    server.always(Behaviour(instead="silence"))
    with serving(uvicorn(APP), INGESTION=server.url) as shop:
        slowest = slowest_of(shop, 100)
    assert slowest < 3
    assert server.requests


def slowest_of(shop: WebServer, count: int) -> float:
    took = []
    for number in range(count):
        before = time.monotonic()
        assert shop.get(f"/orders/{number}").status == 200
        took.append(time.monotonic() - before)
    return max(took)


@pytest.mark.slow
def test_with_a_buffer_a_request_costs_no_send_and_nothing_is_lost() -> None:
    with application(uvicorn(APP), SYNC_MODE="false") as shop:
        for number in range(20):
            assert shop.server.get(f"/orders/{number}").status == 200
        assert len(shop.local.store.events()) == 0
        shop.server.stop()
        events = shop.local.store.events()
    assert len(events) == 40
    assert len({event["request"] for event in events}) == 1


@pytest.mark.slow
def test_with_a_buffer_it_is_flushed_where_the_platform_freezes() -> None:
    with application(uvicorn(APP), SYNC_MODE="false", VERCEL="1") as shop:
        _, events = shop.ask("/orders/7")
        assert len(events) == 2


# --- WebSockets ----------------------------------------------------------------------------------------


def test_a_websocket_has_a_context_and_sends_when_it_closes(shop: Application) -> None:
    from websockets.sync.client import connect

    who = str(uuid.uuid4())
    address = shop.server.url.replace("http", "ws") + "/socket"
    with connect(address, additional_headers={"X-LEANBASE-DISTINCT-ID": who}) as client:
        for text in ("hello", "again"):
            client.send(text)
            assert client.recv() == text.upper()
        assert not shop.events_of(who)
        client.send("bye")
    events = shop.events_of(who, 2)
    assert [event["properties"]["text"] for event in events] == ["hello", "again"]
    assert events[0]["properties"]["$request_path"] == "/socket"
    assert events[0]["properties"]["$current_url"].startswith("ws://")


def test_a_long_websocket_sends_at_intervals() -> None:
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


# --- in this process: what no framework is needed for ---------------------------------------------------


Messages = list[dict[str, Any]]


def call(app: Any, scope: dict[str, Any] | None = None, answered: threading.Event | None = None) -> Messages:
    """Let an application answer a request; what it sent. `answered` is set with the last message."""
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if answered is not None and message["type"] == "http.response.body":
            answered.set()

    asyncio.run(app({"type": "http", "path": "/", "headers": [], **(scope or {})}, receive, send))
    return sent


async def answer(send: Any, status: int = 200, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def delivered(client: Leanbase) -> None:
    deadline = time.monotonic() + 5
    while client.stats()["retained"] and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_wrong_policy_is_found_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(
        ConfigError, match="one of 'auto', 'before_response', 'after_response', 'each', not 'end'"
    ):
        LeanbaseMiddleware(app, flush="end")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        LeanbaseMiddleware(app, client="me")  # type: ignore[arg-type]


def test_lifespan_passes_through_untouched(client: Leanbase) -> None:
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


def test_filter_extra_tags_and_tag_map(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked", distinct_id="user")
        await answer(send)

    tracked = LeanbaseMiddleware(
        app,
        client=client,
        request_filter=lambda scope: scope["path"] != "/health",
        extra_tags=lambda scope: {"tenant": "acme", "path": scope["path"]},
        tag_map=lambda tags: {name: value for name, value in tags.items() if name != "$ip"},
    )
    call(tracked, {"path": "/a", "client": ("192.0.2.1", 5)})
    delivered(client)
    properties = memory.events[0]["properties"]
    assert (properties["tenant"], properties["path"], "$ip" in properties) == ("acme", "/a", False)
    call(tracked, {"path": "/health"})
    assert "$request_path" not in memory.events[1]["properties"]

    def broken(_: Any) -> Any:
        raise RuntimeError

    call(LeanbaseMiddleware(app, client=client, request_filter=broken, extra_tags=broken), {"path": "/b"})
    delivered(client)
    assert memory.events[2]["properties"]["$request_path"] == "/b"
    tag_maps: list[Any] = [broken, lambda tags: None, lambda tags: [("secret", "leaks")]]
    for tag_map in tag_maps:
        call(LeanbaseMiddleware(app, client=client, tag_map=tag_map), {"path": "/c"})
        delivered(client)
        assert memory.events[-1]["properties"]["$context_tags"] == []
    assert {"request_filter", "extra_tags", "tag_map"} == {
        name for name in ("request_filter", "extra_tags", "tag_map") if name in caplog.text
    }


def test_identity_and_tags_are_looked_up_once_when_they_are_needed(client: Leanbase) -> None:
    calls = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/reads":
            assert leanbase.get_context_distinct_id() == "u-1"
            leanbase.get_tags()
            client.capture("asked")
            client.capture("asked")
        await answer(send)

    tracked = LeanbaseMiddleware(app, client=client, tag_map=lambda tags: calls.append(1) or tags)
    headers = [(b"x-leanbase-distinct-id", b"u-1")]
    call(tracked, {"path": "/quiet", "headers": headers})
    assert calls == []
    call(tracked, {"path": "/reads", "headers": headers})
    assert calls == [1]


def test_what_the_application_says_wins(client: Leanbase, memory: MemoryTransport) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        leanbase.identify_context("user_1")
        leanbase.tag("$request_path", "/mine")
        client.capture("asked")
        await answer(send)

    call(LeanbaseMiddleware(app, client=client), {"headers": [(b"x-leanbase-distinct-id", b"u-1")]})
    delivered(client)
    assert memory.events[0]["distinct_id"] == "user_1"
    assert memory.events[0]["properties"]["$request_path"] == "/mine"


def test_nothing_is_left_in_the_scope_nor_in_the_context(client: Leanbase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        leanbase.tag("a", 1)
        await answer(send)

    async def main() -> None:
        scope = {"type": "http", "path": "/", "headers": []}
        with leanbase.new_context():
            leanbase.tag("mine", True)

            async def send(message: Any) -> None: ...

            await LeanbaseMiddleware(app, client=client)(scope, send, send)  # type: ignore[arg-type]
            assert leanbase.get_tags() == {"mine": True}
        assert scope == {"type": "http", "path": "/", "headers": []}

    asyncio.run(main())


def test_inside_another_the_outer_one_sends(client: Leanbase, memory: MemoryTransport) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked", distinct_id="u")
        await answer(send)

    inner = LeanbaseMiddleware(app, client=client, flush="before_response")
    call(LeanbaseMiddleware(inner, client=client, extra_tags=lambda scope: {"outer": True}))
    delivered(client)
    assert memory.events[0]["properties"]["outer"] is True


def test_inside_a_job_the_context_is_inherited_and_the_job_sends(
    client: Leanbase, memory: MemoryTransport
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked")
        await answer(send)

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


def test_an_exception_is_captured_in_each_request_that_it_ends(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """A stored failure is raised again and again (K-17)."""
    stored = ValueError("no configuration")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise stored

    tracked = LeanbaseMiddleware(LeanbaseMiddleware(app, client=client), client=client)
    for _ in range(2):
        with pytest.raises(ValueError, match="no configuration"):
            call(tracked)
    delivered(client)
    assert [event["event"] for event in memory.events] == ["$exception", "$exception"]


def test_with_trailers_the_last_message_is_another(client: Leanbase, memory: MemoryTransport) -> None:
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


@pytest.mark.parametrize("flush", ["before_response", "after_response"])
def test_a_5xx_that_answers_an_exception_says_who_did(
    flush: Any, client: Leanbase, memory: MemoryTransport
) -> None:
    """Also around Starlette's own answer, which raises the exception again."""
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
        assert answered.is_set(), "the response waits for its background task"

    async def sorry(request: Any, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("sorry", 503, background=BackgroundTask(later))

    async def everything(request: Any, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("oops", 500)

    app = Starlette(
        routes=[Route("/out-of-stock", out_of_stock), Route("/fails", fails)],
        exception_handlers={OutOfStock: sorry, Exception: everything},
    )
    tracked = LeanbaseMiddleware(app, client=client, flush=flush)
    answered = threading.Event()
    call(tracked, {"path": "/out-of-stock", "method": "GET", "query_string": b""}, answered)
    delivered(client)
    assert exception_of(memory.events)[3:] == (True, "asgi.exception_handler")
    memory.events.clear()
    with pytest.raises(ValueError, match="no money left"):
        call(tracked, {"path": "/fails", "method": "GET", "query_string": b""})
    delivered(client)
    assert exception_of(memory.events)[3:] == (False, "asgi.middleware")


def test_what_the_caller_of_an_application_handles_is_not_its_failure(
    client: Leanbase, memory: MemoryTransport
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 503)

    tracked = LeanbaseMiddleware(app, client=client, flush="before_response")
    try:
        raise KeyError("cache")
    except KeyError:
        call(tracked)
    assert not memory.events


def test_a_full_scope_does_not_send_on_the_event_loop(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.5))
    client = make(server, flush_at=10)
    pauses = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = time.monotonic()
        for number in range(30):
            client.capture("row", distinct_id="u", properties={"number": number})
        pauses.append(time.monotonic() - before)
        await answer(send)

    call(LeanbaseMiddleware(app, client=client))
    deadline = time.monotonic() + 10
    while client.stats()["delivered"] < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.stats()["delivered"] == 30
    assert pauses[0] < 0.4


def test_lambda_says_who_asks(client: Leanbase, memory: MemoryTransport) -> None:
    """Mangum leaves the event in the scope; what a client claims does not count there."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client.capture("asked")
        await answer(send)

    headers = [(b"x-forwarded-for", b"6.6.6.6, 203.0.113.9")]
    api = {"requestContext": {"http": {"sourceIp": "203.0.113.9"}}}
    balancer: dict[str, Any] = {"requestContext": {"elb": {}}}
    for event in (api, balancer):
        call(LeanbaseMiddleware(app, client=client), {"headers": headers, "aws.event": event})
        delivered(client)
        assert memory.events[-1]["properties"]["$ip"] == "203.0.113.9"


# --- on an event loop without a middleware --------------------------------------------------------------


def test_async_with_delivers_while_the_loop_goes_on(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.5))
    client = make(server)
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def main() -> None:
        ticking = asyncio.ensure_future(tick())
        async with client.delivery_scope() as scope:
            client.capture("e", distinct_id="u")
            await asyncio.sleep(0.02)
        assert scope.receipt.delivered == 1
        assert client.stats()["delivered"] == 1
        ticking.cancel()

    asyncio.run(main())
    assert len(ticks) > 10
    assert max(later - earlier for earlier, later in itertools.pairwise(ticks)) < 0.4


def test_async_with_tells_what_could_not_be_delivered(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    client = make(server, max_retries=0)

    async def main() -> Any:
        async with client.delivery_scope() as scope:
            client.capture("e", distinct_id="u")
        return scope.receipt

    receipt = asyncio.run(main())
    assert not receipt
    assert (receipt.retained, receipt.delivered) == (1, 0)


def test_async_with_takes_no_longer_than_a_send_may(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = make(server, send_deadline=0.5)

    async def one() -> None:
        async with client.delivery_scope():
            client.capture("e", distinct_id="u")

    async def main() -> float:
        before = time.monotonic()
        await asyncio.gather(*(one() for _ in range(20)))
        return time.monotonic() - before

    assert asyncio.run(main()) < 3
    assert client.stats()["retained"] == 20


def test_a_cancelled_block_leaves_its_events_to_the_thread(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.3))
    client = make(server)

    async def block() -> None:
        async with client.delivery_scope():
            client.capture("e", distinct_id="u")

    async def main() -> None:
        running = asyncio.ensure_future(block())
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0.5)

    asyncio.run(main())
    assert client.stats()["delivered"] == 1


def test_threads_of_the_sender_are_few_and_a_fork_has_its_own(make: Any, server: FaultServer) -> None:
    clients = [make(server) for _ in range(8)]
    server.always(Behaviour(delay=0.2))

    async def main() -> None:
        async with clients[0].delivery_scope():
            for client in clients:
                client.capture("e", distinct_id="u")
            await asyncio.sleep(0)
        senders = [thread for thread in threading.enumerate() if thread.name == "leanbase-sender"]
        assert 1 <= len(senders) <= 4

    asyncio.run(main())
    assert len(server.events) == 8
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(_one(clients[0]))
            os._exit(0 if clients[0].stats()["delivered"] == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def _one(client: Leanbase) -> None:
    async with client.delivery_scope():
        client.capture("e", distinct_id="u")
