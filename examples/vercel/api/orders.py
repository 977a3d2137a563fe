"""An ASGI application on Vercel, which takes orders.

Set LEANBASE_API_KEY and LEANBASE_HOST in the project's environment. The events of a request are sent before
the end of its response, because Vercel may freeze the process after it.
"""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

import leanbase
from leanbase.integrations.asgi import LeanbaseMiddleware

PRICES = {"tea": 4.5, "coffee": 6.0}

app = FastAPI()
app.add_middleware(LeanbaseMiddleware)


class Line(BaseModel):
    """One line of an order."""

    sku: str
    quantity: int


@app.post("/api/orders", status_code=201)
async def take_order(line: Line) -> dict[str, float]:
    """Take one order. An unknown sku fails, which is captured."""
    total = PRICES[line.sku] * line.quantity
    leanbase.capture("order created", properties={"sku": line.sku, "total": total})
    return {"total": total}
