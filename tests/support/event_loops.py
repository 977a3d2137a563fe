"""An event loop of the thread, for libraries that use `asyncio.get_event_loop()`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def current_event_loop() -> Iterator[None]:
    """Set an event loop, and close it afterwards. Mangum otherwise creates one that it never closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()
