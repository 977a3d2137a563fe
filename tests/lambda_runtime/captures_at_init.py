"""A module of handlers that captures events while it is imported."""

from __future__ import annotations

import time
from typing import Any

import leanbase

started = time.monotonic()
uuids = [
    leanbase.capture("while initialising", distinct_id="u", properties={"number": number})
    for number in range(5)
]
took = time.monotonic() - started


@leanbase.lambda_handler
def handler(event: Any, context: Any) -> dict[str, Any]:
    leanbase.capture("in the handler", distinct_id="u")
    return {"took": took, "stats": leanbase.stats()}


def undecorated(event: Any, context: Any) -> dict[str, Any]:
    time.sleep(event.get("sleep", 0))
    leanbase.capture("in the handler", distinct_id="u")
    return {"stats": leanbase.stats()}
