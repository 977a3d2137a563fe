"""A Flask application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flask
from flask import Flask, Response, abort, stream_with_context

import leanbase
from leanbase.integrations.flask import LeanbaseFlask
from tests.integrations.apps import BARE, FLUSH, configure

configure()
app = Flask(__name__)


class OutOfStock(Exception):
    pass


class Missing(Exception):
    pass


if not BARE:
    LeanbaseFlask(
        app,
        flush=FLUSH,
        request_filter=lambda request: request.path != "/health",
        extra_tags=lambda request: {"view": request.endpoint},
    )


@app.errorhandler(OutOfStock)
def out_of_stock(error: OutOfStock) -> tuple[str, int]:
    leanbase.capture_exception(error)
    return "out of stock", 503


@app.errorhandler(Missing)
def missing(error: Missing) -> tuple[str, int]:
    return "missing", 404


@app.get("/")
def index() -> str:
    leanbase.capture("viewed")
    return "hello"


@app.get("/health")
def health() -> str:
    with leanbase.delivery_scope():
        leanbase.capture("health asked for")
    return "well"


@app.get("/orders/<int:number>")
def order(number: int) -> str:
    leanbase.tag("order", number)
    leanbase.capture("order viewed")
    return str(number)


@app.get("/fails")
def fails() -> str:
    leanbase.tag("step", "payment")
    raise ValueError("no money left")


@app.get("/out-of-stock")
def raises_out_of_stock() -> str:
    raise OutOfStock


@app.get("/missing")
def raises_missing() -> str:
    raise Missing


@app.get("/teapot")
def teapot() -> str:
    abort(418)


@app.get("/stream")
def stream() -> Response:
    def parts() -> Iterator[Any]:
        for number in range(3):
            leanbase.capture("part", properties={"number": number, "path": flask.request.path})
            yield f"part {number} "

    return Response(stream_with_context(parts()))


@app.teardown_request
def teardown(error: BaseException | None) -> None:
    if flask.request.path == "/teardown-fails":
        raise RuntimeError("torn")


@app.get("/teardown-fails")
def teardown_fails() -> str:
    return "fine"
