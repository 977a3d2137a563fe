from __future__ import annotations

import sys
import time
from typing import Any

import leanbase


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    leanbase.capture("order created", distinct_id="user_1", properties={"number": 1})
    return {"request": context.aws_request_id}


def fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("the handler's own error")


def hang(event: dict[str, Any], context: Any) -> None:
    leanbase.capture("order began", distinct_id="user_1", properties={"number": 1})
    wait_for_the_database()


def wait_for_the_database() -> None:
    time.sleep(60)


def return_a_set(event: dict[str, Any], context: Any) -> object:
    leanbase.identify_context("user_1")
    return {1, 2}


def warn_and_return_a_set(event: dict[str, Any], context: Any) -> object:
    leanbase.capture("order began", distinct_id="user_1")
    while context.get_remaining_time_in_millis() > 100:
        time.sleep(0.01)
    return {1, 2}


def return_too_much(event: dict[str, Any], context: Any) -> str:
    leanbase.identify_context("user_1")
    return "é" * int(event["characters"])


def leave(event: dict[str, Any], context: Any) -> None:
    sys.exit(3)
