"""What is captured in every benchmark: an event with typical properties."""

from __future__ import annotations

import json
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
    """The request that `events` captures of Leanbase make, uncompressed."""
    from leanbase import Leanbase
    from leanbase.transports import MemoryTransport

    memory = MemoryTransport()
    client = Leanbase(KEY, transport=memory)
    for _ in range(events):
        client.capture(NAME, WHO, PROPERTIES)
    envelope = {
        "api_key": KEY,
        "historical_migration": False,
        "sent_at": memory.events[0]["timestamp"],
        "batch": memory.events,
    }
    return json.dumps(envelope, separators=(",", ":")).encode()
