"""A WSGI application that captures an event when it is loaded, and one for each request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import leanbase

client = leanbase.Leanbase(
    "k", os.environ["INGESTION"], sync_mode=False, flush_interval=float(os.environ["INTERVAL"])
)
client.capture("loaded", distinct_id="u")


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    assert client.capture("request", distinct_id="u", properties={"pid": os.getpid()})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"thanks"]
