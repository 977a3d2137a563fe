"""The Lambda decorator: context, request tags, delivery, and that the handler is left as it was."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.handlers.aws_lambda import invocation
from leanbase.transports import MemoryTransport
from tests.handlers.events import ALB, ALB_MULTI, HEADERS, HTTP_API, REST, LambdaContext
from tests.support.fault_server import Behaviour, FaultServer


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> MemoryTransport:
    """The default client's events."""
    transport = MemoryTransport()
    leanbase.transport = transport
    return transport


def properties(sent: MemoryTransport) -> dict[str, Any]:
    found: dict[str, Any] = sent.events[-1]["properties"]
    return found


# --- what it does to the handler --------------------------------------------------------------------


def test_result_name_and_docstring_are_untouched(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Takes orders."""
        leanbase.capture("e", distinct_id="u")
        return {"event": event}

    event = {"a": [1]}
    assert handler(event, LambdaContext())["event"] is event
    assert handler.__name__ == "handler"
    assert handler.__doc__ == "Takes orders."
    assert list(inspect.signature(handler).parameters) == ["event", "context"]
    assert len(sent.events) == 1


def test_exceptions_pass_untouched_and_events_leave_first(sent: MemoryTransport) -> None:
    error = ValueError("mine")

    @leanbase.lambda_handler()
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("before", distinct_id="u")
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        handler({}, LambdaContext())
    assert caught.value is error
    assert error.__context__ is None
    assert [event["event"] for event in sent.events] == ["before", "$exception"]


def test_at_most_one_frame_of_ours_is_in_the_traceback(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        handler({}, LambdaContext())
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert sum("leanbase/handlers" in name for name in files) == 1
    assert files[-1] == __file__


def test_async_handlers_stay_async(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(flush="end")
    async def handler(event: Any, context: Any) -> str:
        leanbase.capture("a", distinct_id="u")
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.to_thread(leanbase.capture, "b", distinct_id="u") for _ in range(2)))
        assert sent.events == []
        return "done"

    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler({}, LambdaContext())) == "done"
    assert [event["event"] for event in sent.events] == ["a", "b", "b"]


def test_callable_objects_such_as_mangum(sent: MemoryTransport) -> None:
    """A real Starlette application behind Mangum, called as Lambda calls it."""
    from mangum import Mangum
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def order(request: Any) -> PlainTextResponse:
        leanbase.capture("order created")
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/orders/7", order, methods=["POST"])])
    http = {**HTTP_API["requestContext"]["http"], "sourceIp": "203.0.113.7"}
    event = {**HTTP_API, "requestContext": {**HTTP_API["requestContext"], "http": http}}
    with event_loop():
        handler: Any = leanbase.lambda_handler(Mangum(app, lifespan="off"))
        assert handler(event, LambdaContext())["statusCode"] == 200
    assert sent.events[0]["distinct_id"] == "user_1"
    assert properties(sent)["$request_path"] == "/orders/7"


@contextlib.contextmanager
def event_loop() -> Iterator[None]:
    """Mangum wants one and, when there is none, makes one that it never closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class AsyncCallable:
    async def __call__(self, event: Any, context: Any) -> str:
        leanbase.capture("e", distinct_id="u")
        return "done"


def test_callable_objects_with_an_async_call(sent: MemoryTransport) -> None:
    handler = leanbase.lambda_handler(AsyncCallable())
    assert asyncio.run(handler({}, LambdaContext())) == "done"
    assert len(sent.events) == 1


def test_wrong_use_is_a_clear_error() -> None:
    with pytest.raises(TypeError, match="decorates a handler, not str"):
        leanbase.lambda_handler("handler")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        leanbase.lambda_handler(client="x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="generator"):

        @leanbase.lambda_handler
        def handler(event: Any, context: Any) -> Iterator[int]:
            yield 1

    with pytest.raises(ValueError, match="'later'"):
        leanbase.lambda_handler(flush="later")  # type: ignore[call-overload]


# --- delivery ---------------------------------------------------------------------------------------


def test_ten_captures_are_one_request_before_the_result(server: FaultServer) -> None:
    client = Leanbase("k", server.url)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> int:
        for number in range(10):
            client.capture("e", distinct_id=number)
        return len(server.requests)

    assert handler({}, LambdaContext()) == 0
    assert [len(request.events) for request in server.requests] == [10]


def test_flush_each_sends_inside_every_capture(server: FaultServer) -> None:
    client = Leanbase("k", server.url)

    @leanbase.lambda_handler(flush="each", client=client)
    def handler(event: Any, context: Any) -> int:
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
        return len(server.requests)

    assert handler({}, LambdaContext()) == 2


def test_an_invocation_that_captures_nothing_sends_what_an_earlier_one_could_not(server: FaultServer) -> None:
    client = Leanbase("k", server.url, max_retries=0)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> None:
        if event:
            client.capture("e", distinct_id="u")

    server.script(Behaviour(status=500))
    handler({"capture": True}, LambdaContext())
    assert client.stats()["retained"] == 1
    handler({}, LambdaContext())
    assert client.stats()["delivered"] == 1
    handler({}, LambdaContext())
    assert len(server.requests) == 2


@pytest.mark.slow
def test_the_remaining_time_less_a_reserve_is_the_deadline(server: FaultServer) -> None:
    import time

    server.always(Behaviour(instead="silence"))
    client = Leanbase("k", server.url)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> str:
        client.capture("e", distinct_id="u")
        return "answered"

    for seconds, least, most in ((1.0, 0.8, 0.97), (1.5, 1.2, 1.45)):
        context = LambdaContext(seconds)
        started = time.monotonic()
        assert handler({}, context) == "answered"
        assert least < time.monotonic() - started < most
        assert context.get_remaining_time_in_millis() > 0
    assert invocation.time_limit(LambdaContext(60)).remaining() == pytest.approx(59.5, abs=0.1)  # type: ignore[union-attr]
    assert invocation.time_limit(LambdaContext(1)).remaining() == pytest.approx(0.9, abs=0.05)  # type: ignore[union-attr]
    assert invocation.time_limit(None) is None


def test_recursion_each_invocation_has_its_own_scope(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: dict[str, Any], context: Any) -> None:
        leanbase.tag("depth", event["depth"])
        if event["depth"]:
            handler({"depth": event["depth"] - 1}, LambdaContext())
        leanbase.capture("e", distinct_id="u")

    handler({"depth": 2}, LambdaContext())
    assert [event["properties"]["depth"] for event in sent.events] == [0, 1, 2]


# --- context ----------------------------------------------------------------------------------------


def test_the_invocation_is_described(sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setattr(invocation, "_cold", True)

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    with leanbase.new_context():
        leanbase.tag("outside", 1)
        handler({}, LambdaContext())
        handler({}, LambdaContext())
    first, second = (event["properties"] for event in sent.events)
    described = {name: value for name, value in first.items() if name.startswith(("faas.", "cloud."))}
    assert described == {
        "faas.name": "orders",
        "faas.version": "$LATEST",
        "faas.invocation_id": "11111111-2222-3333-4444-555555555555",
        "faas.coldstart": True,
        "cloud.provider": "aws",
        "cloud.region": "eu-west-1",
    }
    assert first["$context_tags"] == sorted(described)
    assert second["faas.coldstart"] is False
    assert "outside" not in first


@pytest.mark.rule("M-5")
@pytest.mark.parametrize(
    ("event", "url"),
    [
        (REST, "https://api.example.com/prod/orders/7?q=a&q=b+c"),
        (HTTP_API, "https://api.example.com/orders/7?q=a&q=b+c"),
        (ALB, "https://api.example.com/orders/7?q=b%20c"),
        (ALB_MULTI, "https://api.example.com/orders/7?q=a&q=b%20c"),
        ({**REST, "headers": None}, "https://api.example.com/prod/orders/7?q=a&q=b+c"),
        ({**REST, "multiValueHeaders": None}, "https://api.example.com/prod/orders/7?q=a&q=b+c"),
    ],
    ids=["REST API", "HTTP API", "ALB", "ALB multi-value", "only multi-value", "only single-value"],
)
def test_http_events_give_identity_and_request_tags(
    event: dict[str, Any], url: str, sent: MemoryTransport
) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e")
        leanbase.capture("e", distinct_id="explicit", properties={"$session_id": "mine"})

    handler(event, LambdaContext())
    first, second = sent.events
    assert first["distinct_id"] == "user_1"
    assert first["properties"]["$session_id"] == HEADERS["x-leanbase-session-ID"]
    tags = {name: first["properties"].get(name) for name in (
        "$current_url", "$request_method", "$request_path", "$ip", "$user_agent", "$raw_user_agent")}  # fmt: skip
    assert tags == {
        "$current_url": url,
        "$request_method": "POST",
        "$request_path": "/orders/7",
        "$ip": "10.0.0.1" if "elb" in event["requestContext"] else "203.0.113.7",
        "$user_agent": "curl/8",
        "$raw_user_agent": "curl/8",
    }
    assert (second["distinct_id"], second["properties"]["$session_id"]) == ("explicit", "mine")


@pytest.mark.rule("M-5")
def test_a_session_without_an_id_is_personless(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e")

    handler({"headers": {"X-PostHog-Session-Id": "s-1"}, "httpMethod": "GET", "path": "/"}, LambdaContext())
    assert properties(sent)["$session_id"] == "s-1"
    assert properties(sent)["$process_person_profile"] is False
    assert "$current_url" not in properties(sent)


def test_a_user_and_password_before_the_host_are_not_part_of_the_url(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e")

    headers = {"Host": "alice:hunter2@shop.example.com"}
    handler({"headers": headers, "httpMethod": "GET", "path": "/cart"}, LambdaContext())
    assert properties(sent)["$current_url"] == "https://shop.example.com/cart"


class Hostile(dict):  # type: ignore[type-arg]
    def get(self, *args: Any) -> Any:
        raise RuntimeError("hostile")


@pytest.mark.rule("M-4")
@pytest.mark.parametrize(
    "event",
    [
        None,
        "text",
        [1],
        {"Records": [{"eventSource": "aws:sqs"}]},
        {"headers": "text", "requestContext": "text", "httpMethod": 7},
        {"requestContext": {"http": {"method": None}}, "rawPath": 3},
        {"httpMethod": "GET", "path": None, "multiValueQueryStringParameters": [1]},
        Hostile(headers={}),
    ],
)
def test_events_of_any_shape_are_survived(event: Any, sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> str:
        leanbase.capture("e", distinct_id="u")
        return "fine"

    assert handler(event, None) == "fine"
    assert len(sent.events) == 1
    assert "$current_url" not in properties(sent)


# --- Powertools -------------------------------------------------------------------------------------


@pytest.fixture
def powertools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "orders")
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    return importlib.import_module("aws_lambda_powertools")


@pytest.mark.parametrize("outermost", [True, False], ids=["above", "below"])
def test_powertools_decorators(outermost: bool, powertools: Any, sent: MemoryTransport) -> None:
    """Above and below the usual four, with the event wrapped or raw."""
    from aws_lambda_powertools.metrics import MetricUnit
    from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent, event_source

    logger, tracer, metrics = powertools.Logger(), powertools.Tracer(), powertools.Metrics()

    def handler(event: Any, context: Any) -> dict[str, Any]:
        assert isinstance(event, APIGatewayProxyEvent)
        logger.info("taking an order")
        metrics.add_metric(name="Orders", unit=MetricUnit.Count, value=1)
        leanbase.capture("order created")
        return {"statusCode": 201}

    decorators = [
        event_source(data_class=APIGatewayProxyEvent),
        tracer.capture_lambda_handler,
        metrics.log_metrics,
        logger.inject_lambda_context,
    ]
    decorated: Any = handler
    for decorate in (
        [*decorators, leanbase.lambda_handler] if outermost else [leanbase.lambda_handler, *decorators]
    ):
        decorated = decorate(decorated)
    assert decorated(REST, LambdaContext()) == {"statusCode": 201}
    assert sent.events[0]["distinct_id"] == "user_1"
    assert properties(sent)["$request_path"] == "/orders/7"
    assert properties(sent)["faas.name"] == "orders"


# --- cold start -------------------------------------------------------------------------------------


HANDLER = """
import sys, leanbase
leanbase.api_key, leanbase.host = "k", {url!r}
@leanbase.lambda_handler{arguments}
def handler(event, context): pass
print("urllib3" in sys.modules)
"""


@pytest.mark.parametrize(
    ("environment", "arguments", "connections", "imported"),
    [
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}, "", 1, True),
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}, "(preconnect=False)", 0, True),
        (
            {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001", "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"},
            "", 0, True,
        ),
        ({}, "", 0, False),
    ],
    ids=["lambda", "no preconnect", "snapshot", "a test"],
)  # fmt: skip
def test_initialisation_imports_and_connects_only_in_the_runtime(
    environment: dict[str, str], arguments: str, connections: int, imported: bool, server: FaultServer
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLER.format(url=server.url, arguments=arguments)],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == str(imported)
    assert done.stderr == ""
    assert server.connections == connections
    assert server.requests == []


def test_settings_below_the_handler_are_still_read(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    leanbase.api_key, leanbase.host = "k", server.url
    handler({}, LambdaContext())
    assert len(server.events) == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_method_can_be_a_handler(sent: MemoryTransport) -> None:
    class App:
        @leanbase.lambda_handler
        def handle(self, event: Any, context: Any) -> Any:
            leanbase.capture("e", distinct_id="u")
            return event

    assert App().handle(HTTP_API, LambdaContext()) is HTTP_API
    assert properties(sent)["faas.invocation_id"] == LambdaContext.aws_request_id
    assert properties(sent)["$request_method"] == "POST"


def test_an_object_whose_call_is_a_generator_is_refused() -> None:
    class Streaming:
        def __call__(self, event: Any, context: Any) -> Iterator[int]:
            yield 1

    with pytest.raises(TypeError, match="not a generator"):
        leanbase.lambda_handler(Streaming())


# --- what Lambda says that nobody else does ---------------------------------------------------------


def test_a_handler_is_called_in_every_way_in_which_it_was_before(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(evt: Any, ctx: Any = None) -> Any:
        leanbase.capture("e", distinct_id="u")
        return evt, ctx

    context = LambdaContext()
    assert handler({}) == handler(evt={}) == handler({}, None) == handler({}, ctx=None) == ({}, None)
    assert handler(ctx=context, evt={}) == ({}, context)
    assert properties(sent)["faas.invocation_id"] == context.aws_request_id
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'evt'"):
        handler()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        handler({}, other=1)  # type: ignore[call-arg]


def test_nobody_waited_for_a_sandbox_that_was_initialised_ahead(
    sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    invocation.forget_invocations()

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    handler({}, LambdaContext())
    assert properties(sent)["faas.coldstart"] is False


def test_an_async_handler_that_lambda_would_not_await_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(event: Any, context: Any) -> None: ...

    leanbase.lambda_handler(handle)
    assert "async" not in caplog.text
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")
    leanbase.lambda_handler(preconnect=False)(handle)
    assert "Lambda does not await async handlers" in caplog.text


API_HOST = "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("host", "stage", "raw_path", "url", "path"),
    [
        ("api.example.com", "prod", "/prod/orders", "https://api.example.com/orders", "/orders"),
        ("api.example.com", "prod", "/prod", "https://api.example.com/", "/"),
        (
            "api.example.com",
            "prod",
            "/production/orders",
            "https://api.example.com/production/orders",
            "/production/orders",
        ),
        ("api.example.com", "$default", "/orders", "https://api.example.com/orders", "/orders"),
        (API_HOST, "prod", "/prod/orders", f"https://{API_HOST}/prod/orders", "/orders"),
    ],
)
def test_a_stage_belongs_to_the_urls_of_the_api_s_own_domain(
    host: str, stage: str, raw_path: str, url: str, path: str, sent: MemoryTransport
) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    http = {"method": "GET", "path": raw_path, "sourceIp": "192.0.2.9"}
    request_context = {"stage": stage, "domainName": host, "http": http}
    event = {
        "rawPath": raw_path,
        "rawQueryString": "",
        "headers": {"host": host},
        "requestContext": request_context,
    }
    handler(event, LambdaContext())
    assert properties(sent)["$current_url"] == url
    assert properties(sent)["$request_path"] == path
    assert properties(sent)["$ip"] == "192.0.2.9"
