"""Adds to urllib3 one deadline for a whole attempt, and a resend if a kept-alive connection was closed.

The connections and pools are subclasses of urllib3's own. They use the sockets of `sockets.py`. The first
send or the cold start of a Lambda function imports this module; `import leanbase` does not.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from http.client import SWITCHING_PROTOCOLS, BadStatusLine, HTTPException, HTTPResponse, RemoteDisconnected
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError, ProxyError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError
from urllib3.util import make_headers, parse_url
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.ssl_ import create_urllib3_context

from ...errors import TransportError
from ...interrupts import raise_interrupt
from ..deadline import Deadline, Stopwatch
from .sockets import Attempt, DeadlineTLSSocket, connect, current_attempt

MAX_IDLE_SECONDS = 60.0
"""Load balancers close connections that are idle for about a minute (AWS: 60 s by default)."""

MAX_RESPONSE_BYTES = 64 * 1024
POOLED_CONNECTIONS = 32
MAX_KNOWN_URLS = 16


FAILURES = (HTTPError, HTTPException, OSError)
"""What urllib3, `http.client` and the system raise when a request fails."""


class Response:
    """A response, with the body up to the requested size."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Connections:
    """The kept-alive connections to a host, direct or through the system's proxy."""

    def __init__(self) -> None:
        # By scheme and address: the configured server, and at most the same server over https.
        self._pools: dict[tuple[str, str], Any] = {}
        self._known: dict[str, tuple[Any, str]] = {}

    def _pool(self, url: str) -> tuple[Any, str]:
        """Return the pool for a URL and the request target: the path, or the whole URL for an HTTP proxy."""
        known = self._known.get(url)
        if known is not None:
            return known
        parts = urlsplit(url)
        normalized = parse_url(url)
        pool = self._pools.get((parts.scheme, parts.netloc))
        if pool is None:
            pool = _manager_for(url).connection_from_url(url)
            pool = self._pools.setdefault((parts.scheme, parts.netloc), pool)
        is_forwarded = pool.proxy is not None and parts.scheme == "http"
        target = normalized.url if is_forwarded else normalized.request_uri
        if len(self._known) >= MAX_KNOWN_URLS:
            self._known.clear()
        self._known[url] = pool, target
        return pool, target

    def request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        deadline: Deadline,
        most: int = MAX_RESPONSE_BYTES,
    ) -> Response:
        """Send one request and return the response, with at most `most` bytes of its body.

        Blocks until the deadline at the latest.

        If a kept-alive connection fails before a byte of the response has arrived, the request is resent at
        once on a new connection. The server closed the old connection while the client was idle or frozen,
        which says nothing about the server's health.

        Raises:
            TransportError: There was no response: connection refused or reset, host name not resolved,
                certificate not trusted, or too late.
        """
        attempt = Attempt(deadline)
        try:
            try:
                return self._request(method, url, body, headers, attempt, most)
            except FAILURES as error:
                raise_interrupt(error)
                stale = not attempt.connected and not attempt.responded
                if not stale or isinstance(_cause(error), (TimeoutError, Urllib3TimeoutError)):
                    raise
                return self._request(method, url, body, headers, Attempt(deadline, fresh=True), most)
        except FAILURES as error:
            raise_interrupt(error)  # a task's time limit may be a TimeoutError, too
            what, mends_soon = _describe(error), not _is_untrusted(error)
            raise TransportError(what, mends_soon=mends_soon, responded=False) from error

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        attempt: Attempt,
        most: int,
    ) -> Response:
        others = current_attempt.get(None)
        try:
            current_attempt.set(attempt)  # inside the `try`: an interrupt may come right after it
            pool, target = self._pool(url)
            response: Response = pool.exchange(method, target, body, headers, most)
            return response
        finally:
            current_attempt.set(others)

    def open_one(self, url: str, *, deadline: Deadline) -> None:
        """Connect ahead of the first request, or raise a TransportError before the deadline."""
        others = current_attempt.get(None)
        try:
            current_attempt.set(Attempt(deadline))
            pool, target = self._pool(url)
            pool.open_one(target)
        except FAILURES as error:
            raise_interrupt(error)
            raise TransportError(_describe(error)) from error
        finally:
            current_attempt.set(others)

    def close(self) -> None:
        """Close the idle connections. A connection in use is closed when its request has finished."""
        for pool in self._pools.values():
            pool.close()


MAX_INTERIM_RESPONSES = 20
MAX_LINE_BYTES = 65_536


