"""The WSGI middleware under gunicorn, seen from the ingestion server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from tests.integrations.test_asgi import delivered, exception_of
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.web_servers import Application, application, configuration, gunicorn, serving

APP = "tests.integrations.apps.web_wsgi:app"


@pytest.fixture(scope="module")
def shop() -> Iterator[Application]:
    """A server with threads, which do not wait for their sends."""
    with application(gunicorn(APP, "--threads", "4"), stops=False) as running:
        yield running


@pytest.fixture(scope="module")
def frozen() -> Iterator[Application]:
    """Where the process may be frozen after the response."""
    with application(gunicorn(APP), stops=False, VERCEL="1") as running:
        yield running


def test_events_carry_the_request(shop: Application) -> None:
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
def test_what_is_captured_while_the_body_is_produced(
    shop: Application, path: str, body: bytes, events: list[str]
) -> None:
    response, captured = shop.ask(path, count=len(events))
    assert response.data == body
    assert [event["event"] for event in captured] == events
    if path == "/generated":
        assert [event["properties"]["began"] for event in captured] == [True] * 3


def test_a_file_is_sent_by_the_server_itself(shop: Application) -> None:
    response, (event,) = shop.ask("/file", count=1)
    assert response.data.startswith(b'"""A WSGI application')
    assert event["event"] == "downloaded"


