"""A WSGI application without a framework, with every kind of body."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import leanbase
from leanbase.integrations.wsgi import LeanbaseMiddleware
from tests.integrations.apps import BARE, FLUSH, configure

configure()

StartResponse = Callable[..., Any]


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/").partition("/")[0] or "index"
    return ROUTES[name](environ, start_response)


def index(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    if not BARE:
        leanbase.capture("viewed", properties={"pid": os.getpid()})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"thanks"]


def quiet(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"quiet"]


def generated(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    leanbase.tag("began", True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(3):
        leanbase.capture("part", properties={"number": number})
        yield b"part "


def sized(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])

    def parts() -> Iterator[bytes]:
        for number in range(2):
            leanbase.capture("part", properties={"number": number})
            yield b"12345"

    return parts()


def fails(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    leanbase.tag("step", "payment")
    raise ValueError("no money left")


def fails_in_body(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])

    def parts() -> Iterator[bytes]:
        yield b"part "
        raise RuntimeError("half-way")

    return parts()


def handles_exception(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    try:
        raise KeyError("no such thing")
    except KeyError:
        start_response("503 Unavailable", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]


class Closes:
    def __iter__(self) -> Iterator[bytes]:
        yield b"body"

    def close(self) -> None:
        leanbase.capture("closed")


def closes(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Closes()


def file(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    leanbase.capture("downloaded")
    start_response("200 OK", [("Content-Type", "text/x-python")])
    body: Iterable[bytes] = environ["wsgi.file_wrapper"](Path(__file__).open("rb"))  # noqa: SIM115
    return body


ROUTES = {
    "index": index,
    "quiet": quiet,
    "generated": generated,
    "sized": sized,
    "fails": fails,
    "fails-in-body": fails_in_body,
    "handles-exception": handles_exception,
    "closes": closes,
    "file": file,
}

app: Any = application if BARE else LeanbaseMiddleware(application, flush=FLUSH)
