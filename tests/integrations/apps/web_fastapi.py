"""A FastAPI application with every kind of route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

import leanbase
from leanbase.integrations.asgi import LeanbaseMiddleware
from tests.integrations.apps import BARE, FLUSH, configure

configure()


class OutOfStock(Exception):
    pass


class Missing(Exception):
    pass


app = FastAPI()

if not BARE:
    app.add_middleware(LeanbaseMiddleware, flush=FLUSH)
router = APIRouter(prefix="/shop")


@app.exception_handler(OutOfStock)
async def out_of_stock(request: Any, error: OutOfStock) -> JSONResponse:
    return JSONResponse({"error": "out of stock"}, status_code=503)


@app.exception_handler(Missing)
async def missing(request: Any, error: Missing) -> JSONResponse:
    return JSONResponse({"error": "missing"}, status_code=404)


@app.get("/")
async def index() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, int]:
    if BARE:
        await asyncio.sleep(0.01)
        return {"number": number}
    leanbase.tag("order", number)
    leanbase.capture("order viewed")
    await asyncio.sleep(0.01)
    leanbase.capture("order shown", properties={"number": number})
    return {"number": number}


@app.get("/threaded/{number}")
def threaded(number: int) -> dict[str, int]:
    leanbase.capture("order viewed")
    return {"number": number}


@router.get("/items/{name}")
async def item(name: str) -> str:
    leanbase.capture("item viewed")
    return name


app.include_router(router)
mounted = FastAPI()


@mounted.get("/reports/{year}")
async def report(year: int) -> int:
    leanbase.capture("report viewed")
    return year


app.mount("/admin", mounted)


guarded = FastAPI()
if not BARE:
    guarded.add_middleware(LeanbaseMiddleware)


@guarded.middleware("http")
async def pass_on(request: Any, call_next: Any) -> Any:
    """Most applications have such a middleware. Starlette runs the application inside it in another task."""
    return await call_next(request)


async def user(request: Request) -> None:
    leanbase.identify_context(f"user of {request.url.path}")
    leanbase.tag("plan", "pro")


@guarded.get("/dependency", dependencies=[Depends(user)])
async def fails_guarded() -> None:
    raise ValueError("no money left")


app.mount("/guarded", guarded)


@app.get("/fails")
async def fails() -> None:
    leanbase.tag("step", "payment")
    raise ValueError("no money left")


@app.get("/fails-in-thread")
def fails_in_thread() -> None:
    raise ValueError("no money left")


@app.get("/out-of-stock")
async def raises_out_of_stock() -> None:
    raise OutOfStock


@app.get("/missing")
async def raises_missing() -> None:
    raise Missing


@app.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418)


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(3):
            leanbase.capture("part", properties={"number": number})
            yield b"part "
            await asyncio.sleep(0.01)

    return StreamingResponse(parts())


@app.get("/stream-fails")
async def stream_fails() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"part "
        raise RuntimeError("half-way")

    return StreamingResponse(parts())


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        leanbase.capture("endless began")
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    return StreamingResponse(parts())


@app.get("/background")
async def background(tasks: BackgroundTasks) -> PlainTextResponse:
    async def later() -> None:
        await asyncio.sleep(0.05)
        leanbase.capture("mail sent")

    tasks.add_task(later)
    leanbase.capture("mail asked for")
    return PlainTextResponse("soon", background=tasks)


_tasks: set[asyncio.Task[None]] = set()


@app.get("/task")
async def task() -> str:
    async def outlives() -> None:
        await asyncio.sleep(0.2)
        leanbase.capture("late")

    running = asyncio.ensure_future(outlives())
    _tasks.add(running)
    running.add_done_callback(_tasks.discard)
    return "started"


@app.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    while (text := await socket.receive_text()) != "bye":
        leanbase.capture("said", properties={"text": text})
        await socket.send_text(text.upper())
    await socket.close()
