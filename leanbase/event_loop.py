"""Detects an event loop in this thread, which a blocking send would stall."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

logger = logging.getLogger("leanbase")


def is_running() -> bool:
    """Return True if an asyncio event loop runs in this thread."""
    asyncio: Any = sys.modules.get("asyncio")  # a program with an event loop has imported it
    return asyncio is not None and asyncio._get_running_loop() is not None


@cache
def warn_of_blocking() -> None:
    """Warn once that a send blocks the event loop, and how to avoid that."""
    logger.warning(
        "sending an event blocks the event loop: capture inside "
        "`async with leanbase.delivery_scope()`, or add the middleware of leanbase.integrations.asgi"
    )


async def all_called(calls: Sequence[Callable[[Callable[[], object]], object]], *, timeout: float) -> None:
    """Start calls, each with a callback to call when it is finished, and wait for all callbacks.

    A callback may come from any thread. The wait ends after `timeout` seconds.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    futures = []
    for call in calls:
        future = loop.create_future()
        futures.append(future)
        call(partial(_call_on, loop, partial(_set_done, future)))
    if futures:
        await asyncio.wait(futures, timeout=timeout)


def _call_on(loop: Any, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        pass  # the loop is closed, so nothing waits for the call


def _set_done(future: Any) -> None:
    if not future.done():
        future.set_result(None)
