"""Serves the HTTP requests of the local ingestion server."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import ConfigError
from .faults import CurrentFaults, Faults
from .store import PAGE_SIZE, Arrival, Filter, Store
from .table import printable, properties_of_interest
from .validation import MAX_BODY_BYTES, RefusedError, decompress, parse

IDLE_SECONDS = 120.0
STREAM_SECONDS = 15.0
"""The maximum silence of `/events/stream`, so that proxies keep it open."""

STREAM_LIMIT = 500
TOKEN_BYTES = 16
_TOKEN = re.compile(r"[A-Za-z0-9_.-]{8,200}")

_PAGE = Path(__file__).parent / "page"
_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/detail.js": ("detail.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files of the page, by URL path."""

SAFE = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response, because the page must not execute anything in received events."""

_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization", "x-api-key")


class LocalServer:
    """An ingestion server for development. It runs inside a `with` block, or during `serve()`.

    Args:
        host: The address to listen on.
        port: The port; `0` selects a free port.
        store: Stores the events. Default: in memory.
        show: Whether to print received events to stdout.
        flags: The file with flag definitions.
        token: The first segment of every path: at least 8 letters, digits or `_.-`. Default: none on a
            loopback address, else a random token.
        faults: The faults to simulate.

    Raises:
        ConfigError: The token or a fault is not valid.
        OSError: The port is in use.

    Examples:
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
        token: str | None = None,
        faults: Faults = Faults(),  # noqa: B008 - it is immutable
    ) -> None:
        if token is not None and not _TOKEN.fullmatch(token):
            raise ConfigError("token must have at least 8 letters, digits, or characters of _.-")
        if token is None and not is_loopback(host):
            token = secrets.token_urlsafe(TOKEN_BYTES)
        self.store = store or Store()
        self._token = token
        try:
            self._http = _HTTPServer((host, port), self.store, show, flags, token, CurrentFaults(faults))
        except BaseException:
            if store is None:
                self.store.close()
            raise
        # A short interval: tests that start a server each must not wait for its shutdown.
        serve = partial(self._http.serve_forever, poll_interval=0.02)
        self._thread = threading.Thread(target=serve, name="leanbase-local", daemon=True)

    @property
    def url(self) -> str:
        """The URL of the page, and the value for `host`. It includes the token."""
        name = str(self._http.server_address[0])
        if name in ("0.0.0.0", "::"):  # noqa: S104 - all addresses; show a name that other machines can use
            name = socket.gethostname()
        shown = f"[{name}]" if ":" in name else name
        token = f"/{self._token}" if self._token else ""
        return f"http://{shown}:{self._http.server_port}{token}"

    def serve(self) -> None:
        """Serve in this thread. Blocks until an interrupt."""
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
        self._http.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self.store.close()


