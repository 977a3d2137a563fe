"""The functions of `examples/google-cloud`, in the Functions Framework, with Cloud Run's variables."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_server import FaultServer
from tests.support.web_servers import WebServer, serving

FOLDER = Path(__file__).parents[2] / "examples" / "google-cloud"
CLOUD_RUN: dict[str, Any] = {"K_SERVICE": "orders", "K_REVISION": "orders-00007-abc"}
TAGS = {"faas.name": "orders", "faas.version": "orders-00007-abc"}

pytestmark = [pytest.mark.slow, pytest.mark.rule("P-1", "D-2")]


@contextmanager
def function(server: FaultServer, target: str, signature: str = "http") -> Iterator[WebServer]:
    options = ["--target", target, "--signature-type", signature, "--host", "127.0.0.1", "--port", "{port}"]
    environment: dict[str, Any] = {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **CLOUD_RUN}
    with serving(["functions_framework", *options], cwd=FOLDER, stops=False, **environment) as running:
        yield running


def post(function: WebServer, body: object, **headers: str) -> int:
    """Post JSON and freeze the function as soon as it has responded."""
    headers = {"Content-Type": "application/json", **headers}
    response = function.get("/", method="POST", body=json.dumps(body), headers=headers)
    function.process.send_signal(signal.SIGSTOP)
    return response.status


def thaw(function: WebServer) -> None:
    function.process.send_signal(signal.SIGCONT)


def test_the_http_function_has_sent_its_events_when_it_responds(server: FaultServer) -> None:
    with function(server, "take_order") as running:
        who = {"X-LEANBASE-DISTINCT-ID": "user_1"}
        assert post(running, {"sku": "tea", "quantity": 2}, **who) == 201
        (event,) = server.events
        thaw(running)
        assert post(running, {"sku": "water", "quantity": 2}, **who) == 500
        (_, failure) = server.events
        thaw(running)
    assert (event["event"], event["distinct_id"]) == ("order created", "user_1")
    assert event["properties"]["total"] == 9.0
    assert TAGS.items() <= event["properties"].items()
    assert (failure["event"], failure["distinct_id"]) == ("$exception", "user_1")
    assert failure["properties"]["$exception_type"] == "KeyError"


def test_the_same_cloudevent_is_the_same_event(server: FaultServer) -> None:
    event = json.loads((FOLDER / "event.json").read_text())
    cloudevents = {"Content-Type": "application/cloudevents+json"}
    with function(server, "see_file", "cloudevent") as running:
        for _ in range(2):
            assert post(running, event, **cloudevents) == 200
            thaw(running)
        assert post(running, {**event, "data": {}}, **cloudevents) == 500
        thaw(running)
    first, second, failure = server.events
    for name in ("event", "distinct_id", "uuid", "timestamp"):
        assert first[name] == second[name]
    assert (first["event"], first["distinct_id"]) == ("file stored", "user_1")
    assert first["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert failure["properties"]["$exception_type"] == "KeyError"
    assert failure["properties"]["cloudevents.event_id"] == event["id"]
