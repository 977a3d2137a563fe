"""The handlers that the tests run in AWS's runtime client."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

import leanbase


@leanbase.lambda_handler
def capture(event: dict[str, Any], context: Any) -> dict[str, Any]:
    for number in range(event["count"]):
        leanbase.capture("order created", properties={"number": number})
    return {
        "request": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "stats": leanbase.stats(),
    }


@leanbase.lambda_handler(flush="each")
def capture_each(event: dict[str, Any], context: Any) -> None:
    for number in range(event["count"]):
        leanbase.capture("order created", properties={"number": number})


@leanbase.lambda_handler
def fail(event: dict[str, Any], context: Any) -> None:
    leanbase.capture("before the failure", distinct_id="u")
    raise ValueError("the handler's own error")


def fail_undecorated(event: dict[str, Any], context: Any) -> None:
    raise ValueError("the handler's own error")


@leanbase.lambda_handler
async def coroutine(event: dict[str, Any], context: Any) -> str:
    await asyncio.gather(
        *(asyncio.to_thread(leanbase.capture, "from a task", distinct_id="u") for _ in range(3))
    )
    return "done"


def run_coroutine(event: dict[str, Any], context: Any) -> Any:
    return asyncio.run(coroutine(event, context))


@leanbase.lambda_handler
def shut_down(event: dict[str, Any], context: Any) -> bool:
    leanbase.capture("order created", distinct_id="u")
    return bool(leanbase.shutdown())


IS_HTTP_LOADED_AT_INIT = "urllib3" in sys.modules


@leanbase.lambda_handler
def is_http_loaded_at_init(event: dict[str, Any], context: Any) -> bool:
    return IS_HTTP_LOADED_AT_INIT


@leanbase.lambda_handler(flush="each")
def hang(event: dict[str, Any], context: Any) -> None:
    for number in range(event["count"]):
        leanbase.capture("order created", distinct_id=event["user"], properties={"number": number})
    print("the handler hangs")
    time.sleep(60)


@leanbase.lambda_handler(flush="each")
def run_out_of_memory(event: dict[str, Any], context: Any) -> None:
    for number in range(event["count"]):
        leanbase.capture("order created", distinct_id=event["user"], properties={"number": number})
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does


@leanbase.lambda_handler(flush="after_response")
def after_response(event: dict[str, Any], context: Any) -> dict[str, Any]:
    for number in range(event.get("count", 0)):
        leanbase.capture("order created", distinct_id="u", properties={"number": number})
    if "raise" in event:
        raise ValueError("the handler's own error")
    time.sleep(event.get("sleep", 0))
    return {"request": context.aws_request_id, "stats": leanbase.stats(), "text": "x" * event.get("size", 0)}


def sometimes_after_response(event: dict[str, Any], context: Any) -> Any:
    """Is not decorated itself. Calls a decorated handler only for some events."""
    if "undecorated" in event:
        time.sleep(event["undecorated"])
        return "undecorated"
    return after_response(event, context)


@leanbase.lambda_handler(flush="after_response")
def nested_after_response(event: dict[str, Any], context: Any) -> Any:
    leanbase.capture("outer", distinct_id="u")
    result = after_response(event, context)
    leanbase.capture("outer again", distinct_id="u")
    return result


def no_sdk(event: dict[str, Any], context: Any) -> str:
    return "done"


@leanbase.lambda_handler(idempotent=True)
def idempotent(event: dict[str, Any], context: Any) -> None:
    leanbase.capture("order created", distinct_id="u")
    leanbase.capture("order created", distinct_id="u", properties={"second": True})
    leanbase.capture("anonymous")
    if event.get("fail"):
        raise ValueError("try again")


@leanbase.lambda_handler(flush="after_response")
def exit_after_response(event: dict[str, Any], context: Any) -> None:
    leanbase.capture("before the exit", distinct_id="u")
    sys.exit(3)
