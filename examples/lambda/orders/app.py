"""A Lambda function behind an HTTP API that takes orders.

Set LEANBASE_API_KEY and LEANBASE_HOST in the function's environment. All events of an invocation are sent in
one request, before the response is returned.
"""

from __future__ import annotations

import json
from typing import Any

import leanbase


@leanbase.lambda_handler
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Take one order. Leanbase reads the person and the session from the web SDK's headers."""
    leanbase.capture("$pageview", properties={"$current_url": "https://shop.example.com/checkout"})
    order = json.loads(event["body"])
    leanbase.tag("channel", "web")
    for line in order["lines"]:
        leanbase.capture("item ordered", properties=line)
    total = sum(line["price"] * line["quantity"] for line in order["lines"])
    leanbase.capture("order created", properties={"total": total}, groups={"company": order["company"]})
    leanbase.set(properties={"last_order_total": total})
    return {"statusCode": 201, "body": json.dumps({"total": total})}
