"""Limits the number of exceptions of each class that the hooks capture (X-44)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..forking import reset_in_child

MAX_BUCKETS = 1000


class RateLimiter:
    """A token bucket for each name, refilled only after whole intervals.

    The call that takes the last token is not admitted. So a burst has at most `bucket_size - 1` calls.

    Args:
        bucket_size: The maximum number of tokens. Every bucket starts full.
        refill_rate: The number of tokens added after each interval.
        refill_interval: The length of an interval in seconds. With `0` every bucket is always full.
        clock: Returns a monotonic time in seconds.
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
        self._buckets: dict[str, tuple[int, float]] = {}  # tokens, start of the interval
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def admits(self, name: str) -> bool:
        """Take a token. Return False if it was the last one, or if there was none."""
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(name, (self._size, now))
            if self._interval == 0:
                tokens, since = self._size, now
            elif (intervals := int((now - since) // self._interval)) > 0:
                tokens = min(self._size, tokens + intervals * self._rate)
                since += intervals * self._interval
            tokens = max(0, tokens - 1)
            self._buckets[name] = (tokens, since)  # inserted last, so the least recently used comes first
            if len(self._buckets) > MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            return tokens > 0
