"""Frameworks in Lambda, under `lambda_handler`, in this process: Powertools' resolvers and Chalice.

Mangum is in `test_mangum.py`. Each framework responds to some exceptions itself, which the decorator then does not see.
"""

from __future__ import annotations

from typing import Any

import pytest
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from chalice.app import Chalice, ConvertToMiddleware

import leanbase
from leanbase.integrations.logging import LeanbaseHandler
from leanbase.testing import LambdaContext
from leanbase.transports import MemoryTransport
from tests.handlers.events import HTTP_API

pytestmark = pytest.mark.rule("D-9")


@pytest.fixture
def memory() -> MemoryTransport:
    leanbase.api_key, leanbase.transport = "phc_test", (transport := MemoryTransport())
    return transport


def names(memory: MemoryTransport) -> list[tuple[str, str | None]]:
    """Return the name of each event, and the type of each exception."""
    return [(event["event"], event["properties"].get("$exception_type")) for event in memory.events]


class OutOfStock(Exception):
    pass


# --- Powertools -----------------------------------------------------------------------------------------------


def powertools_app() -> Any:
    app = APIGatewayHttpResolver()

    @app.get("/orders/7")
    def fail() -> None:
        leanbase.capture("order viewed")
        raise ZeroDivisionError

    @app.get("/orders/8")
    def not_found() -> None:
        raise NotFoundError("there is no such order")

    @app.get("/orders/9")
    def out_of_stock() -> None:
        raise OutOfStock

    @app.exception_handler(OutOfStock)  # type: ignore[untyped-decorator]
    def respond(error: OutOfStock) -> Response[str]:
        leanbase.capture_exception(error)
        return Response(status_code=503, body="out of stock")

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> Any:
        return app.resolve(event, context)

    return handler


def http_event(path: str) -> dict[str, Any]:
    http = {**HTTP_API["requestContext"]["http"], "method": "GET", "path": path}
    around = {**HTTP_API["requestContext"], "stage": "$default", "http": http}
    return {**HTTP_API, "rawPath": path, "requestContext": around}


def test_an_exception_that_leaves_a_powertools_resolver_is_captured(memory: MemoryTransport) -> None:
    with pytest.raises(ZeroDivisionError):
        powertools_app()(http_event("/orders/7"), LambdaContext())
    assert names(memory) == [("order viewed", None), ("$exception", "ZeroDivisionError")]
    assert {event["distinct_id"] for event in memory.events} == {"user_1"}
    assert memory.events[0]["properties"]["$request_path"] == "/orders/7"


def test_responses_of_powertools_are_no_failures(memory: MemoryTransport) -> None:
    assert powertools_app()(http_event("/orders/8"), LambdaContext())["statusCode"] == 404
    assert not memory.events


def test_an_exception_that_an_exception_handler_of_powertools_captures_is_captured_once(
    memory: MemoryTransport,
) -> None:
    assert powertools_app()(http_event("/orders/9"), LambdaContext())["statusCode"] == 503
    assert names(memory) == [("$exception", "OutOfStock")]
    assert memory.events[0]["distinct_id"] == "user_1"


# --- Chalice --------------------------------------------------------------------------------------------------

REST_API: dict[str, Any] = {
    "resource": "/orders/{number}",
    "path": "/orders/7",
    "httpMethod": "GET",
    "headers": {"Host": "api.example.com", "X-LEANBASE-DISTINCT-ID": "user_1"},
    "multiValueHeaders": {"Host": ["api.example.com"], "X-LEANBASE-DISTINCT-ID": ["user_1"]},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": {"number": "7"},
    "stageVariables": None,
    "requestContext": {
        "httpMethod": "GET",
        "resourcePath": "/orders/{number}",
        "identity": {"sourceIp": "203.0.113.9"},
        "stage": "api",
        "requestId": "r",
        "path": "/api/orders/7",
    },
    "body": None,
    "isBase64Encoded": False,
}


def chalice_app() -> Chalice:
    """Return an application whose functions are all decorated, by one line."""
    app = Chalice(app_name="shop")
    app.register_middleware(ConvertToMiddleware(leanbase.lambda_handler))
    return app


def test_every_function_of_a_chalice_application_is_decorated_by_one_line(memory: MemoryTransport) -> None:
    app = chalice_app()

    @app.on_sqs_message(queue="orders")
    def ship(event: Any) -> None:
        leanbase.capture("order shipped")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ship({"Records": []}, LambdaContext())
    assert names(memory) == [("order shipped", None), ("$exception", "ZeroDivisionError")]
    assert {event["properties"]["faas.name"] for event in memory.events} == {"function"}


def test_chalice_responds_to_an_exception_of_a_view_which_a_scoped_view_captures(
    memory: MemoryTransport,
) -> None:
    app = chalice_app()

    @app.route("/orders/{number}")
    @leanbase.scoped()
    def view(number: str) -> None:
        leanbase.capture("order viewed")
        raise ZeroDivisionError

    assert app(REST_API, LambdaContext())["statusCode"] == 500
    assert names(memory) == [("order viewed", None), ("$exception", "ZeroDivisionError")]
    assert {event["distinct_id"] for event in memory.events} == {"user_1"}
    assert {event["properties"]["$request_path"] for event in memory.events} == {"/orders/7"}


def test_a_logging_handler_captures_what_chalice_logs_of_a_view(memory: MemoryTransport) -> None:
    app = chalice_app()
    handler = LeanbaseHandler()
    app.log.addHandler(handler)
    try:

        @app.route("/orders/{number}")
        def view(number: str) -> None:
            raise ZeroDivisionError

        assert app(REST_API, LambdaContext())["statusCode"] == 500
    finally:
        app.log.removeHandler(handler)
    assert names(memory) == [("$exception", "ZeroDivisionError")]
    assert memory.events[0]["distinct_id"] == "user_1"


def test_a_chalice_application_runs_under_the_decorator_as_a_whole(memory: MemoryTransport) -> None:
    """This is what `LEANBASE_LAMBDA_HANDLER=app.app` does."""
    app = Chalice(app_name="shop")

    @app.route("/orders/{number}")
    def view(number: str) -> dict[str, str]:
        leanbase.capture("order viewed")
        return {"number": number}

    assert leanbase.lambda_handler(app)(REST_API, LambdaContext())["statusCode"] == 200
    assert names(memory) == [("order viewed", None)]
    assert memory.events[0]["distinct_id"] == "user_1"
