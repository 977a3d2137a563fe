"""A FastAPI application in Lambda, behind Mangum: with and without `lambda_handler`, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from mangum import Mangum

import leanbase
from leanbase import Leanbase
from leanbase.integrations.asgi import LeanbaseMiddleware
from leanbase.local.server import LocalServer
from leanbase.transports import MemoryTransport
from tests.integrations.helpers import exception_of
from tests.support.event_loops import current_event_loop

EVENT = {
    "version": "2.0",
    "rawPath": "/orders/7",
    "rawQueryString": "page=2",
    "headers": {
        "host": "api.example.com",
        "user-agent": "test/1",
        "x-forwarded-for": "6.6.6.6, 203.0.113.9",
        "x-leanbase-distinct-id": "user_1",
    },
    "requestContext": {
        "stage": "$default",
        "domainName": "api.example.com",
        "http": {"method": "GET", "path": "/orders/7", "sourceIp": "203.0.113.9"},
    },
}


class Context:
    function_name = "shop"
    function_version = "1"
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 3000


@pytest.fixture(autouse=True)
def in_lambda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop")
    with current_event_loop():
        yield


def shop(client: Leanbase) -> FastAPI:
    app = FastAPI()
    app.add_middleware(LeanbaseMiddleware, client=client)

    @app.get("/orders/{number}")
    async def order(number: int) -> int:
        client.capture("order viewed")
        if number == 8:
            raise ValueError("no money left")
        return number

    return app


@pytest.mark.rule("D-9", "M-8", "M-10")
def test_without_lambda_handler_events_are_delivered_before_the_response(local: LocalServer) -> None:
    with Leanbase("phc_test", local.url) as client:
        handler = Mangum(shop(client), lifespan="off")
        assert handler(EVENT, Context())["statusCode"] == 200  # type: ignore[arg-type]
        (event,) = local.store.events()
    properties = event["properties"]
    assert event["distinct_id"] == "user_1"
    assert properties["$ip"] == "203.0.113.9"
    assert properties["$request_route"] == "/orders/{number}"
    assert properties["$current_url"] == "https://api.example.com/orders/7?page=2"


@pytest.mark.rule("D-9", "M-10")
def test_with_lambda_handler_events_carry_the_tags_of_both(client: Leanbase, memory: MemoryTransport) -> None:
    handler = leanbase.lambda_handler(client=client)(Mangum(shop(client), lifespan="off"))
    assert handler(EVENT, Context())["statusCode"] == 200  # type: ignore[arg-type]
    (event,) = memory.events
    properties = event["properties"]
    assert properties["faas.name"] == "shop"
    assert properties["$request_route"] == "/orders/{number}"
    assert properties["$ip"] == "203.0.113.9"


@pytest.mark.rule("K-17", "X-21")
def test_with_lambda_handler_an_exception_is_captured_once(client: Leanbase, memory: MemoryTransport) -> None:
    handler = leanbase.lambda_handler(client=client)(Mangum(shop(client), lifespan="off"))
    http = {"method": "GET", "path": "/orders/8", "sourceIp": "203.0.113.9"}
    event: dict[str, Any] = {
        **EVENT,
        "rawPath": "/orders/8",
        "requestContext": {"stage": "$default", "http": http},
    }
    assert handler(event, Context())["statusCode"] == 500  # type: ignore[arg-type]
    assert exception_of(memory.events).source == "asgi.middleware"
