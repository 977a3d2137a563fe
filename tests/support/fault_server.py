"""A real HTTP server on a real socket, with scripted faults.

Each request takes the next `Behaviour` of the script. After the script, every request gets a 200. `requests`
has all requests in order. `accepted` has the requests for which a 2xx response was begun.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OK_BODY = b'{"status": 1}'


@dataclass
class Behaviour:
    """How the server handles one request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = OK_BODY
    delay: float = 0.0
    """Seconds before the response starts."""
    interim: int = 0
    """The status of an interim response before the response."""
    trickle: float = 0.0
    """Seconds between the bytes of the response."""
    close_after: bool = False
    """Whether to close the connection after the response, without announcing it."""
    respond: Callable[[Request], bytes] | None = None
    """Makes the body of the response."""
    instead: str = ""
    """`reset`, `close` or `silence` instead of a response; `half` closes in the middle of the status line."""


@dataclass
class Request:
    """One request as it arrived."""

    line: str
    headers: dict[str, str]
    raw: bytes
    connection: int
    at: float

    @property
    def text(self) -> str:
        plain = gzip.decompress(self.raw) if self.headers.get("content-encoding") == "gzip" else self.raw
        return plain.decode()

    @property
    def envelope(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[dict[str, Any]]:
        batch: list[dict[str, Any]] = self.envelope["batch"]
        return batch


class FaultServer:
    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self.connections = 0
        self.routes: dict[str, Behaviour] = {}
        """Behaviours by path prefix. The first matching prefix counts."""
        self._script: list[Behaviour] = []
        self._forever = Behaviour()
        self._resets = 0
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.stopped = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events of all requests, in order of arrival."""
        return [event for each in self.requests if "/flags" not in each.line for event in each.events]

    def script(self, *behaviours: Behaviour) -> None:
        """Add behaviours for the next requests."""
        with self._lock:
            self._script.extend(behaviours)

    def always(self, behaviour: Behaviour) -> None:
        """Set the behaviour for all requests after the script."""
        self._forever = behaviour

    def reset_connections(self, count: int) -> None:
        """Reset the next connections as soon as they are accepted."""
        self._resets = count

    def close_connections(self) -> None:
        """Close all open connections, as a server does with idle connections."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                connection.close()
            self._open.clear()

    def stop(self) -> None:
        self.stopped.set()
        self._listener.close()
        self.close_connections()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            number = self.connections
            if self._resets > 0:
                self._resets -= 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(connection)
            reader = connection.makefile("rb")
            while self._serve_one(connection, reader, number):
                pass
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _serve_one(self, connection: socket.socket, reader: Any, number: int) -> bool:
        line = reader.readline().decode(errors="replace").strip()
        if not line:
            return False
        headers: dict[str, str] = {}
        while (header := reader.readline().decode(errors="replace")).strip():
            name, _, value = header.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        raw = reader.read(length)
        if not header or len(raw) < length:
            return False  # the connection ended in the middle of a request
        with self._lock:
            request = Request(line, headers, raw, number, time.monotonic())
            self.requests.append(request)
            behaviour = self._script.pop(0) if self._script else self._forever
            path = request.line.split()[1] if " " in request.line else ""
            for prefix, of_route in self.routes.items():
                if path.startswith(prefix):
                    behaviour = of_route
                    break
        return self._behave(connection, behaviour, request)

    def _behave(self, connection: socket.socket, behaviour: Behaviour, request: Request) -> bool:
        if behaviour.delay:
            self.stopped.wait(behaviour.delay)
        if behaviour.instead == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if behaviour.instead == "close":
            return False
        if behaviour.instead == "silence":
            self.stopped.wait(60)
            return False
        if behaviour.interim:
            connection.sendall(f"HTTP/1.1 {behaviour.interim} For now\r\nLink: </>\r\n\r\n".encode())
        if 200 <= behaviour.status < 300:
            self.accepted.append(request)
        body = behaviour.respond(request) if behaviour.respond else behaviour.body
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        fields.update(behaviour.headers)
        head = f"HTTP/1.1 {behaviour.status} Whatever\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        answer = head.encode() + b"\r\n" + body
        if behaviour.instead == "half":
            connection.sendall(answer[:10])
            return False
        if behaviour.trickle:
            for byte in answer:
                connection.sendall(bytes([byte]))
                if self.stopped.wait(behaviour.trickle):
                    return False
        else:
            connection.sendall(answer)
        return not behaviour.close_after


def black_hole() -> socket.socket:
    """Return a listening socket with a full backlog. A connection attempt hangs, as to a host without a route."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        try:
            filler.connect(listener.getsockname())
        except BlockingIOError:
            pass
        _fillers.append(filler)
    return listener


_fillers: list[socket.socket] = []
