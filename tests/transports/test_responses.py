"""Responses that are not what they should be, byte by byte: interim, cut off, reset, leading elsewhere."""

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

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Answer = Callable[[socket.socket, int], None]


class RawServer:
    """Reads requests and leaves the bytes of the response to `answer`, which gets the request's number."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
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
                self._answer(connection, len(self.requests))
        except OSError:
            pass
        finally:
            reader.close()
            connection.close()

    def stop(self) -> None:
        self._listener.close()


@pytest.fixture
def raw() -> Iterator[Callable[[Answer], RawServer]]:
    running: list[RawServer] = []

    def start(answer: Answer) -> RawServer:
        running.append(RawServer(answer))
        return running[-1]

    yield start
    for each in running:
        each.stop()


Start = Callable[[Answer], RawServer]


def client(server: RawServer, **options: Any) -> Leanbase:
    return Leanbase("phc_test", server.url, **{"max_retries": 0, "send_deadline": 3, **options})


@pytest.mark.rule("W-13")
@pytest.mark.parametrize("interim", [b"102 Processing", b"103 Early Hints\r\nLink: </a>", b"199 Odd"])
def test_interim_responses_are_passed_over(raw: Start, interim: bytes) -> None:
    """And the response to one request is never taken for that to the next."""

    def answer(connection: socket.socket, number: int) -> None:
        if number == 1:
            connection.sendall(b"HTTP/1.1 %s\r\n\r\n" % interim * 2)
            time.sleep(0.05)
            connection.sendall(OK)
        else:
            connection.sendall(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n")

    server = raw(answer)
    ours = client(server)
    ours.capture("one", distinct_id="u")
    assert ours.stats()["delivered"] == 1
    ours.capture("two", distinct_id="u")
    assert (ours.stats()["delivered"], ours.stats()["retained"]) == (1, 1)
    assert server.connections == 1


def test_interim_responses_without_end_are_a_failure(raw: Start) -> None:
    server = raw(lambda connection, number: connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000))
    ours = client(server)
    ours.capture("e", distinct_id="u")
    assert ours.stats()["retained"] == 1


@pytest.mark.rule("W-13")
@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nServer: a\r\n",
        b"HTTP/1.1 401 Unauthorized\r\n",
    ],
)
def test_a_response_that_ends_within_its_headers_is_no_response(raw: Start, begun: bytes) -> None:
    def answer(connection: socket.socket, number: int) -> None:
        connection.sendall(begun if number == 1 else OK)
        if number == 1:
            connection.shutdown(socket.SHUT_RDWR)

    server = raw(answer)
    ours = client(server, max_retries=1)
    ours.capture("e", distinct_id="u")
    assert len(server.requests) == 2
    assert ours.stats()["delivered"] == 1


@pytest.mark.rule("W-13")
def test_a_connection_that_is_reset_at_once_is_retried_and_told_as_what_it_is() -> None:
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
        ours = Leanbase(
            "k",
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            max_retries=1,
            send_deadline=2,
            on_error=lambda error, events: errors.append(error),
        )
        ours.capture("e", distinct_id="u")
        assert balanced(ours)
    listener.close()
    assert [type(error) for error in errors] == [TransportError] * 3
    assert len(connections) == 6  # twice each


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
def test_a_redirect_never_leads_to_another_host(raw: Start, location: str) -> None:
    """However the host that it names is spelt: only the path of a `Location` is ever used."""
    elsewhere = raw(lambda connection, number: connection.sendall(OK))

    def answer(connection: socket.socket, number: int) -> None:
        named = location.format(other=elsewhere.port, port=server.port)
        connection.sendall(f"HTTP/1.1 307 Away\r\nLocation: {named}\r\nContent-Length: 0\r\n\r\n".encode())

    server = raw(answer)
    errors: list[Exception] = []
    ours = client(server, on_error=lambda error, events: errors.append(error))
    ours.capture("e", distinct_id="u")
    assert elsewhere.requests == []
    assert isinstance(errors[0], RejectedError)
    assert ours.stats()["dropped"] == {"rejected": 1}


@pytest.mark.rule("W-16")
@pytest.mark.parametrize("location", ["/other/?a=b", "http://127.0.0.1:{port}/other/?a=b"])
def test_a_redirect_on_the_same_host_is_followed_once(raw: Start, location: str) -> None:
    def answer(connection: socket.socket, number: int) -> None:
        named = location.format(port=server.port)
        away = f"HTTP/1.1 308 Away\r\nLocation: {named}\r\nContent-Length: 0\r\n\r\n".encode()
        connection.sendall(OK if number == 2 else away)

    server = raw(answer)
    ours = client(server)
    ours.capture("e", distinct_id="u")
    assert ours.stats()["delivered"] == 1
    first, second = server.requests
    assert second.startswith(b"POST /other/?a=b HTTP/1.1\r\n")
    assert first.partition(b"\r\n")[2] == second.partition(b"\r\n")[2]


@pytest.mark.rule("Q-12")
@pytest.mark.parametrize("value", ["86400", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_is_respected_for_five_minutes_at_most(value: str) -> None:
    assert parse_retry_after(value) == 300


@pytest.mark.rule("Q-12")
def test_a_retry_after_in_the_year_9999_does_not_kill_the_thread_of_a_buffer(raw: Start) -> None:
    busy = b"HTTP/1.1 429 Busy\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n"
    server = raw(lambda connection, number: connection.sendall(busy if number == 1 else OK))
    ours = client(server, sync_mode=False, flush_interval=0.05)
    ours.capture("first", distinct_id="u")
    until = time.monotonic() + 5
    while not server.requests and time.monotonic() < until:
        time.sleep(0.01)
    ours.capture("second", distinct_id="u")
    ours.flush()  # which waits for the answer, if the thread still does, and tries no second time
    ours.flush()
    assert ours.stats()["delivered"] == 2
    ours.shutdown()
