"""The WSGI middleware: under gunicorn with a WSGI application, and in this process.

A fixture runs `apps/web_wsgi.py` in a server process, and a `LocalServer` in this process, which stores its events.
Each test requests a path over HTTP with an id of its own, and looks at the stored events of this id. The tests in the
second half call the middleware in this process, around a small WSGI application of their own.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

import leanbase
from leanbase import Leanbase
from leanbase.integrations.wsgi import LeanbaseMiddleware
from leanbase.transports import MemoryTransport
from tests.integrations.helpers import exception_of, wait_until_sent
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.forking import run_in_forked_child
from tests.support.programs import run_program
from tests.support.web_servers import Application, application, configuration, gunicorn, serving

APP = "tests.integrations.apps.web_wsgi:app"


@pytest.fixture(scope="module")
def shop() -> Iterator[Application]:
    """Its server uses threads. They do not wait for the sends of their requests."""
    with application(gunicorn(APP, "--threads", "4"), stops=False) as running:
        yield running


@pytest.fixture(scope="module")
def freezing_shop() -> Iterator[Application]:
    """On a platform that may freeze the process after the response, so the events are sent before it."""
    with application(gunicorn(APP), stops=False, VERCEL="1") as running:
        yield running


@pytest.mark.rule("D-9", "M-1", "M-10")
def test_events_carry_the_tags_of_the_request(shop: Application) -> None:
    headers = {"X-POSTHOG-SESSION-ID": "s-1", "User-Agent": "test/1"}
    response, (event,) = shop.ask("/index/caf%C3%A9?token=abc123&page=2", count=1, headers=headers)
    assert response.data == b"thanks"
    properties = event["properties"]
    assert properties["$session_id"] == "s-1"
    assert properties["$request_method"] == "GET"
    assert properties["$request_path"] == "/index/café"
    assert properties["$ip"] == "127.0.0.1"
    assert properties["$user_agent"] == "test/1"
    assert properties["$current_url"].startswith(
        f"{shop.server.url}/index/caf%C3%A9?token=$$_leanbase_redacted"
    )
    assert properties["$current_url"].endswith("&page=2")


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        ("/quiet", b"quiet", []),
        ("/generated", b"part part part ", ["part"] * 3),
        ("/sized", b"1234512345", ["part"] * 2),
        ("/closes", b"body", ["closed"]),
    ],
)
def test_events_captured_while_the_body_is_produced_belong_to_the_request(
    shop: Application, path: str, body: bytes, events: list[str]
) -> None:
    response, captured = shop.ask(path, count=len(events))
    assert response.data == body
    assert [event["event"] for event in captured] == events
    if path == "/generated":
        assert [event["properties"]["began"] for event in captured] == [True] * 3


@pytest.mark.rule("M-8")
def test_a_file_is_still_sent_by_the_server_itself(shop: Application) -> None:
    response, (event,) = shop.ask("/file", count=1)
    assert response.data.startswith(b'"""A WSGI application')
    assert event["event"] == "downloaded"


@pytest.mark.rule("D-9", "M-8", "X-21")
@pytest.mark.parametrize("server", ["shop", "freezing_shop"])
@pytest.mark.parametrize(
    ("path", "kind", "is_handled"),
    [
        ("/fails", "ValueError", False),
        ("/fails-in-body", "RuntimeError", False),
        ("/handles-exception", "KeyError", True),
    ],
)
def test_a_failing_request_makes_one_exception_event(
    server: str, path: str, kind: str, is_handled: bool, request: pytest.FixtureRequest
) -> None:
    shop: Application = request.getfixturevalue(server)
    who = str(uuid.uuid4())
    with pytest.raises(ProtocolError) if path == "/fails-in-body" else nullcontext():
        shop.server.get(path, headers={"X-LEANBASE-DISTINCT-ID": who})
    events = shop.events_of(who, 1)
    assert exception_of(events) == (kind, "error", "middleware", is_handled, "wsgi.middleware")
    frames = events[0]["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    assert frames[-1]["filename"].endswith("web_wsgi.py")


@pytest.mark.rule("M-8")
@pytest.mark.parametrize(
    ("path", "count"), [("/index", 1), ("/generated", 3), ("/sized", 2), ("/file", 1), ("/fails", 1)]
)
def test_where_the_platform_freezes_events_are_delivered_before_the_last_byte(
    freezing_shop: Application, path: str, count: int
) -> None:
    _, events = freezing_shop.ask(path)
    assert len(events) == count


@pytest.mark.rule("M-8")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--threads", "8"], ["--worker-class", "gevent"]], ids=["threads", "gevent"]
)
def test_a_silent_ingestion_server_delays_no_request(server: FaultServer, options: list[str]) -> None:
    """A send takes up to 5 s here. Threads and greenlets do not wait for it."""
    server.always(Behaviour(instead="silence"))
    with serving(gunicorn(APP, *options), INGESTION=server.url, LEANBASE_SEND_DEADLINE="5") as shop:

        def duration_of_a_request(_: int) -> float:
            started = time.monotonic()
            assert shop.get("/index").data == b"thanks"
            return time.monotonic() - started

        with ThreadPoolExecutor(8) as pool:
            assert max(pool.map(duration_of_a_request, range(100))) < 3
    assert server.requests


