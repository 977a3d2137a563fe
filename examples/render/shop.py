"""A web service that takes orders.

Set LEANBASE_API_KEY and LEANBASE_HOST in its environment. The events of a request are sent after its
response, so the caller does not wait for them. When gunicorn ends a worker, the worker sends pending events
before it exits.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from flask import Flask, request

import leanbase
from leanbase.integrations.flask import LeanbaseFlask

PRICES = {"tea": 4.5, "coffee": 6.0}

app = Flask(__name__)
LeanbaseFlask(app, request_filter=lambda request: request.path != "/health")


@app.get("/health")
def health() -> str:
    """Report that the service is up."""
    return "ok"


@app.post("/orders")
def order() -> tuple[dict[str, Any], int]:
    """Take one order: `{"sku": "tea", "quantity": 2}`. An unknown sku fails, which is captured."""
    line = request.get_json()
    total = PRICES[line["sku"]] * line["quantity"]
    number = str(uuid4())
    leanbase.capture("order created", properties={"order": number, "sku": line["sku"], "total": total})
    return {"order": number, "total": total}, 201