@pytest.mark.parametrize("server", ["shop", "frozen"])
@pytest.mark.parametrize(
    ("path", "kind", "handled"),
    [
        ("/fails", "ValueError", False),
        ("/fails-in-body", "RuntimeError", False),
        ("/answers", "KeyError", True),
    ],
)
def test_one_exception_for_each_failing_request(
    server: str, path: str, kind: str, handled: bool, request: pytest.FixtureRequest
) -> None:
    shop: Application = request.getfixturevalue(server)
    who = str(uuid.uuid4())
    with pytest.raises(ProtocolError) if path == "/fails-in-body" else nullcontext():
        shop.server.get(path, headers={"X-LEANBASE-DISTINCT-ID": who})
    events = shop.events_of(who, 1)
    assert exception_of(events) == (kind, "error", "middleware", handled, "wsgi.middleware")
    frames = events[0]["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    assert frames[-1]["filename"].endswith("web_wsgi.py")


@pytest.mark.parametrize(
    ("path", "count"), [("/index", 1), ("/generated", 3), ("/sized", 2), ("/file", 1), ("/fails", 1)]
)
def test_where_the_platform_freezes_all_is_there_before_the_last_byte(
    frozen: Application, path: str, count: int
) -> None:
    _, events = frozen.ask(path)
    assert len(events) == count


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--threads", "8"], ["--worker-class", "gevent"]])
def test_a_silent_ingestion_server_delays_no_request(server: FaultServer, options: list[str]) -> None:
    """A send takes up to 10 s here; threads and greenlets do not wait for it."""
    server.always(Behaviour(instead="silence"))
    with serving(gunicorn(APP, *options), INGESTION=server.url, LEANBASE_SEND_DEADLINE="5") as shop:

        def took(_: int) -> float:
            before = time.monotonic()
            assert shop.get("/index").data == b"thanks"
            return time.monotonic() - before

        with ThreadPoolExecutor(8) as pool:
            assert max(pool.map(took, range(100))) < 3
    assert server.requests


@pytest.mark.slow
def test_a_synchronous_worker_is_busy_once_while_the_server_is_silent(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    with serving(gunicorn(APP), INGESTION=server.url, LEANBASE_SEND_DEADLINE="3") as shop:
        took = []
        for _ in range(30):
            before = time.monotonic()
            assert shop.get("/index").data == b"thanks"
            took.append(time.monotonic() - before)
    assert len([seconds for seconds in took if seconds > 1]) == 1
    assert max(took) < 6


@pytest.mark.slow
def test_with_a_buffer_a_silent_server_delays_no_synchronous_worker(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    with serving(gunicorn(APP), INGESTION=server.url, SYNC_MODE="false", LEANBASE_FLUSH_AT="5") as shop:
        for _ in range(50):
            before = time.monotonic()
            assert shop.get("/index").data == b"thanks"
            assert time.monotonic() - before < 1


@pytest.mark.slow
@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_nothing_is_lost_with_forked_workers_that_come_and_go(sync_mode: str) -> None:
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
        answered = 0

        def ask(_: int) -> bool:
            for _ in range(20):
                try:
                    return shop.server.get("/index").status == 200
                except Exception:
                    time.sleep(0.05)  # a worker that ends closes connections that it had not accepted yet
            return False

        with ThreadPoolExecutor(8) as pool:
            answered = sum(pool.map(ask, range(1000)))
        shop.server.stop()
        events = shop.local.store.events()
    assert answered == 1000
    assert len(events) >= 1000
    assert {event["times_received"] for event in events} == {1}
    assert len(Counter(event["properties"]["pid"] for event in events)) > 4


# --- in this process ------------------------------------------------------------------------------------


def call(app: Any, **environ: Any) -> tuple[str, bytes]:
    """Let an application answer a request as a server does; status and body."""
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


def test_a_sized_body_stays_one(client: Leanbase) -> None:
    """Servers derive the Content-Length from a body of one part."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"ok"]

    body: Any = LeanbaseMiddleware(app, client=client)({}, lambda *_: None)
    assert len(body) == 1


def test_the_url_without_a_host_header(client: Leanbase, memory: MemoryTransport) -> None:
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


def test_an_environ_that_says_nothing_costs_tags_and_no_more(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        return [b""]

    list(LeanbaseMiddleware(app, client=client, flush="before_response")({}, lambda *_: None))
    assert memory.events[0]["properties"]["$context_tags"] == []


def test_nothing_is_left_in_the_thread_between_the_parts(client: Leanbase, memory: MemoryTransport) -> None:
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


def test_a_response_that_is_thrown_away_loses_no_event(client: Leanbase, memory: MemoryTransport) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        start_response("204 No Content", [])
        return [b""]

    tracked = LeanbaseMiddleware(app, client=client)
    tracked({}, lambda *_: None)
    assert client.stats()["retained"] == 1
    call(tracked)
    delivered(client)
    assert len(memory.events) == 2


def test_a_child_of_a_request_sends_nothing_of_it(client: Leanbase, memory: MemoryTransport) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        client.capture("asked")
        child = os.fork()
        if child == 0:
            os._exit(0 if client.stats()["captured"] == 0 and not leanbase.get_tags() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        start_response("204 No Content", [])
        return [b""]

    call(LeanbaseMiddleware(app, client=client, flush="before_response"))
    assert len(memory.events) == 1


def test_a_full_scope_does_not_make_a_thread_wait(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.5))
    shop = make(server, flush_at=10)
    took = []

    def app(environ: Any, start_response: Any) -> Any:
        before = time.monotonic()
        for _ in range(30):
            shop.capture("row", distinct_id="u")
        took.append(time.monotonic() - before)
        start_response("204 No Content", [])
        return [b""]

    call(LeanbaseMiddleware(app, client=shop), **{"wsgi.multithread": True})
    deadline = time.monotonic() + 10
    while shop.stats()["delivered"] < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shop.stats()["delivered"] == 30
    assert took[0] < 0.4


def test_with_each_a_thread_waits_for_every_capture(make: Any, server: FaultServer) -> None:
    shop = make(server)

    def app(environ: Any, start_response: Any) -> Any:
        shop.capture("row", distinct_id="u")
        assert len(server.events) == 1
        start_response("204 No Content", [])
        return [b""]

    call(LeanbaseMiddleware(app, client=shop, flush="each"), **{"wsgi.multithread": True})


def test_lambda_says_who_asks(
    client: Leanbase, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client claims in `X-Forwarded-For` does not count where the platform knows better."""

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


def test_what_a_request_that_never_ended_collected_is_sent_at_the_exit(server: FaultServer) -> None:
    program = """
import leanbase
from leanbase.integrations.wsgi import LeanbaseMiddleware

def app(environ, start_response):
    leanbase.capture("asked")
    start_response("200 OK", [])
    return [b"ok"]

body = LeanbaseMiddleware(app)({}, lambda *_: None)
"""
    environment = {**os.environ, **configuration(server.url)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert [event["event"] for event in server.events] == ["asked"]
