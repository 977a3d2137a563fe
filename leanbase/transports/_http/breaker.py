"""Stop sending to an endpoint that does not answer."""

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
"""Which sends may say something new about the endpoint."""

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 300.0

BRIEF_SECONDS = 1.0
BRIEF_EVERY_SECONDS = 10.0
"""A brief last chance takes so long at most, and so often, where the endpoint last gave no answer at all."""


class CircuitBreaker:
    """After three failures in a row, or one slow one, it refuses for 30 s, then lets one probe through.

    Each failed probe doubles the pause, up to 5 minutes; one success closes the circuit. Time spent
    frozen counts as time passed.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._opened: Stopwatch | None = None
        # Rises when the circuit opens and when a probe leaves: failures of sends that were admitted
        # before say nothing new.
        self._epoch = 1
        self._answered = True
        self._last_brief: Stopwatch | None = None

    def try_acquire(self) -> Ticket | None:
        """A ticket for a send that may go out now. Give it back to `succeeded` or `failed`."""
        if self._opened is None:
            return self._epoch
        with self._lock:
            opened = self._opened  # which a signal handler that sends may change
            if opened is None:
                return self._epoch
            if opened.seconds() < self._pause:
                return None
            # This caller is the probe. The pause starts again, so that no other is until it is over.
            self._opened = Stopwatch()
            self._epoch += 1
            return self._epoch

    def seconds_left(self) -> float:
        """How long sending pauses from now on."""
        opened = self._opened
        return 0.0 if opened is None else max(0.0, self._pause - opened.seconds())

    def succeeded(self) -> None:
        """The endpoint answered, if only to refuse."""
        if not self._failures:
            return
        with self._lock:
            self._failures = 0
            self._pause = FIRST_PAUSE_SECONDS
            self._opened = None

    def last_chance(self, kind: LastChance | None) -> float | None:
        """How many seconds an attempt may take although sends pause; `None` when none may be made."""
        if kind is None:
            return None
        with self._lock:
            if kind == "full" or self._answered:
                return math.inf
            if self._last_brief is not None and self._last_brief.seconds() < BRIEF_EVERY_SECONDS:
                return None
            self._last_brief = Stopwatch()
            return BRIEF_SECONDS

    def failed(self, ticket: Ticket | None, *, answered: bool, slowly: bool = False) -> None:
        """No answer, or one that says to come back later.

        Args:
            ticket: From `try_acquire`; `None` for an attempt that was made while sends pause.
            answered: Whether there was an answer.
            slowly: Whether it took the caller's time until its deadline. Three of those would be too much.
        """
        with self._lock:
            self._answered = answered
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
            "a send had no answer in the time it had" if slowly else f"{self._failures} sends failed in a row"
        )
        logger.warning("%s; the next is tried in %d s", what, self._pause)


_left: dict[tuple[int, str], CircuitBreaker] = {}


def breaker_for(endpoint: str) -> CircuitBreaker:
    """A new breaker, or the one that somebody left for the next who sends to this endpoint."""
    return _left.pop((forking.watch(), endpoint), None) or CircuitBreaker()


def leave(endpoint: str, breaker: CircuitBreaker) -> None:
    """Leave a breaker, with what it knows, for the next who sends to this endpoint.

    A program that shuts the default client down after each request must not wait for a dead endpoint each
    time.
    """
    _left[forking.watch(), endpoint] = breaker
