"""The workload of all benchmarks: an event with typical properties."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "phc_benchmark"
NAME = "order created"
WHO = "user_42"
PROPERTIES: dict[str, Any] = {
    "total": 42.5,
    "currency": "EUR",
    "plan": "pro",
    "items": [{"sku": "tea", "quantity": 2}, {"sku": "cup", "quantity": 1}],
    "first_order": True,
    "coupon": None,
    "path": "/checkout/step-2",
    "referrer": "https://www.example.com/campaign?utm_source=newsletter",
}


def body(events: int) -> bytes:
    """Return the uncompressed request body of Leanbase for this number of events."""
    from leanbase import Leanbase
    from leanbase.transports import MemoryTransport

    memory = MemoryTransport()
    client = Leanbase(KEY, transport=memory)
    for _ in range(events):
        client.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
    envelope = {
        "api_key": KEY,
        "historical_migration": False,
        "sent_at": memory.events[0]["timestamp"],
        "batch": memory.events,
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


_MODULE = """
from dataclasses import dataclass


@dataclass
class Order:
    number: int
    lines: list


{functions}
"""
_FUNCTION = '''
def step_{this}(customer, total):
    """One of the steps that an order goes through."""
    order = Order({this}, [{{"sku": "tea", "quantity": 2}}, {{"sku": "cup", "quantity": 1}}])
    currency, path = "EUR", "/checkout/step-{this}"
    retries = {{"left": 3, "reason": None}}
    # Charge, or go on with what comes next.
    if total < 0:
        raise ValueError(f"cannot charge {{currency}} {{total}}")
    {body}
    return order, path, retries
'''


def failing_call(directory: Path, frames: int) -> Callable[[], Exception]:
    """Write ten modules whose functions call one another. Return a function that returns their error."""
    modules: dict[int, list[str]] = {}
    for this in range(frames - 1):
        following = this + 1
        body = f"from checkout_{following % 10} import step_{following} as go_on\n    go_on(customer, total)"
        if following == frames - 1:
            body = "raise ValueError('no money left')"
        modules.setdefault(this % 10, []).append(_FUNCTION.format(this=this, body=body))
    for number, functions in modules.items():
        (directory / f"checkout_{number}.py").write_text(_MODULE.format(functions="\n".join(functions)))
    sys.path.insert(0, str(directory))
    try:
        first = importlib.import_module("checkout_0").step_0
    finally:
        sys.path.pop(0)

    def fail() -> Exception:
        try:
            first("user_42", 42.5)
        except ValueError as error:
            return error
        raise AssertionError("it did not fail")

    sys.path.insert(0, str(directory))
    fail()  # imports the other modules
    sys.path.pop(0)
    return fail
