"""Sockets whose calls end when the deadline of the attempt expires.

A socket's own timeout limits only a single wait. A slow name server, a list of dead addresses or a body that
arrives byte by byte can take many times longer.
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
    """One attempt to send a request.

    Attributes:
        deadline: When the attempt must have finished.
        fresh: Whether it must not use a kept-alive connection.
        connected: Whether it has begun to open a connection.
        responded: Whether a byte of the response has arrived.
    """

    __slots__ = ("connected", "deadline", "fresh", "responded")

    def __init__(self, deadline: Deadline, *, fresh: bool = False) -> None:
        self.deadline = deadline
        self.fresh = fresh
        self.connected = False
        self.responded = False

    def time_left(self) -> float:
        """Return the seconds left, more than zero: a socket with a timeout of zero is non-blocking.

        Raises:
            TimeoutError: The deadline has passed.
        """
        left = self.deadline.remaining()
        if left <= 0.0:
            raise TimeoutError("the deadline has passed")
        return left


current_attempt: ContextVar[Any] = ContextVar("leanbase_attempt", default=None)


class DeadlineSocket(socket.socket):
    """A socket whose calls end at the deadline of the current attempt."""

    def settimeout(self, value: float | None) -> None:
        # Setting the timeout is a system call, reading it is not. urllib3 and the methods below set it often,
        # mostly to almost the same value: skip these calls.
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
        attempt.responded = attempt.responded or count > 0
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._limit()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        # socket.socket applies the timeout to the whole call; ssl.SSLSocket calls `send` in a loop.
        self._limit()
        super().sendall(*args, **kwargs)


class DeadlineTLSSocket(DeadlineSocket, ssl.SSLSocket):
    pass


def connect(host: str, port: int, attempt: Attempt, options: list[Any]) -> socket.socket:
    """Connect to the first address of `host` that accepts. Addresses share the time left equally.

    Raises:
        OSError: No address accepted before the deadline, or the host name could not be resolved.
    """
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
    """Call `getaddrinfo` with the time left as its timeout.

    The C library's resolver takes no timeout and can block for half a minute. So it runs in its own thread,
    and the caller stops waiting at the deadline.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue  # a host name, or an address of the other family
        # Avoid the resolver: a fork in the middle of it leaves its locks held in the child.
        return [(family, socket.SOCK_STREAM, 0, "", (host, port))]
    try:
        return call_with_timeout(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            attempt.time_left(),
            name="leanbase-resolver",
        )
    except TimeoutError:
        raise TimeoutError(f"{host} was not resolved in time") from None
