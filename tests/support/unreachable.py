"""A URL that never accepts a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.fault_server import black_hole


@contextmanager
def unreachable_url() -> Iterator[str]:
    """Return a URL to which every connection attempt hangs, as to a host without a route."""
    with black_hole() as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
