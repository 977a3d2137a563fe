"""Two Cloud Functions: one takes orders over HTTP, one is called for new files in a bucket.

Set LEANBASE_API_KEY and LEANBASE_HOST in their environment. The events of a request are sent before it ends,
because a function has no CPU after its response.
"""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

import flask
import functions_framework
from cloudevents.http import CloudEvent

import leanbase
from leanbase.integrations.flask import LeanbaseFlask

PRICES = {"tea": 4.5, "coffee": 6.0}

LeanbaseFlask(flask.current_app)  # the Functions Framework imports this file inside its Flask application


@functions_framework.http
def take_order(request: flask.Request) -> tuple[dict[str, Any], int]:
    """Take one order: `{"sku": "tea", "quantity": 2}`. An unknown sku fails, which is captured."""
    line = request.get_json()
    total = PRICES[line["sku"]] * line["quantity"]
    leanbase.capture("order created", properties={"sku": line["sku"], "total": total})
    return {"total": total}, 201


@functions_framework.cloud_event
def see_file(event: CloudEvent) -> None:
    """Capture that a file was stored. After a failure the trigger sends the CloudEvent again."""
    with leanbase.new_context():
        leanbase.tag("cloudevents.event_id", event["id"])
        file = event.data
        # A retried CloudEvent gives the same uuid and timestamp, so the server counts it once.
        leanbase.capture(
            "file stored",
            distinct_id=file["metadata"]["owner"],
            properties={"name": file["name"], "bytes": int(file["size"])},
            timestamp=event["time"],
            uuid=uuid5(NAMESPACE_URL, f"{event['source']}/{event['id']}"),
        )
