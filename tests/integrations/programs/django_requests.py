"""Ask the Django application of the tests for pages, in this process: run the function that the argument names.

The last line that it prints describes the captured events.
"""

from __future__ import annotations

import sys
from typing import Any

import leanbase
from leanbase.transports import MemoryTransport
from tests.integrations.apps.web_django import prepare

prepare()

from django.http import HttpResponse  # noqa: E402
from django.test import Client, RequestFactory  # noqa: E402

from leanbase.integrations.django import LeanbaseContextMiddleware  # noqa: E402

memory = leanbase.transport = MemoryTransport()
visitor = Client(raise_request_exception=False)
HEADERS = {"X-LEANBASE-DISTINCT-ID": "u-1"}


def visit_pages() -> object:
    """Ask for several pages as one visitor, who logs in after the first."""
    assert visitor.get("/").status_code == 200
    assert visitor.get("/login").status_code == 200
    assert visitor.get("/").status_code == 200
    assert b"".join(visitor.get("/stream")) == b"part part part "
    assert visitor.get("/fails").status_code == 500
    leanbase.flush()
    return [(event["event"], event["properties"].get("email")) for event in memory.events]


def close_a_body_early() -> object:
    """Read only the first part of a body."""
    response = visitor.get("/download-slowly", headers=HEADERS)
    next(iter(response.streaming_content))
    response.close()
    leanbase.flush()
    return [(event["event"], event["distinct_id"]) for event in memory.events]


def view_that_asks_for_a_page() -> object:
    """Ask for a page whose view asks for another page of the same application."""
    assert visitor.get("/asks-itself", headers=HEADERS).content == b"[0, 0]"
    leanbase.flush()
    return [event["distinct_id"] for event in memory.events]


def user_that_raises() -> object:
    """Handle a request whose `user` raises when it is read."""
    factory = RequestFactory()

    class Request(type(factory.get("/"))):  # type: ignore[misc]
        @property
        def user(self) -> Any:
            raise RuntimeError

    def view(request: Any) -> Any:
        leanbase.capture("viewed")
        return HttpResponse("hello")

    request = factory.get("/page", headers=HEADERS)
    request.__class__ = Request
    LeanbaseContextMiddleware(view)(request).close()
    leanbase.flush()
    return [(event["distinct_id"], event["properties"]["$request_path"]) for event in memory.events]


def closer_that_raises() -> object:
    """Close a response one of whose closers captures an event and raises."""

    def fail() -> None:
        leanbase.capture("closed")
        raise RuntimeError

    def view(request: Any) -> Any:
        response = HttpResponse("hello")
        response._resource_closers.append(fail)
        return response

    request = RequestFactory().get("/page", headers=HEADERS)
    LeanbaseContextMiddleware(view)(request).close()
    leanbase.flush()
    return [(event["event"], event["distinct_id"]) for event in memory.events]


if __name__ == "__main__":
    print(globals()[sys.argv[1]]())
