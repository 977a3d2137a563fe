"""The functions in `examples/lambda`, in a sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase.delivery import factory
from leanbase.testing import FunctionError, LambdaSimulator
from leanbase.testing.recording import recorder

EXAMPLES = Path(__file__).parents[1] / "examples" / "lambda"


@pytest.fixture(autouse=True)
def intercepted() -> Iterator[None]:
    factory.override_transport(recorder)
    yield
    factory.override_transport(None)


def read(path: str) -> Any:
    return json.loads((EXAMPLES / path).read_text())


def test_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "orders")
    event = read("event.json")
    with LambdaSimulator("app.handler") as function:
        assert function.invoke(event)["statusCode"] == 201
        function.events.assert_captured("order created", times=1)
        with pytest.raises(FunctionError, match="KeyError"):
            function.invoke({**event, "body": json.dumps({"company": "acme", "lines": [{"sku": "tea"}]})})
        function.events.assert_captured("$exception", times=1)


def test_shipments_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch with one record that fails, and then that record alone, as the queue matches it."""
    monkeypatch.syspath_prepend(EXAMPLES / "shipments")
    event = read("shipments/event.json")
    with LambdaSimulator("shipments.handler") as function:
        answer = function.invoke(event)
        again = function.invoke({"Records": event["Records"][1:]})
    assert answer == again == {"batchItemFailures": [{"itemIdentifier": event["Records"][1]["messageId"]}]}
    shipped, first, second = function.events
    assert (shipped["event"], shipped["distinct_id"]) == ("order shipped", "user_1")
    assert shipped["timestamp"] == "2026-01-02T03:04:05+00:00"
    for name in ("event", "uuid", "timestamp", "distinct_id"):
        assert first[name] == second[name]
    assert (first["event"], first["distinct_id"]) == ("$exception", "user_2")


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "template", sorted((ROOT / "examples" / "lambda").glob("template*.yaml")), ids=lambda path: path.name
)
def test_no_name_that_sam_generates_is_taken(template: Path) -> None:
    """It calls what it makes for an event by the function and the event, and what is there already is lost."""
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
