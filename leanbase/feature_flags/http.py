"""HTTP requests about flags, with the connections of the transports."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import forking
from ..errors import TransportError
from ..transports.http import HEADERS

if TYPE_CHECKING:
    from ..transports._http.connection import Connections, Response
    from ..transports.deadline import Deadline

MAX_BODY_BYTES = 16 * 1024 * 1024

JSON_HEADERS = {**HEADERS, "Accept-Encoding": "gzip"}


class TooLargeError(ValueError):
    """A response exceeds `MAX_BODY_BYTES`."""


class HttpClient:
    """Sends requests on kept-alive connections. A forked child opens its own."""

    def __init__(self) -> None:
        self._reset_after_fork()
        forking.reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._connections: Connections | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close idle connections. The next request opens a new one."""
        with self._lock:
            connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], *, deadline: Deadline
    ) -> Response:
        """Send one request and return the decompressed response. Blocks until the deadline at the latest.

        Raises:
            TransportError: There was no response.
            TooLargeError: The response is too large.
        """
        with forking.importing:
            from ..transports._http.connection import Connections

        with self._lock:
            if self._connections is None:
                self._connections = Connections()
            connections = self._connections
        response = connections.request(method, url, body, headers, deadline=deadline, most=MAX_BODY_BYTES + 1)
        response.body = _decompressed(response)
        return response


def _decompressed(response: Response) -> bytes:
    body = response.body
    if (response.headers.get("Content-Encoding") or "").strip().lower() == "gzip" and body:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            body = unpacker.decompress(body, MAX_BODY_BYTES + 1)
        except zlib.error:
            return b""
        if not unpacker.eof and len(body) <= MAX_BODY_BYTES:
            return b""  # truncated
    if len(body) > MAX_BODY_BYTES:
        raise TooLargeError(f"the response has more than {MAX_BODY_BYTES} bytes")
    return body


def decoded(response: Response) -> Any:
    """Return the decoded JSON of a response. Raises `ValueError` if it is invalid."""
    return json.loads(response.body)


def is_timeout(error: TransportError) -> bool:
    """Return True if there was no response in time."""
    return _has_cause(error, TimeoutError) or "no response in time" in str(error)


def is_refused(error: TransportError) -> bool:
    """Return True if the connection was refused."""
    return _has_cause(error, ConnectionRefusedError)


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return False
        if isinstance(seen, kind):
            return True
        following = next((each for each in seen.args if isinstance(each, BaseException)), None)
        seen = seen.__cause__ or following or seen.__context__
    return False
