"""A circuit breaker: an endpoint that does not respond costs one short wait per 30 s."""

from __future__ import annotations

from .. import forking
from ..transports.deadline import Stopwatch

FAILURES_TO_OPEN = 3
PAUSE_SECONDS = 30.0
MAX_BREAKERS = 32
FAIR_SECONDS = 0.5
SHORT_PAUSE_SECONDS = 1.0
"""The pause after a request that had less than `FAIR_SECONDS`: the endpoint may be healthy."""


class Breaker:
    """Refuses requests for 30 s after one timeout or three failures in a row."""

    def __init__(self) -> None:
        self._failures = 0
        self._seconds = PAUSE_SECONDS
        self._opened: Stopwatch | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests are paused."""
        opened = self._opened
        return opened is not None and opened.seconds() < self._seconds

    def succeeded(self) -> None:
        """Record a response."""
        self._failures, self._opened = 0, None

    def failed(self, *, at_once: bool = False, seconds: float = PAUSE_SECONDS) -> None:
        """Record a failure.

        Args:
            at_once: Whether one such failure pauses requests, because each costs much time.
            seconds: The length of the pause in seconds.
        """
        self._failures += 1
        if at_once or self._failures >= FAILURES_TO_OPEN:
            self._seconds, self._opened = seconds, Stopwatch()


_breakers: dict[tuple[int, str], Breaker] = {}


def breaker_of(endpoint: str) -> Breaker:
    """Return the breaker of an endpoint. All clients of a process share it, even after a shutdown."""
    key = forking.watch(), endpoint
    found = _breakers.get(key)
    if found is None:
        if len(_breakers) >= MAX_BREAKERS:
            _breakers.clear()
        found = _breakers.setdefault(key, Breaker())
    return found
