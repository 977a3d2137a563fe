"""Calls with a timeout to functions that take none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_with_timeout(function: Callable[[], T], seconds: float, *, name: str) -> T:
    """Call `function` in a new thread and return its result, or raise its exception.

    Raises:
        TimeoutError: `function` did not finish in time. Its thread continues.
    """
    results: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        run()  # the interpreter is shutting down and starts no threads: call it here
    else:
        thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(f"{name} took too long")
    return results[0]
