"""What tests of imports share."""

from __future__ import annotations

from typing import Any

import pytest

from leanbase import Leanbase
from tests.support.fault_server import FaultServer

WHEN = "2024-02-29T12:00:00Z"


@pytest.fixture
def client(server: FaultServer) -> Leanbase:
    return Leanbase("phc_test", server.url)


def row(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "event": "order",
        "distinct_id": f"user_{number}",
        "timestamp": WHEN,
        "properties": {"n": number},
        **more,
    }


def rows(count: int) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]
