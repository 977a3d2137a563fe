"""Helpers that the tests of all integrations share."""

from __future__ import annotations

from typing import Any, NamedTuple

from leanbase import Leanbase
from tests.support.waiting import wait_until


class CapturedException(NamedTuple):
    """What an exception event says about the exception, and about the boundary that captured it."""

    type: str
    level: str
    mechanism: str
    is_handled: bool
    source: str | None


def exception_of(events: list[dict[str, Any]]) -> CapturedException:
    """Return what the exception among some events says. Fail if there is not exactly one."""
    (properties,) = [event["properties"] for event in events if event["event"] == "$exception"]
    mechanism = properties["$exception_list"][0]["mechanism"]
    return CapturedException(
        properties["$exception_type"],
        properties["$exception_level"],
        mechanism["type"],
        mechanism["handled"],
        properties.get("$exception_source"),
    )


def wait_until_sent(client: Leanbase, count: int = 0) -> None:
    """Wait until a thread has sent all pending events of a client, and at least `count` were delivered in total."""

    def is_sent() -> bool:
        stats = client.stats()
        return not stats["retained"] and stats["delivered"] >= count

    wait_until(is_sent, 10)


SHORT_GRACE: dict[str, Any] = {"FLUSH": "after_response", "VERCEL": "1"}
"""Variables of an application that does not wait for its sends in requests, and sends for 0.4 s at SIGTERM."""
