"""Calls that end in time although what they call takes no timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_with_timeout(function: Callable[[], T], seconds: float, *, name: str) -> T:
    """Call `function` in a thread of its own, which nobody waits for longer than this.

    Args:
        function: What to call. It may go on after its time.
        seconds: How long to wait.
        name: Of the thread.

    Raises:
        TimeoutError: It was not done in time.
        Exception: What it raised.
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
        run()  # the interpreter is shutting down and starts no threads
    else:
        thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(f"{name} took too long")
    return results[0]