class _Reader:
    """Reads the lines of a response's headers, and raises if the connection ends before the headers do."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._reader.readline(limit)
        if not line:
            raise RemoteDisconnected("the response ended within its headers")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class _FinalResponse(HTTPResponse):
    """Skips interim responses (1xx) and rejects a response whose headers are incomplete.

    `http.client` skips only status 100, and takes the end of the connection for the end of the headers.
    """

    fp: Any = None  # `close` reads it, also if an interrupt ended `__init__`

    def begin(self) -> None:
        reader = self.fp
        self.fp = _Reader(reader)
        try:
            super().begin()
        finally:
            if self.fp is not None:
                self.fp = reader

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_RESPONSES):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == SWITCHING_PROTOCOLS:
                return version, status, reason
            while self.fp.readline(MAX_LINE_BYTES) not in (b"\r\n", b"\n"):
                pass
        raise BadStatusLine("too many interim responses")


class _Connection(HTTPConnection):
    """Connects before the deadline, and counts as disconnected if it was idle for too long."""

    response_class = _FinalResponse

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_used = Stopwatch()

    @property
    def is_connected(self) -> bool:
        # urllib3 reads this when it takes a connection from the pool, and reconnects if it is False.
        if current_attempt.get().fresh or self._last_used.seconds() > MAX_IDLE_SECONDS:
            return False
        return super().is_connected or self._is_quiet()

    def _is_quiet(self) -> bool:
        """Return True if the socket is readable but holds neither application data nor EOF."""
        return False

    def _new_conn(self) -> socket.socket:
        attempt = current_attempt.get()
        attempt.connected = True
        return connect(self._dns_host, self.port, attempt, self.socket_options or [])

    def exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> HTTPResponse:
        """Send one request and return the response, before its body is read.

        Uses the methods of `http.client`: urllib3's take twice the instructions.
        """
        self._last_used = Stopwatch()
        try:
            http.client.HTTPConnection.request(self, method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if self.sock is None:
                raise
            # The server may have responded before it closed the connection.
        return http.client.HTTPConnection.getresponse(self)

    putheader = http.client.HTTPConnection.putheader
    putrequest = http.client.HTTPConnection.putrequest


class _TLSConnection(_Connection, HTTPSConnection):
    def _is_quiet(self) -> bool:
        # A TLS 1.3 server sends session tickets after the handshake. urllib3 takes the readable socket for a
        # closed connection, and would discard each connection that was opened ahead of its first use.
        if not isinstance(self.sock, ssl.SSLSocket):
            return False
        self.sock.settimeout(0.0)
        try:
            self.sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            pass
        return False


class _IdleConnections:
    """The part of `queue.LifoQueue` that urllib3 uses, without a lock.

    A signal handler may send while its own thread takes a connection or puts one back. If the handler raised
    at that point, the lock of a queue would stay held, and all other threads would wait forever.
    """

    def __init__(self, maxsize: int) -> None:
        self._connections: deque[Any] = deque()
        self._most = maxsize

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, block: bool = False) -> None:
        if len(self._connections) < self._most:
            self._connections.append(connection)
        elif connection is not None:
            connection.close()  # urllib3 would log a warning that nobody can act on

    def qsize(self) -> int:
        return len(self._connections)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection
    QueueCls: Any = _IdleConnections

    def open_one(self, target: str) -> None:
        """Open a connection, unless one is idle."""
        connection: Any = self._get_conn()
        try:
            self._open(connection, target)
        except BaseException:
            connection.close()
            raise
        self._put_conn(connection)

    def exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], most: int
    ) -> Response:
        """Send one request. Keep the connection, unless the server closes it or something fails."""
        connection: Any = self._get_conn()
        is_reusable = False
        try:
            is_tunnelled = self._open(connection, target)
            if self.proxy_headers and not is_tunnelled:
                headers = {**headers, **self.proxy_headers}
            response = connection.exchange(method, target, body, headers)
            try:
                content = response.read(most + 1)
                is_reusable = response.isclosed() and not response.length and not response.will_close
            except FAILURES as error:
                raise_interrupt(error)
                content = b""  # the status line has arrived and decides the outcome; only the body is lost
            return Response(response.status, response.headers, content[:most])
        finally:
            if is_reusable:
                self._put_conn(connection)
            else:
                # Not put back: after an interrupt it may hold a part of a request, which `close` does not
                # discard, and which would precede the next request.
                connection.close()

    def _open(self, connection: Any, target: str) -> bool:
        """Connect if necessary. Return True if the connection is a tunnel through a proxy."""
        scheme = "http" if target.startswith("http:") else None
        is_tunnelled = connection_requires_http_tunnel(self.proxy, self.proxy_config, scheme)
        if connection.is_closed:
            try:
                if is_tunnelled:
                    self._prepare_proxy(connection)  # this also connects
                else:
                    connection.connect()
            except FAILURES as error:
                if self.proxy is None or connection.has_connected_to_proxy:
                    raise
                raise_interrupt(error)
                raise ProxyError("Unable to connect to proxy", error) from error
        return is_tunnelled


class _TLSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def _manager_for(url: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": POOLED_CONNECTIONS}
    if urlsplit(url).scheme == "https":
        options["ssl_context"] = tls_context()
    proxy = proxy_of(url)
    manager: urllib3.PoolManager
    if proxy is not None:
        address, credentials = proxy
        headers = make_headers(proxy_basic_auth=credentials) if credentials else None
        manager = urllib3.ProxyManager(address, proxy_headers=headers, **options)
    else:
        manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


def proxy_of(url: str) -> tuple[str, str | None] | None:
    """Return the environment's proxy for a URL: its URL, and its credentials as `user:password`.

    Raises:
        TransportError: The proxy is not a valid `http://` or `https://` URL.
    """
    target = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if not proxy or _is_past_proxy(target, proxies.get("no", "")):
        return None
    return _proxy(proxy)


def _proxy(given: str) -> tuple[str, str | None]:
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        is_url = bool(parts.hostname) and parts.port != 0  # `port` raises ValueError if it is not a number
    except ValueError:
        raise TransportError("the proxy in the environment is not a valid URL", mends_soon=False) from None
    if parts.scheme not in ("http", "https") or not is_url:
        what = f"the proxy {address} cannot be used: it must be an http:// or https:// URL with a host"
        raise TransportError(what, mends_soon=False)
    return address, f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None


def _is_past_proxy(target: SplitResult, exceptions: str) -> bool:
    """Return True if `NO_PROXY` contains the host of a URL, a suffix of it, or its network."""
    if proxy_bypass(target.netloc.rpartition("@")[2]):
        return True
    try:
        host = ip_address(target.hostname or "")
    except ValueError:
        return False
    for name in exceptions.split(","):
        with contextlib.suppress(ValueError):
            if host in ip_network(name.strip(), strict=False):
                return True
    return False


def tls_context() -> ssl.SSLContext:
    """Return a verifying TLS context with the CAs that the environment names, else with the system's.

    OpenSSL itself reads `SSL_CERT_FILE` and `SSL_CERT_DIR`. `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE` are
    the variables of requests and curl, each a file or a directory. The CAs of all variables are trusted.

    Raises:
        TransportError: `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` cannot be loaded.
    """
    context = create_urllib3_context()
    bundles = [os.environ[name] for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)]
    for bundle in bundles:
        directory = Path(bundle).is_dir()
        try:
            context.load_verify_locations(None if directory else bundle, bundle if directory else None)
        except OSError as error:
            what = f"the CA bundle {bundle} cannot be used: {error}"
            raise TransportError(what, mends_soon=False) from error
    if not bundles or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        context.load_default_certs()  # OpenSSL reads its two variables here
    context.sslsocket_class = DeadlineTLSSocket
    return context


def _cause(error: BaseException) -> BaseException:
    """Return the error that urllib3 has wrapped."""
    while (
        isinstance(error, ProtocolError) and len(error.args) > 1 and isinstance(error.args[1], BaseException)
    ):
        error = error.args[1]
    return error


def _is_untrusted(error: BaseException) -> bool:
    """Return True if the server's certificate is not trusted."""
    cause = _cause(error)
    if isinstance(cause, urllib3.exceptions.SSLError) and cause.args:
        cause = cause.args[0]  # the `ssl` error that it wraps
    return isinstance(cause, ssl.SSLCertVerificationError)


_DESCRIPTIONS: list[tuple[Any, Callable[[BaseException], str]]] = [
    ((TimeoutError, Urllib3TimeoutError), lambda _: "no response in time"),
    (socket.gaierror, lambda error: f"the host name could not be resolved ({error.args[-1]})"),
    ((ssl.SSLError, urllib3.exceptions.SSLError), lambda error: f"TLS failed: {error}"),
    (ProxyError, lambda error: f"the proxy failed: {error.args[0]}"),
    (OSError, lambda error: f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"),
]


def _describe(error: BaseException) -> str:
    """Describe an error of urllib3 or the system in one line, without the URL or any data that was sent."""
    cause = _cause(error)
    for kinds, describe in _DESCRIPTIONS:
        if isinstance(cause, kinds):
            return describe(cause)
    return type(cause).__name__
