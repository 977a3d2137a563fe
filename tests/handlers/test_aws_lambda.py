"""The Lambda decorator: the unchanged handler, delivery, the context and request tags, and the cold start.

Handlers run in this process, called as Lambda's runtime calls them. Their events go to memory (`sent`), or to a
`FaultServer` over a real socket. `tests/lambda_runtime` runs handlers in AWS's own runtime.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import subprocess
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.handlers.aws_lambda import invocation
from leanbase.transports import MemoryTransport
from tests.handlers.events import ALB, ALB_MULTI, HEADERS, HTTP_API, REST, LambdaContext
from tests.support.event_loops import current_event_loop
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.programs import program_command


def last_properties(sent: MemoryTransport) -> dict[str, Any]:
    found: dict[str, Any] = sent.events[-1]["properties"]
    return found


# --- the handler ------------------------------------------------------------------------------------


def test_the_result_name_and_docstring_of_a_handler_are_unchanged(sent: MemoryTransport) -> None:
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


@pytest.mark.rule("K-15", "K-20")
def test_an_exception_leaves_the_handler_unchanged_after_its_events_are_sent(sent: MemoryTransport) -> None:
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


def test_the_decorator_adds_one_frame_to_the_traceback(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        handler({}, LambdaContext())
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert sum("leanbase/handlers" in name for name in files) == 1
    assert files[-1] == __file__


@pytest.mark.rule("Q-54")
def test_an_async_handler_remains_async(sent: MemoryTransport) -> None:
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


@pytest.mark.rule("M-5")
def test_a_callable_object_may_be_a_handler(sent: MemoryTransport) -> None:
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
    with current_event_loop():
        handler: Any = leanbase.lambda_handler(Mangum(app, lifespan="off"))
        assert handler(event, LambdaContext())["statusCode"] == 200
    assert sent.events[0]["distinct_id"] == "user_1"
    assert last_properties(sent)["$request_path"] == "/orders/7"


def test_an_object_with_an_async_call_may_be_a_handler(sent: MemoryTransport) -> None:
    class AsyncCallable:
        async def __call__(self, event: Any, context: Any) -> str:
            leanbase.capture("e", distinct_id="u")
            return "done"

    handler = leanbase.lambda_handler(AsyncCallable())
    assert asyncio.run(handler({}, LambdaContext())) == "done"
    assert len(sent.events) == 1


def test_wrong_use_of_the_decorator_raises() -> None:
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


@pytest.mark.rule("Q-54")
def test_ten_captures_are_sent_in_one_request_before_the_result_is_returned(server: FaultServer) -> None:
    client = Leanbase("k", server.url)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> int:
        for number in range(10):
            client.capture("e", distinct_id=number)
        return len(server.requests)

    assert handler({}, LambdaContext()) == 0
    assert [len(request.events) for request in server.requests] == [10]


def test_flush_each_sends_inside_each_capture(server: FaultServer) -> None:
    client = Leanbase("k", server.url)

    @leanbase.lambda_handler(flush="each", client=client)
    def handler(event: Any, context: Any) -> int:
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
        return len(server.requests)

    assert handler({}, LambdaContext()) == 2


@pytest.mark.rule("Q-20", "Q-21")
def test_an_invocation_without_events_sends_those_retained_by_an_earlier_one(server: FaultServer) -> None:
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


@pytest.mark.rule("Q-13")
@pytest.mark.slow
def test_the_deadline_is_the_remaining_time_minus_a_reserve(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = Leanbase("k", server.url)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> str:
        client.capture("e", distinct_id="u")
        return "done"

    for seconds, least, most in ((1.0, 0.8, 0.97), (1.5, 1.2, 1.45)):
        context = LambdaContext(seconds)
        started = time.monotonic()
        assert handler({}, context) == "done"
        assert least < time.monotonic() - started < most
        assert context.get_remaining_time_in_millis() > 0
    assert invocation.time_limit(LambdaContext(60)).remaining() == pytest.approx(59.5, abs=0.1)  # type: ignore[union-attr]
    assert invocation.time_limit(LambdaContext(1)).remaining() == pytest.approx(0.9, abs=0.05)  # type: ignore[union-attr]
    assert invocation.time_limit(None) is None


@pytest.mark.rule("K-1")
def test_a_handler_that_calls_itself_has_a_context_and_scope_for_each_call(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: dict[str, Any], context: Any) -> None:
        leanbase.tag("depth", event["depth"])
        if event["depth"]:
            handler({"depth": event["depth"] - 1}, LambdaContext())
        leanbase.capture("e", distinct_id="u")

    handler({"depth": 2}, LambdaContext())
    assert [event["properties"]["depth"] for event in sent.events] == [0, 1, 2]


# --- context ----------------------------------------------------------------------------------------


@pytest.mark.rule("K-2", "K-9")
def test_events_carry_tags_of_the_invocation(sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
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
    tags = {name: value for name, value in first.items() if name.startswith(("faas.", "cloud."))}
    assert tags == {
        "faas.name": "orders",
        "faas.version": "$LATEST",
        "faas.invocation_id": "11111111-2222-3333-4444-555555555555",
        "faas.coldstart": True,
        "cloud.provider": "aws",
        "cloud.region": "eu-west-1",
    }
    assert first["$context_tags"] == sorted(tags)
    assert second["faas.coldstart"] is False
    assert "outside" not in first


@pytest.mark.rule("M-1", "M-5", "M-10")
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


@pytest.mark.rule("M-1", "M-5", "E-10")
def test_a_session_header_without_an_id_header_gives_events_without_a_person(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e")

    handler({"headers": {"X-PostHog-Session-Id": "s-1"}, "httpMethod": "GET", "path": "/"}, LambdaContext())
    assert last_properties(sent)["$session_id"] == "s-1"
    assert last_properties(sent)["$process_person_profile"] is False
    assert "$current_url" not in last_properties(sent)


@pytest.mark.rule("M-10")
def test_a_user_and_password_in_the_host_header_are_left_out_of_the_url(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e")

    headers = {"Host": "alice:hunter2@shop.example.com"}
    handler({"headers": headers, "httpMethod": "GET", "path": "/cart"}, LambdaContext())
    assert last_properties(sent)["$current_url"] == "https://shop.example.com/cart"


@pytest.mark.rule("M-7")
def test_identity_and_tags_of_an_invocation_do_not_reach_the_next(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.tag("plan", "pro")
        leanbase.capture("e")

    @leanbase.lambda_handler
    def other(event: Any, context: Any) -> None:
        leanbase.capture("e")

    handler(HTTP_API, LambdaContext())
    other({}, LambdaContext())
    first, second = sent.events
    assert first["distinct_id"] == "user_1"
    assert second["distinct_id"] != "user_1"
    assert not {"plan", "$session_id", "$current_url"} & set(second["properties"])


class RaisingMapping(dict):  # type: ignore[type-arg]
    def get(self, *args: Any) -> Any:
        raise RuntimeError("a defect")


@pytest.mark.rule("M-4", "G-1")
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
        RaisingMapping(headers={}),
    ],
)
def test_a_malformed_event_fails_no_invocation(event: Any, sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> str:
        leanbase.capture("e", distinct_id="u")
        return "fine"

    assert handler(event, None) == "fine"
    assert len(sent.events) == 1
    assert "$current_url" not in last_properties(sent)


# --- Powertools -------------------------------------------------------------------------------------


@pytest.fixture
def powertools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "orders")
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    return importlib.import_module("aws_lambda_powertools")


@pytest.mark.parametrize("outermost", [True, False], ids=["above", "below"])
def test_the_decorator_works_above_and_below_those_of_powertools(
    outermost: bool, powertools: Any, sent: MemoryTransport
) -> None:
    """Below them, the event is wrapped in a data class."""
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
    assert last_properties(sent)["$request_path"] == "/orders/7"
    assert last_properties(sent)["faas.name"] == "orders"


# --- cold start -------------------------------------------------------------------------------------


IN_LAMBDA = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}


@pytest.mark.parametrize(
    ("environment", "arguments", "connections", "is_loaded"),
    [
        (IN_LAMBDA, [], 1, True),
        (IN_LAMBDA, ["preconnect=False"], 0, True),
        ({**IN_LAMBDA, "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}, [], 0, True),
        ({}, [], 0, False),
    ],
    ids=["in Lambda", "without preconnect", "before a snapshot", "outside Lambda"],
)
def test_the_http_client_is_loaded_and_connected_ahead_only_in_lambda(
    environment: dict[str, str],
    arguments: list[str],
    connections: int,
    is_loaded: bool,
    server: FaultServer,
) -> None:
    done = subprocess.run(
        program_command("tests.handlers.programs.cold_start", *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"LEANBASE_API_KEY": "k", "LEANBASE_HOST": server.url, **environment},
    )
    assert done.stdout.strip() == str(is_loaded)
    assert done.stderr == ""
    assert server.connections == connections
    assert server.requests == []


@pytest.mark.rule("O-5")
def test_options_set_below_the_handler_are_read(
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


def test_a_method_may_be_a_handler(sent: MemoryTransport) -> None:
    class App:
        @leanbase.lambda_handler
        def handle(self, event: Any, context: Any) -> Any:
            leanbase.capture("e", distinct_id="u")
            return event

    assert App().handle(HTTP_API, LambdaContext()) is HTTP_API
    assert last_properties(sent)["faas.invocation_id"] == LambdaContext.aws_request_id
    assert last_properties(sent)["$request_method"] == "POST"


def test_an_object_whose_call_is_a_generator_is_rejected() -> None:
    class Streaming:
        def __call__(self, event: Any, context: Any) -> Iterator[int]:
            yield 1

    with pytest.raises(TypeError, match="not a generator"):
        leanbase.lambda_handler(Streaming())


# --- calls, and events that are peculiar to Lambda ----------------------------------------------------


def test_a_decorated_handler_accepts_the_arguments_of_the_handler(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(evt: Any, ctx: Any = None) -> Any:
        leanbase.capture("e", distinct_id="u")
        return evt, ctx

    context = LambdaContext()
    assert handler({}) == handler(evt={}) == handler({}, None) == handler({}, ctx=None) == ({}, None)
    assert handler(ctx=context, evt={}) == ({}, context)
    assert last_properties(sent)["faas.invocation_id"] == context.aws_request_id
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'evt'"):
        handler()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        handler({}, other=1)  # type: ignore[call-arg]


def test_provisioned_concurrency_has_no_cold_start(
    sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    invocation.forget_invocations()

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    handler({}, LambdaContext())
    assert last_properties(sent)["faas.coldstart"] is False


def test_an_async_handler_is_warned_about_in_lambda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(event: Any, context: Any) -> None: ...

    leanbase.lambda_handler(handle)
    assert "async" not in caplog.text
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")
    leanbase.lambda_handler(preconnect=False)(handle)
    assert "Lambda does not await async handlers" in caplog.text


API_HOST = "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com"


@pytest.mark.rule("M-10")
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
def test_only_urls_of_the_apis_own_domain_contain_the_stage(
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
    assert last_properties(sent)["$current_url"] == url
    assert last_properties(sent)["$request_path"] == path
    assert last_properties(sent)["$ip"] == "192.0.2.9"
