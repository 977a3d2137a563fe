"""Whether this thread runs an event loop, which a blocking send would stall."""

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
    """Whether an event loop of asyncio runs in this thread."""
    asyncio: Any = sys.modules.get("asyncio")  # a program with an event loop has imported it
    return asyncio is not None and asyncio._get_running_loop() is not None


@cache
def warn_of_blocking() -> None:
    """Say once that a send blocks the event loop, and how it does not."""
    logger.warning(
        "an event is sent on the event loop, which stands still meanwhile: capture inside "
        "`async with leanbase.delivery_scope()`, or add the ASGI middleware leanbase.integrations.asgi"
    )


async def all_called(calls: Sequence[Callable[[Callable[[], object]], object]], *, timeout: float) -> None:
    """Make some calls that take a callback, and wait until all of these are called, or the time is up.

    Args:
        calls: Each gets a function to call, in any thread, when it is done.
        timeout: Most seconds to wait.
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
        pass  # it is closed, and nobody waits any more


def _set_done(future: Any) -> None:
    if not future.done():
        future.set_result(None)
