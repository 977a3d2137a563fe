"""An ASGI application whose request captures, and then lasts longer than Vercel waits after SIGTERM."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

import leanbase
from leanbase.integrations.asgi import LeanbaseMiddleware

app = FastAPI()
app.add_middleware(LeanbaseMiddleware)


@app.get("/")
async def slow() -> str:
    leanbase.capture("request began")
    print("ready", flush=True)
    await asyncio.sleep(20)
    return "late"
