"""Sockets that end in time: whatever a call on them waits for, the deadline of the attempt ends it.

A socket's own timeout bounds each wait. A slow name server, a list of dead addresses or a body that
trickles byte by byte can outlast it many times over.
"""

from __future__ import annotations

import socket
import ssl
from contextvars import ContextVar
from typing import Any

from ..deadline import Deadline
from .timed_calls import call_with_timeout

TIMEOUT_SLACK_SECONDS = 0.05
TIMEOUT_SLACK_SHARE = 0.05


class Attempt:
    """One request on the way: its deadline, and what its connection has seen so far."""

    __slots__ = ("answered", "connected", "deadline", "fresh")

    def __init__(self, deadline: Deadline, *, fresh: bool = False) -> None:
        self.deadline = deadline
        self.fresh = fresh
        self.connected = False
        self.answered = False

    def time_left(self) -> float:
        """Seconds left, more than zero: to a socket, a timeout of zero means something else."""
        left = self.deadline.remaining()
        if left <= 0.0:
            raise TimeoutError("the deadline has passed")
        return left


current_attempt: ContextVar[Any] = ContextVar("leanbase_attempt", default=None)


class DeadlineSocket(socket.socket):
    """Every call on this socket ends when the current attempt does."""

    def settimeout(self, value: float | None) -> None:
        # Setting it is a system call, reading it is not; and most of the many that urllib3 and the
        # calls below ask for change nothing worth one.
        current = self.gettimeout()
        slack = min(TIMEOUT_SLACK_SECONDS, (value or 0.0) * TIMEOUT_SLACK_SHARE)
        if value is None or current is None or abs(current - value) > slack:
            super().settimeout(value)

    def _limit(self) -> Attempt:
        attempt: Attempt = current_attempt.get()
        self.settimeout(attempt.time_left())
        return attempt

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        attempt = self._limit()
        count = super().recv_into(*args, **kwargs)
        attempt.answered = attempt.answered or count > 0
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._limit()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        # In socket.socket the timeout bounds the whole call; ssl.SSLSocket calls `send` in a loop.
        self._limit()
        super().sendall(*args, **kwargs)


class DeadlineTLSSocket(DeadlineSocket, ssl.SSLSocket):
    pass


def connect(host: str, port: int, attempt: Attempt, options: list[Any]) -> socket.socket:
    """Connect to the first address of `host` that answers; dead ones share the time that is left."""
    addresses = _resolve(host, port, attempt)
    failure: OSError = OSError(f"{host} has no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = DeadlineSocket(family, kind, protocol)
        try:
            for option in options:
                connection.setsockopt(*option)
            connection.settimeout(attempt.time_left() / (len(addresses) - position))
            connection.connect(address)
            connection.settimeout(attempt.time_left())
            return connection
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError):
                raise
            failure = error
    raise failure


def _resolve(host: str, port: int, attempt: Attempt) -> list[Any]:
    """`getaddrinfo` that ends in time.

    The C library's resolver takes no timeout and can block for half a minute, so the look-up of a
    name runs in a thread of its own, which ends with the look-up and which nobody waits for longer.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue  # a name, or an address of the other kind
        # Not through the resolver: a fork in the middle of it leaves its locks held in the child.
        return [(family, socket.SOCK_STREAM, 0, "", (host, port))]
    try:
        return call_with_timeout(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            attempt.time_left(),
            name="leanbase-resolver",
        )
    except TimeoutError:
        raise TimeoutError(f"{host} was not resolved in time") from None