def is_loopback(host: str) -> bool:
    """Return True if a host name or address without a port is a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        store: Store,
        show: bool,
        flags: Path | None,
        token: str | None,
        current_faults: CurrentFaults,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.store = store
        self.show = show
        self.flags = flags
        self.token = token
        self.current_faults = current_faults
        self.stopping = threading.Event()

    def server_bind(self) -> None:
        """Bind without the slow resolution of the machine's own name, which `HTTPServer.server_bind` does."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of a connection, such as a client that disconnected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "leanbase-local"
    sys_version = ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # send head and body of a response in one packet
    server: _HTTPServer
    _more: Mapping[str, str] = {}

    def do_POST(self) -> None:
        self._answer_with({"/batch/": self._ingest, "/flags/": self._evaluate})

    def do_GET(self) -> None:
        path = self._path() or ""
        if self.server.token is not None and hmac.compare_digest(
            self.path.encode(), f"/{self.server.token}".encode()
        ):
            return self._send(308, b"", "text/plain", {"Location": f"/{self.server.token}/"})
        if path in _STATIC:
            return self._send_static(*_STATIC[path])
        if path == "/events/stream" and self._is_allowed():
            return self._stream()
        self._answer_with(
            {
                "/events": self._list,
                "/events/page": self._page,
                "/events/one": self._one,
                "/events/export": self._export,
                "/events/counts": lambda: self.server.store.counts(self._filter()),
                "/requests": self._requests,
                "/faults": lambda: self.server.current_faults.faults.shown(),
                "/flags/definitions": self._definitions,
            }
        )

    def do_PUT(self) -> None:
        self._answer_with({"/faults": self._play})

    def do_DELETE(self) -> None:
        self._answer_with({"/events": self._clear})

    # --- what every request goes through -------------------------------------------------------------

    def _path(self) -> str | None:
        """Return the path after the token, or `None` if the token is missing or wrong."""
        path, token = urlsplit(self.path).path, self.server.token
        if token is None:
            return path
        first, slash, rest = path.removeprefix("/").partition("/")
        is_right = hmac.compare_digest(first.encode("utf-8", "replace"), token.encode())
        return f"/{rest}" if is_right and slash else None

    def _is_allowed(self) -> bool:
        """Return False if a page of another site may have made this request.

        Such a page can let its own host name resolve to 127.0.0.1 (DNS rebinding), but has no token.
        """
        if self.server.token is not None:
            return self._path() is not None
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return is_loopback(host)

    def _query(self, name: str, default: str = "") -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [default])[0]

    def _filter(self) -> Filter:
        return Filter(self._query("event"), self._query("distinct_id"), self._query("text"))

    def _answer_with(self, routes: Mapping[str, Callable[[], Any]]) -> None:
        path, self._more = self._path(), {}
        try:
            if not self._is_allowed() and path is not None:
                raise RefusedError("the Host header must name a loopback address", 403)
            route = None if path is None else routes.get(path)
            if route is None:
                raise RefusedError(_NOTHING_THERE, 404)
            content = route()
            status = 304 if content is None else 200
            if isinstance(content, _SimulatedResponse):
                status, self._more, content = content.status, content.headers, content.body
        except (RefusedError, ConfigError, ValueError) as error:
            status = error.status if isinstance(error, RefusedError) else 400
            content = {"status": 0, "error": str(error)}
            self.close_connection = True  # the body may be unread
            self._print(f"refused with {status}: {printable(str(error))}")
        except Exception as error:
            status, content = 500, {"status": 0, "error": f"the local server failed: {type(error).__name__}"}
            self.close_connection = True
            self._print(f"failed with {printable(repr(error))}")
        if isinstance(content, bytes):
            return self._send(status, content, "application/x-ndjson", self._more)
        body = b"" if status in (204, 304) else json.dumps(content).encode()
        self._send(status, body, "application/json", self._more)

    def _send(self, status: int, body: bytes, kind: str, more: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**SAFE, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _send_static(self, name: str, kind: str) -> None:
        if not self._is_allowed():
            return self._answer_with({})
        self._send(200, (_PAGE / name).read_bytes(), kind, {"Cache-Control": "no-cache"})

    # --- ingestion -----------------------------------------------------------------------------------

    def _ingest(self) -> Any:
        shown = {
            name: "…" if name.lower() in _SECRET_HEADERS else printable(value)
            for name, value in self.headers.items()
        }
        arrival = Arrival(shown, int(self.headers.get("Content-Length") or 0))
        faults = self.server.current_faults.faults
        try:
            body = self._body()
            arrival.body_bytes = len(body)
            envelope = parse(body)
        except (RefusedError, ValueError) as error:
            arrival.status = error.status if isinstance(error, RefusedError) else 400
            arrival.error = str(error)
            self.server.store.add(None, arrival)
            raise
        played = faults.answer(envelope["api_key"])
        if played is not None:
            status, headers, content = played
            arrival.status = status
            arrival.error = f"simulated: {content.get('error') or 'not stored'}"
            self.server.store.add(None, arrival)
            self._print(f"{len(envelope['batch'])} event(s): simulated response {status}")
        else:
            status, headers, content = 200, {}, {"status": 1}
            for event, is_new in zip(
                envelope["batch"], self.server.store.add(envelope, arrival), strict=True
            ):
                name, who = printable(event["event"]), printable(event["distinct_id"])
                again = "" if is_new else "  (again: the same event, counted once)"
                self._print(f"{name}  {who}  {properties_of_interest(event['properties'])}{again}")
        if faults.delay:
            self.server.stopping.wait(faults.delay)
        return _SimulatedResponse(status, headers, content)

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

    # --- flags ---------------------------------------------------------------------------------------

    def _evaluate(self) -> dict[str, Any]:
        from .flags import FlagsFile

        body = json.loads(self._body())
        if isinstance(body, dict):
            played = self.server.current_faults.faults.answer(body.get("api_key"))
            if played is not None and played[0] == 401:
                raise RefusedError(played[2]["error"], 401)
        answer = FlagsFile(self.server.flags).evaluate(body)
        self._print(f"flags of {printable(str(body['distinct_id']))}: {len(answer['flags'])}")
        return answer

    def _definitions(self) -> dict[str, Any] | None:
        from .flags import FlagsFile

        flags = FlagsFile(self.server.flags)
        headers = self.headers
        etag, found = flags.definitions(headers.get("Authorization"), headers.get("If-None-Match"))
        self._more = {"ETag": etag}
        self._print("flag definitions" if found is not None else "flag definitions, not modified")
        return found

    # --- what the page reads -------------------------------------------------------------------------

    def _list(self) -> dict[str, Any]:
        return {"events": self.server.store.events(int(self._query("after", "0")))}

    def _page(self) -> dict[str, Any]:
        before = self._query("before")
        events = self.server.store.page(
            self._filter(),
            before=int(before) if before else None,
            limit=int(self._query("limit", str(PAGE_SIZE))),
        )
        return {"events": events}

    def _one(self) -> dict[str, Any]:
        found = self.server.store.event(int(self._query("id", "0")))
        if found is None:
            raise RefusedError("there is no such event; it may have been cleared", 404)
        return found

    def _export(self) -> bytes:
        name = time.strftime("events-%Y%m%d-%H%M%S.jsonl")
        self._more = {"Content-Disposition": f'attachment; filename="{name}"'}
        events = self.server.store.events(0, self._filter())
        return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)

    def _requests(self) -> dict[str, Any]:
        before = self._query("before")
        return {"requests": self.server.store.requests(before=int(before) if before else None)}

    def _play(self) -> dict[str, Any]:
        return self.server.current_faults.change(self._body()).shown()

    def _clear(self) -> dict[str, Any]:
        self.server.store.clear()
        return {"status": 1}

    def _stream(self) -> None:
        """Send server-sent events: one for each event, `request` for each request, `clear` after a deletion.

        With `brief` in the query, events have no properties.
        """
        store, is_brief = self.server.store, bool(self._query("brief"))
        known = store.newest()
        if resumed := self.headers.get("Last-Event-ID") or self._query("after"):
            known = (int(resumed) if resumed.isdecimal() else known[0], known[1], known[2])
        self.close_connection = True
        self.send_response(200)
        for name, value in SAFE.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self._write("retry: 1000\n\n")
        while not self.server.stopping.is_set():
            newest = store.wait_beyond(known, STREAM_SECONDS)
            if newest == known:
                self._write(": still here\n\n")
                continue
            if newest[2] != known[2]:
                known = (0, 0, newest[2])
                self._write("event: clear\ndata: {}\n\n")
            known = self._send_arrivals(store, known, newest, is_brief)

    def _send_arrivals(
        self, store: Store, known: tuple[int, int, int], newest: tuple[int, int, int], is_brief: bool
    ) -> tuple[int, int, int]:
        if is_brief:
            events = store.page(Filter(), after=known[0], limit=STREAM_LIMIT)
        else:
            events = store.events(known[0])
        requests = store.requests(after=known[1])
        messages = [f"id: {event['id']}\ndata: {json.dumps(event)}\n\n" for event in events]
        messages += [f"event: request\ndata: {json.dumps(each)}\n\n" for each in reversed(requests)]
        if messages:
            self._write("".join(messages))
        return events[-1]["id"] if events else known[0], newest[1], newest[2]

    def _write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def _print(self, text: str) -> None:
        if self.server.show:
            sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
            sys.stdout.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing, because `_print` already reports what is received."""


class _SimulatedResponse:
    """A response to a batch, with its status and headers."""

    def __init__(self, status: int, headers: Mapping[str, str], body: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body


_NOTHING_THERE = (
    "there is nothing here; events go to POST /batch/, the page is at /, received events at /events"
)
