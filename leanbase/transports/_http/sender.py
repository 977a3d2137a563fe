"""Sends a request with retries: several attempts, with waits between them, before one deadline."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ... import event_loop, forking
from ...errors import RejectedError, TransportError
from ...interrupts import raise_interrupt
from ..deadline import Deadline
from . import breaker

if TYPE_CHECKING:
    from .connection import Connections, Response

logger = logging.getLogger("leanbase")

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0
SHORTEST_WAIT_SECONDS = 0.1
SLOW_SECONDS = 1.0
PAUSED = "paused"
DEADLINE = "deadline"


class _Latch:
    """A `threading.Event` without a lock.

    A signal handler that calls `close` would wait forever if it interrupted the holder of that lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it is open already

    def wait(self, seconds: float) -> bool:
        is_open = self._lock.acquire(timeout=seconds)
        if is_open:
            self._lock.release()  # so that the other waiting threads continue
        return is_open


class HttpSender:
    """The kept-alive connections, retries and circuit breaker of one transport over HTTP.

    Args:
        endpoint: The URL to send to. It identifies the circuit breaker.
        timeout: The maximum number of seconds for one attempt, including the time to connect.
        max_retries: The maximum number of attempts after the first, in each send.
    """

    def __init__(self, endpoint: str, *, timeout: float, max_retries: int) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._max_retries = max(0, max_retries)
        self._reset_after_fork()
        forking.reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._connections: Connections | None = None
        self._breaker = breaker.breaker_for(self._endpoint)
        self._closing = _Latch()

    def send_with_retries(self, attempt: Callable[[Deadline], object], deadline: Deadline) -> None:
        """Call `attempt` until it succeeds, fails permanently, or the deadline expires.

        While the circuit breaker pauses sends, only a last-chance deadline allows an attempt.

        Raises:
            RejectedError: The server rejected the request permanently.
            TransportError: The request failed this time. If nothing was tried, `reason` is `"paused"` or
                `"deadline"`.
        """
        if deadline.expired:
            # Not reported to the breaker: this says nothing about the endpoint.
            raise TransportError("no time was left to send", reason=DEADLINE)
        if deadline.last_chance != "full" and event_loop.is_running():  # a real end may block the loop
            event_loop.warn_of_blocking()
        given = deadline.remaining()
        ticket = self._breaker.try_acquire()
        retries = self._max_retries
        if ticket is None:
            seconds = self._breaker.last_chance(deadline.last_chance)
            if seconds is None:
                logger.debug(
                    "sending is paused for another %.0f s; events are retained", self._breaker.seconds_left()
                )
                raise TransportError("the endpoint has just failed; sending is paused", reason=PAUSED)
            deadline, retries = deadline.at_most(seconds), 0
        try:
            self._with_retries(attempt, retries, deadline)
        except RejectedError:
            self._breaker.succeeded()
            raise
        except TransportError as error:
            # If there was little time from the start, a missed deadline says little about the endpoint.
            slowly = deadline.expired and given >= SLOW_SECONDS
            self._breaker.failed(ticket, responded=error.responded, slowly=slowly)
            raise
        self._breaker.succeeded()

    def _with_retries(self, attempt: Callable[[Deadline], object], retries: int, deadline: Deadline) -> None:
        closing = self._closing
        for number in range(retries + 1):
            try:
                attempt(deadline.at_most(self._timeout))
                return
            except RejectedError:
                raise
            except TransportError as error:
                wait = _wait_before_retry(number, error.retry_after)
                logger.debug("attempt %d of %d failed: %s", number + 1, retries + 1, error)
                if number == retries or not error.mends_soon or wait >= deadline.remaining():
                    raise
                if closing.wait(wait):
                    raise

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, deadline: Deadline) -> Response:
        """Send one POST and return the response, or raise a TransportError if there is none."""
        return self._connected().request("POST", url, body, headers, deadline=deadline)

    def _connected(self) -> Connections:
        if self._connections is not None:
            return self._connections
        # Import here, because `import leanbase` must not load urllib3 and ssl. Import outside the lock,
        # because a signal handler that sends would wait for an import that it has interrupted.
        with forking.importing:
            from .connection import Connections

        with self._lock:
            if self._connections is None:
                self._connections = Connections()
            return self._connections

    def warm_up(self, url: str, *, deadline: Deadline) -> None:
        """Import urllib3 and open a connection, unless this was done before. Failures are only logged."""
        if self._connections is not None:
            return
        try:
            connections = self._connected()
            if not deadline.expired:
                connections.open_one(url, deadline=deadline)
        except Exception as error:
            raise_interrupt(error)
            logger.debug("connecting ahead of the first send failed: %s", error)

    def close(self, deadline: Deadline) -> None:
        """End the waits between attempts of all sends in flight, and close idle connections."""
        if deadline.last_chance == "brief":  # another client will probably follow
            breaker.leave(self._endpoint, self._breaker)
        with self._lock:
            connections, self._connections = self._connections, None
            closing, self._closing = self._closing, _Latch()
        closing.open()
        if connections is not None:
            connections.close()


def _wait_before_retry(attempt: int, retry_after: float | None) -> float:
    """Return the seconds to wait after attempt number `attempt`, counted from 0 (Q-11).

    At least `retry_after`, up to LONGEST_WAIT_SECONDS (Q-12).
    """
    backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**attempt)
    wait = max(SHORTEST_WAIT_SECONDS, backoff * (1 - random.random() / 2))  # noqa: S311 - jitter
    return max(wait, min(retry_after or 0.0, LONGEST_WAIT_SECONDS))
