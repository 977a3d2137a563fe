"""Serve the HTTP requests of the local ingestion server."""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import ConfigError
from .store import Store
from .table import printable, properties_of_interest
from .validation import MAX_BODY_BYTES, RefusedError, decompress, parse

IDLE_SECONDS = 120.0


class LocalServer:
    """An ingestion server on a loopback address. It runs inside a `with` block, or during `serve()`.

    Args:
        host: `127.0.0.1`, `::1` or `localhost`.
        port: The port; `0` selects a free one.
        store: Where events are stored. Default: in memory.
        show: Whether received events are printed to stdout.
        flags: A file with flag definitions, from which `/flags/` and `/flags/definitions` answer.

    Raises:
        ConfigError: The host is not a loopback address.
        OSError: The port is in use.

    Example:
        >>> with LocalServer() as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        store: Store | None = None,
        show: bool = False,
        flags: Path | None = None,
    ) -> None:
        if not is_loopback(host):
            raise ConfigError(f"the local server only listens on loopback addresses, not on {host!r}")
        self.store = store or Store()
        self._http = _HTTPServer((host, port), self.store, show, flags)
        # Check this often whether to stop: tests that start one server each should not wait at the end.
        serve = partial(self._http.serve_forever, poll_interval=0.02)
        self._thread = threading.Thread(target=serve, name="leanbase-local", daemon=True)

    @property
    def url(self) -> str:
        """The URL to set as `host`."""
        name = self._http.server_address[0]
        return f"http://{f'[{name!s}]' if ':' in str(name) else name!s}:{self._http.server_port}"

    def serve(self) -> None:
        """Serve in this thread. Blocks until it is interrupted."""
        self._http.serve_forever()

    def __enter__(self) -> LocalServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self.store.close()


def is_loopback(host: str) -> bool:
    """Return True if a host name or address, without a port, is a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], store: Store, show: bool, flags: Path | None) -> None:
        import socket

        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.store = store
        self.show = show
        self.flags = flags

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of a connection, such as a client that disconnected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "leanbase-local"
    sys_version = ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # sends head and body of a response in one packet
    server: _HTTPServer
    _etag: str | None = None

    def do_POST(self) -> None:
        is_about_flags = urlsplit(self.path).path == "/flags/"
        self._answer_with(self._evaluate if is_about_flags else self._ingest)

    def do_GET(self) -> None:
        is_about_flags = urlsplit(self.path).path == "/flags/definitions"
        self._answer_with(self._define if is_about_flags else self._list)

    def do_DELETE(self) -> None:
        self._answer_with(self._clear)

    def _answer_with(self, route: Any) -> None:
        try:
            # A page in a browser can make its host name resolve to 127.0.0.1, then send requests here.
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if not is_loopback(host):
                raise RefusedError("the Host header must name a loopback address", 403)
            content = route()
            status = 304 if content is None else 200
        except (RefusedError, ValueError) as error:
            status = error.status if isinstance(error, RefusedError) else 400
            content = {"status": 0, "error": str(error)}
            self.close_connection = True  # the body may not have been read
            self._print(f"refused with {status}: {printable(str(error))}")
        except Exception as error:
            status, content = 500, {"status": 0, "error": f"the local server failed: {type(error).__name__}"}
            self.close_connection = True
            self._print(f"failed with {printable(repr(error))}")
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        if self._etag is not None:
            self.send_header("ETag", self._etag)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _evaluate(self) -> dict[str, Any]:
        from .flags import FlagsFile

        body = self._body()
        answer = FlagsFile(self.server.flags).evaluate(json.loads(body))
        self._print(f"flags of {printable(str(json.loads(body)['distinct_id']))}: {len(answer['flags'])}")
        return answer

    def _define(self) -> dict[str, Any] | None:
        from .flags import FlagsFile

        flags = FlagsFile(self.server.flags)
        headers = self.headers
        self._etag, found = flags.definitions(headers.get("Authorization"), headers.get("If-None-Match"))
        self._print("flag definitions" if found is not None else "flag definitions, as known")
        return found

    def _ingest(self) -> dict[str, Any]:
        if self.path != "/batch/":
            raise RefusedError(f"there is nothing at {self.path}; events go to /batch/", 404)
        envelope = parse(self._body())
        for event, is_new in zip(envelope["batch"], self.server.store.add(envelope), strict=True):
            name, who = printable(event["event"]), printable(event["distinct_id"])
            again = "" if is_new else "  (again: the same event, counted once)"
            self._print(f"{name}  {who}  {properties_of_interest(event['properties'])}{again}")
        return {"status": 1}

    def _body(self) -> bytes:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError("the Content-Type must be application/json", 415)
        if "Content-Length" not in self.headers:
            raise RefusedError("the request needs a Content-Length", 411)
        length = int(self.headers["Content-Length"])
        if not 0 <= length <= MAX_BODY_BYTES:
            raise RefusedError("the body is too large", 413)
        return decompress(self.rfile.read(length), self.headers.get("Content-Encoding", "").lower())

    def _list(self) -> dict[str, Any]:
        address = urlsplit(self.path)
        if address.path != "/events":
            raise RefusedError(f"there is nothing at {self.path}; received events are at /events", 404)
        after = parse_qs(address.query).get("after", ["0"])[0]
        return {"events": self.server.store.events(int(after))}

    def _clear(self) -> dict[str, Any]:
        if self.path != "/events":
            raise RefusedError(f"there is nothing at {self.path} to delete", 404)
        self.server.store.clear()
        return {"status": 1}

    def _print(self, text: str) -> None:
        if self.server.show:
            sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
            sys.stdout.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `_print` reports received events already."""
