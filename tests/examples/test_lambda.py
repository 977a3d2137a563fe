"""The functions in `examples/lambda`, run by the `LambdaSimulator` in this process.

A recorder takes the place of each transport, so the tests look at the events that the functions captured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase.testing import FunctionError, LambdaSimulator, capture_events

EXAMPLES = Path(__file__).parents[2] / "examples" / "lambda"


@pytest.fixture(autouse=True)
def recording_transport() -> Iterator[None]:
    with capture_events():
        yield


def example_event(path: str) -> Any:
    return json.loads((EXAMPLES / path).read_text())


def test_the_orders_function_captures_orders_and_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "orders")
    event = example_event("event.json")
    with LambdaSimulator("app.handler") as function:
        assert function.invoke(event)["statusCode"] == 201
        function.events.assert_captured("order created", times=1)
        with pytest.raises(FunctionError, match="KeyError"):
            function.invoke({**event, "body": json.dumps({"company": "acme", "lines": [{"sku": "tea"}]})})
        function.events.assert_captured("$exception", times=1)


def test_the_shipments_function_captures_the_same_event_when_a_record_is_redelivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQS first delivers the whole batch, of which one record fails, and then this record alone."""
    monkeypatch.syspath_prepend(EXAMPLES / "shipments")
    event = example_event("shipments/event.json")
    with LambdaSimulator("shipments.handler") as function:
        response = function.invoke(event)
        second_response = function.invoke({"Records": event["Records"][1:]})
    failed = {"batchItemFailures": [{"itemIdentifier": event["Records"][1]["messageId"]}]}
    assert response == second_response == failed
    shipped, first, second = function.events
    assert (shipped["event"], shipped["distinct_id"]) == ("order shipped", "user_1")
    assert shipped["timestamp"] == "2026-01-02T03:04:05+00:00"
    for name in ("event", "uuid", "timestamp", "distinct_id"):
        assert first[name] == second[name]
    assert (first["event"], first["distinct_id"]) == ("$exception", "user_2")


@pytest.mark.parametrize("template", sorted(EXAMPLES.glob("template*.yaml")), ids=lambda path: path.name)
def test_no_resource_has_a_name_that_sam_generates(template: Path) -> None:
    """SAM names a generated resource after its function and event, and overwrites a resource with that name."""
    blocks = re.split(r"(?m)^  (?=\w+:$)", template.read_text().partition("\nResources:\n")[2])
    names, generated = set(), []
    for block in blocks:
        name = block.partition(":")[0].strip()
        names.add(name)
        events = re.search(r"(?m)^      Events:\n((?:        .*\n)+)", block)
        generated += (
            [name + event for event in re.findall(r"(?m)^        (\w+):$", events[1])] if events else []
        )
    assert generated
    assert not names & set(generated)
