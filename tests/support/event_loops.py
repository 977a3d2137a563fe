"""An event loop for libraries that call `asyncio.get_event_loop()`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def current_event_loop() -> Iterator[None]:
    """Set an event loop, and close it afterwards. Without one, Mangum creates a loop and never closes it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()