@pytest.mark.rule("Q-55")
@pytest.mark.slow
def test_a_silent_ingestion_server_delays_one_request_of_a_synchronous_worker(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    with serving(gunicorn(APP), INGESTION=server.url, LEANBASE_SEND_DEADLINE="3") as shop:
        durations = []
        for _ in range(30):
            started = time.monotonic()
            assert shop.get("/index").data == b"thanks"
            durations.append(time.monotonic() - started)
    assert len([seconds for seconds in durations if seconds > 1]) == 1
    assert max(durations) < 6


@pytest.mark.slow
def test_with_a_buffer_a_silent_ingestion_server_delays_no_request_of_a_synchronous_worker(
    server: FaultServer,
) -> None:
    server.always(Behaviour(instead="silence"))
    with serving(gunicorn(APP), INGESTION=server.url, SYNC_MODE="false", LEANBASE_FLUSH_AT="5") as shop:
        for _ in range(50):
            started = time.monotonic()
            assert shop.get("/index").data == b"thanks"
            assert time.monotonic() - started < 1


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_no_event_is_lost_when_forked_workers_are_recycled(sync_mode: str) -> None:
    options = [
        "--preload",
        "--workers",
        "4",
        "--threads",
        "2",
        "--max-requests",
        "100",
        "--max-requests-jitter",
        "20",
    ]
    with application(gunicorn(APP, *options), SYNC_MODE=sync_mode) as shop:

        def is_answered(_: int) -> bool:
            for _ in range(20):
                try:
                    return shop.server.get("/index").status == 200
                except Exception:
                    time.sleep(
                        0.05
                    )  # a worker that ends also closes connections that it has not yet accepted
            return False

        with ThreadPoolExecutor(8) as pool:
            answered = sum(pool.map(is_answered, range(1000)))
        shop.server.stop()
        events = shop.local.store.events()
    assert answered == 1000
    assert len(events) >= 1000
    assert {event["times_received"] for event in events} == {1}
    assert len(Counter(event["properties"]["pid"] for event in events)) > 4


# --- in this process, around small applications ---------------------------------------------------------


def call(app: Any, **environ: Any) -> tuple[str, bytes]:
    """Let an application respond to a request, as a server does, and return status and body."""
    statuses = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda data: None

    body = app({"PATH_INFO": "/", "SERVER_NAME": "shop", "SERVER_PORT": "80", **environ}, start_response)
    try:
        return statuses[0], b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()


@pytest.mark.rule("M-8")
def test_a_body_with_a_length_keeps_its_length(client: Leanbase) -> None:
    """Servers derive the Content-Length from a body that has one part."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"ok"]

    body: Any = LeanbaseMiddleware(app, client=client)({}, lambda *_: None)
    assert len(body) == 1


@pytest.mark.rule("M-10")
def test_without_a_host_header_the_url_has_the_name_of_the_server(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        start_response("200 OK", [])
        return [b"ok"]

    tracked = LeanbaseMiddleware(app, client=client)
    for port, url in (("80", "http://shop/mount/a%20b"), ("8080", "http://shop:8080/mount/a%20b")):
        environ = {
            "wsgi.url_scheme": "http",
            "SCRIPT_NAME": "/mount",
            "PATH_INFO": "/a b",
            "SERVER_PORT": port,
        }
        assert call(tracked, **environ) == ("200 OK", b"ok")
        assert memory.events[-1]["properties"]["$current_url"] == url
        assert memory.events[-1]["properties"]["$request_path"] == "/mount/a b"


def test_an_empty_environ_makes_no_tags_and_fails_no_request(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        return [b""]

    list(LeanbaseMiddleware(app, client=client, flush="before_response")({}, lambda *_: None))
    assert memory.events[0]["properties"]["$context_tags"] == []


@pytest.mark.rule("M-7")
def test_a_streamed_body_leaves_no_context_in_the_thread_between_its_parts(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        leanbase.tag("request", environ["PATH_INFO"])
        yield b"a"
        client.capture("asked")
        yield b"b"

    tracked = LeanbaseMiddleware(app, client=client)
    bodies = [
        iter(tracked({"PATH_INFO": path, "SERVER_NAME": "shop"}, lambda *_: None)) for path in ("/1", "/2")
    ]
    for _ in range(2):
        for body in bodies:
            next(body)
            assert leanbase.get_tags() == {}
    for body in bodies:
        body.close()  # type: ignore[attr-defined]
    assert [event["properties"]["request"] for event in memory.events] == ["/1", "/2"]


def test_a_discarded_response_loses_no_event(client: Leanbase, memory: MemoryTransport) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        start_response("204 No Content", [])
        return [b""]

    tracked = LeanbaseMiddleware(app, client=client)
    tracked({}, lambda *_: None)
    assert client.stats()["retained"] == 1
    call(tracked)
    wait_until_sent(client)
    assert len(memory.events) == 2


@pytest.mark.rule("Q-60", "K-7")
def test_a_child_forked_in_a_request_has_no_events_and_tags_of_it(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def assert_is_empty() -> None:
        assert (client.stats()["captured"], leanbase.get_tags()) == (0, {})

    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        run_in_forked_child(assert_is_empty)
        start_response("204 No Content", [])
        return [b""]

    call(LeanbaseMiddleware(app, client=client, flush="before_response"))
    assert len(memory.events) == 1


@pytest.mark.slow
@pytest.mark.rule("Q-54", "M-8")
def test_a_full_scope_does_not_make_a_thread_wait(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.3))
    shop = make(server, flush_at=10)
    durations = []

    def app(environ: Any, start_response: Any) -> Any:
        started = time.monotonic()
        for _ in range(30):
            shop.capture("row", distinct_id="u")
        durations.append(time.monotonic() - started)
        start_response("204 No Content", [])
        return [b""]

    call(LeanbaseMiddleware(app, client=shop), **{"wsgi.multithread": True})
    wait_until_sent(shop, 30)
    assert durations[0] < 0.2


def test_with_the_policy_each_a_capture_waits_for_its_send(make: Any, server: FaultServer) -> None:
    shop = make(server)

    def app(environ: Any, start_response: Any) -> Any:
        shop.capture("row", distinct_id="u")
        assert len(server.events) == 1
        start_response("204 No Content", [])
        return [b""]

    call(LeanbaseMiddleware(app, client=shop, flush="each"), **{"wsgi.multithread": True})


@pytest.mark.rule("M-10")
def test_in_lambda_the_ip_is_the_one_that_the_platform_reports(
    client: Leanbase, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client can set `X-Forwarded-For` to anything, so it counts only where the platform reports no address."""

    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        start_response("204 No Content", [])
        return [b""]

    tracked = LeanbaseMiddleware(app, client=client, flush="before_response")
    context = {"http": {"sourceIp": "203.0.113.9"}}
    forwarded = {"HTTP_X_FORWARDED_FOR": "6.6.6.6, 203.0.113.9", "REMOTE_ADDR": "127.0.0.1"}
    call(tracked, **forwarded, **{"apig_wsgi.full_event": {"requestContext": context}})
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop")
    call(tracked, **forwarded, HTTP_X_AMZN_REQUEST_CONTEXT=json.dumps(context))
    call(tracked, **forwarded, HTTP_X_AMZN_REQUEST_CONTEXT="{")
    ips = [event["properties"]["$ip"] for event in memory.events]
    assert ips == ["203.0.113.9", "203.0.113.9", "6.6.6.6"]


@pytest.mark.rule("Q-50")
def test_events_of_an_unfinished_request_are_sent_at_exit(server: FaultServer) -> None:
    environment: dict[str, Any] = {**configuration(server.url)}
    done = run_program("tests.integrations.programs.unfinished_request", **environment)
    assert done.returncode == 0, done.stderr
    assert [event["event"] for event in server.events] == ["asked"]
