"""Pauses sends to an endpoint that does not respond."""

from __future__ import annotations

import logging
import math
import threading

from ... import forking
from ..deadline import Stopwatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..deadline import LastChance

logger = logging.getLogger("leanbase")

Ticket = int
"""The breaker's epoch when it admitted the send. Only failures of the current epoch count."""

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 300.0

BRIEF_SECONDS = 1.0
BRIEF_EVERY_SECONDS = 10.0
"""If the last attempt had no response, a brief last chance may take BRIEF_SECONDS, once in this time."""


class CircuitBreaker:
    """Refuses sends for 30 s after three failures in a row or one slow failure, then admits one probe.

    Each failed probe doubles the pause, up to 5 minutes. One success ends it. The time that a sandbox is
    frozen counts as time passed.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._opened: Stopwatch | None = None
        # Incremented when the circuit opens and when a probe starts. Failures of sends that were admitted
        # earlier are ignored: they are not new information.
        self._epoch = 1
        self._responded = True
        self._last_brief: Stopwatch | None = None

    def try_acquire(self) -> Ticket | None:
        """Return a ticket for a send that may start now, or `None` while sends are paused.

        Report the outcome of the send with `succeeded` or `failed`.
        """
        if self._opened is None:
            return self._epoch
        with self._lock:
            opened = self._opened  # read once: a signal handler that sends may change it
            if opened is None:
                return self._epoch
            if opened.seconds() < self._pause:
                return None
            # This caller is the probe. The pause starts again, so there is no second probe until it ends.
            self._opened = Stopwatch()
            self._epoch += 1
            return self._epoch

    def seconds_left(self) -> float:
        opened = self._opened
        return 0.0 if opened is None else max(0.0, self._pause - opened.seconds())

    def succeeded(self) -> None:
        """Report that the endpoint responded, even if it rejected the request."""
        if not self._failures:
            return
        with self._lock:
            self._failures = 0
            self._pause = FIRST_PAUSE_SECONDS
            self._opened = None

    def last_chance(self, kind: LastChance | None) -> float | None:
        """Return the seconds that an attempt may take while sends are paused; `None` forbids it."""
        if kind is None:
            return None
        with self._lock:
            if kind == "full" or self._responded:
                return math.inf
            if self._last_brief is not None and self._last_brief.seconds() < BRIEF_EVERY_SECONDS:
                return None
            self._last_brief = Stopwatch()
            return BRIEF_SECONDS

    def failed(self, ticket: Ticket | None, *, responded: bool, slowly: bool = False) -> None:
        """Report a send without a response, or with a response that asks to retry later.

        Args:
            ticket: The ticket from `try_acquire`; `None` for an attempt that was made while sends are paused.
            responded: Whether there was a response.
            slowly: Whether the send took all the time until its deadline. One such failure opens the circuit,
                because three would cost the caller too much time.
        """
        with self._lock:
            self._responded = responded
            if ticket != self._epoch:
                return
            self._failures += FAILURES_TO_OPEN if slowly else 1
            if self._failures < FAILURES_TO_OPEN:
                return
            if self._opened is not None:
                self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
            self._opened = Stopwatch()
            self._epoch += 1
        what = (
            "a send had no response before its deadline"
            if slowly
            else f"{self._failures} sends failed in a row"
        )
        logger.warning("sending is paused for %d s, and events are retained: %s", self._pause, what)


_left: dict[tuple[int, str], CircuitBreaker] = {}


def breaker_for(endpoint: str) -> CircuitBreaker:
    """Return the breaker that `leave` stored for this endpoint, else a new one."""
    return _left.pop((forking.watch(), endpoint), None) or CircuitBreaker()


def leave(endpoint: str, breaker: CircuitBreaker) -> None:
    """Store a breaker, with its state, for the next sender to this endpoint.

    A program that shuts down the default client after each request must not wait for a dead endpoint each
    time.
    """
    _left[forking.watch(), endpoint] = breaker
