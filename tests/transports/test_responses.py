"""Unusual responses, byte by byte: interim, truncated, reset, and redirects to other hosts.

A `RawServer` reads requests, and the test writes the bytes of each response.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.errors import RejectedError, TransportError
from leanbase.transports.http import parse_retry_after
from tests.conftest import balanced
from tests.support.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Respond = Callable[[socket.socket, int], None]
"""Writes the response to a request. Gets the connection, and the number of the request from 1."""


class RawServer:
    """Reads requests, and lets `respond` write the bytes of each response."""

    def __init__(self, respond: Respond) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._respond = respond
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while line := reader.readline():
                length = 0
                while header := reader.readline().strip().lower():
                    if header.startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                self.requests.append(line + reader.read(length))
                self._respond(connection, len(self.requests))
        except OSError:
            pass
        finally:
            reader.close()
            connection.close()

    def stop(self) -> None:
        self._listener.close()


Start = Callable[[Respond], RawServer]


@pytest.fixture
def start_server() -> Iterator[Start]:
    """A function that starts a server, which stops after the test."""
    running: list[RawServer] = []

    def start(respond: Respond) -> RawServer:
        running.append(RawServer(respond))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def client_of(server: RawServer, **options: Any) -> Leanbase:
    return Leanbase("phc_test", server.url, **{"max_retries": 0, "send_deadline": 3, **options})


@pytest.mark.rule("W-13")
@pytest.mark.parametrize("interim", [b"102 Processing", b"103 Early Hints\r\nLink: </a>", b"199 Odd"])
def test_interim_responses_are_skipped(start_server: Start, interim: bytes) -> None:
    """The final response to one request must not be taken for the response to the next."""

    def respond(connection: socket.socket, number: int) -> None:
        if number == 1:
            connection.sendall(b"HTTP/1.1 %s\r\n\r\n" % interim * 2)
            time.sleep(0.05)
            connection.sendall(OK)
        else:
            connection.sendall(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n")

    server = start_server(respond)
    client = client_of(server)
    client.capture("one", distinct_id="u")
    assert client.stats()["delivered"] == 1
    client.capture("two", distinct_id="u")
    assert (client.stats()["delivered"], client.stats()["retained"]) == (1, 1)
    assert server.connections == 1


@pytest.mark.rule("W-13")
def test_endless_interim_responses_are_a_failure(start_server: Start) -> None:
    server = start_server(
        lambda connection, number: connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)
    )
    client = client_of(server)
    client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1


@pytest.mark.rule("W-13")
@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nServer: a\r\n",
        b"HTTP/1.1 401 Unauthorized\r\n",
    ],
)
def test_a_response_that_ends_within_its_headers_is_retried(start_server: Start, received: bytes) -> None:
    def respond(connection: socket.socket, number: int) -> None:
        connection.sendall(received if number == 1 else OK)
        if number == 1:
            connection.shutdown(socket.SHUT_RDWR)

    server = start_server(respond)
    client = client_of(server, max_retries=1)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 2
    assert client.stats()["delivered"] == 1


@pytest.mark.slow
@pytest.mark.rule("Q-10", "W-13")
def test_a_connection_that_is_reset_at_once_is_retried_and_reported_as_a_transport_error() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[int] = []

    def reset() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    threading.Thread(target=reset, daemon=True).start()
    errors: list[Exception] = []
    for _ in range(3):
        client = Leanbase(
            "k",
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            max_retries=1,
            send_deadline=2,
            on_error=lambda error, events: errors.append(error),
        )
        client.capture("e", distinct_id="u")
        assert balanced(client)
    listener.close()
    assert [type(error) for error in errors] == [TransportError] * 3
    assert len(connections) == 6  # each send and its retry


@pytest.mark.rule("W-16")
@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{other}\\@127.0.0.1:{port}/batch/",
        "http://127.0.0.1:{port}@localhost:{other}/batch/",
        "http://localhost:{other}/batch/",
        "//localhost:{other}/batch/",
        "/\\localhost:{other}/batch/",
        "http://127.0.0.1:{port}\t@localhost:{other}/",
        "https://127.0.0.1:{other}/batch/",
        "ftp://127.0.0.1:{port}/batch/",
    ],
)
def test_a_redirect_never_leads_to_another_host(start_server: Start, location: str) -> None:
    """Only the path of a `Location` is ever used, whatever host it seems to name."""
    other = start_server(lambda connection, number: connection.sendall(OK))

    def respond(connection: socket.socket, number: int) -> None:
        named = location.format(other=other.port, port=server.port)
        connection.sendall(f"HTTP/1.1 307 Moved\r\nLocation: {named}\r\nContent-Length: 0\r\n\r\n".encode())

    server = start_server(respond)
    errors: list[Exception] = []
    client = client_of(server, on_error=lambda error, events: errors.append(error))
    client.capture("e", distinct_id="u")
    assert other.requests == []
    assert isinstance(errors[0], RejectedError)
    assert client.stats()["dropped"] == {"rejected": 1}


@pytest.mark.rule("W-16")
@pytest.mark.parametrize("location", ["/other/?a=b", "http://127.0.0.1:{port}/other/?a=b"])
def test_a_redirect_on_the_same_host_is_followed_once(start_server: Start, location: str) -> None:
    def respond(connection: socket.socket, number: int) -> None:
        named = location.format(port=server.port)
        redirect = f"HTTP/1.1 308 Moved\r\nLocation: {named}\r\nContent-Length: 0\r\n\r\n".encode()
        connection.sendall(OK if number == 2 else redirect)

    server = start_server(respond)
    client = client_of(server)
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1
    first, second = server.requests
    assert second.startswith(b"POST /other/?a=b HTTP/1.1\r\n")
    assert first.partition(b"\r\n")[2] == second.partition(b"\r\n")[2]


@pytest.mark.rule("Q-12", "W-18")
@pytest.mark.parametrize("value", ["86400", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_counts_for_five_minutes_at_most(value: str) -> None:
    assert parse_retry_after(value) == 300


@pytest.mark.rule("Q-12")
def test_a_retry_after_in_the_year_9999_does_not_end_the_thread_of_a_buffer(start_server: Start) -> None:
    busy = b"HTTP/1.1 429 Busy\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n"
    server = start_server(lambda connection, number: connection.sendall(busy if number == 1 else OK))
    client = client_of(server, sync_mode=False, flush_interval=0.05)
    client.capture("first", distinct_id="u")
    wait_until(lambda: server.requests)
    client.capture("second", distinct_id="u")
    client.flush()  # if the thread still waits for its response, this waits as well, and does not retry
    client.flush()
    assert client.stats()["delivered"] == 2
    client.shutdown()
