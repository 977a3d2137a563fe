"""How many exceptions of each class the hooks let through (X-44)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..forking import reset_in_child

MAX_BUCKETS = 1000


class RateLimiter:
    """A token bucket for each name, refilled after whole intervals only.

    The call that takes the last token is limited itself, so a burst lets one less than `bucket_size` through.

    Args:
        bucket_size: Most tokens; every bucket starts with as many.
        refill_rate: Tokens added after each interval.
        refill_interval: Seconds. With `0` the buckets are always full.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        bucket_size: int,
        refill_rate: int,
        refill_interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = bucket_size
        self._rate = min(refill_rate, bucket_size)
        self._interval = refill_interval
        self._clock = clock
        self._buckets: dict[str, tuple[int, float]] = {}  # tokens, and when the interval began
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def admits(self, name: str) -> bool:
        """Take a token; false when it was the last, or there was none."""
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(name, (self._size, now))
            if self._interval == 0:
                tokens, since = self._size, now
            elif (intervals := int((now - since) // self._interval)) > 0:
                tokens = min(self._size, tokens + intervals * self._rate)
                since += intervals * self._interval
            tokens = max(0, tokens - 1)
            self._buckets[name] = (tokens, since)  # at the end: the least recent is at the beginning
            if len(self._buckets) > MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            return tokens > 0
