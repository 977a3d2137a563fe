"""The transport `http`: requests, outcomes, retries, batches, stale connections, deadlines, TLS and proxies.

A `FaultServer` in the test's process delays, resets and rejects requests as the test says. The client sends
to it over real sockets. Asserted is what the server received, and what the client counts, logs and reports.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import http.client
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from leanbase import Leanbase
from leanbase._version import __version__
from leanbase.errors import RejectedError, TransportError
from leanbase.events.encoding import encode
from leanbase.local.validation import parse
from leanbase.transports import HttpTransport
from leanbase.transports._http import sender
from leanbase.transports._http.connection import Connections
from leanbase.transports.deadline import Deadline
from leanbase.transports.http import parse_retry_after
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer, Request, black_hole
from tests.support.threads import run_in_threads, start_thread
from tests.support.waiting import wait_until

Make = Callable[..., Leanbase]
UUID = "0198c0de-0000-7000-8000-000000000abc"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the waits between retries as short as possible. Their lengths have tests of their own."""
    monkeypatch.setattr("leanbase.transports._http.sender.FIRST_WAIT_SECONDS", 0.0)


# --- the request ------------------------------------------------------------------------------------


@pytest.mark.rule("W-2", "W-3", "W-4", "W-6", "W-9")
def test_a_request_has_the_specified_line_headers_and_envelope(server: FaultServer, make: Make) -> None:
    make(server).capture("e", distinct_id="u", properties={"a": 1})
    (request,) = server.requests
    assert request.line == "POST /batch/ HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"leanbase-python/{__version__}"
    assert "authorization" not in request.headers
    assert "content-encoding" not in request.headers
    assert request.envelope["api_key"] == "phc_test"
    assert request.envelope["historical_migration"] is False
    sent_at = dt.datetime.fromisoformat(request.envelope["sent_at"])
    assert abs((sent_at - dt.datetime.now(dt.timezone.utc)).total_seconds()) < 10
    assert list(request.envelope) == ["api_key", "historical_migration", "sent_at", "batch"]
    parse(request.text.encode())


@pytest.mark.rule("W-1")
def test_the_path_of_the_host_is_kept(server: FaultServer) -> None:
    Leanbase("k", f" {server.url}/ingest/ ").capture("e", distinct_id="u")
    assert server.requests[0].line.startswith("POST /ingest/batch/ ")


@pytest.mark.rule("W-5")
@pytest.mark.parametrize(
    ("option", "size", "compressed"),
    [(None, 10, False), (None, 2000, True), (True, 10, True), (False, 2000, False)],
)
def test_bodies_are_compressed_from_one_kib_on_or_as_gzip_says(
    option: Any, size: int, compressed: bool, server: FaultServer, make: Make
) -> None:
    make(server, gzip=option).capture("e", distinct_id="u", properties={"p": "x" * size})
    assert (server.requests[0].headers.get("content-encoding") == "gzip") == compressed
    assert server.events[0]["properties"]["p"] == "x" * size


@pytest.mark.rule("W-5")
def test_a_body_that_cannot_be_compressed_is_sent_uncompressed(
    server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("leanbase.transports.http.zlib.compressobj", fail)
    make(server, gzip=True).capture("e", distinct_id="u")
    assert "content-encoding" not in server.requests[0].headers
    assert len(server.events) == 1
    assert "uncompressed" in caplog.text


def test_historical_migration_is_in_the_envelope(server: FaultServer, make: Make) -> None:
    make(server, historical_migration=True).capture("e", distinct_id="u", timestamp="2020-01-01T00:00:00Z")
    assert server.requests[0].envelope["historical_migration"] is True


@pytest.mark.rule("W-7")
def test_a_body_has_no_nan_no_lone_surrogate_and_no_key_twice(server: FaultServer, make: Make) -> None:
    properties: dict[Any, Any] = {"nan": float("nan"), "surrogate": "\ud83d", "1": "first", 1: "second"}
    make(server).capture("e", distinct_id="u", properties=properties)
    body = parse(server.requests[0].text.encode())  # raises if the body is not strict JSON
    sent = body["batch"][0]["properties"]
    assert (sent["nan"], sent["surrogate"]) == (None, "\ufffd")
    assert sent["1"] in ("first", "second")


@pytest.mark.rule("W-17", "W-20")
def test_an_event_that_cannot_be_encoded_is_dropped_alone(server: FaultServer, make: Make) -> None:
    client = make(server)
    with client.delivery_scope():
        client.capture("first", distinct_id="u")
        assert client.capture("too large", distinct_id="u", properties={"p": "x" * 1_000_000}) is None
        client.capture("last", distinct_id="u")
    assert [[event["event"] for event in request.events] for request in server.requests] == [
        ["first", "last"]
    ]
    assert client.stats()["dropped"] == {"too_large": 1}
    assert client.stats()["delivered"] == 2


@pytest.mark.rule("Q-54", "W-8")
def test_ten_events_of_a_scope_are_one_request_in_capture_order(server: FaultServer, make: Make) -> None:
    client = make(server)
    with client.delivery_scope():
        for number in range(10):
            client.capture("e", distinct_id=number)
        assert server.requests == []
        assert client.stats()["retained"] == 10
    assert len(server.requests) == 1
    assert [event["distinct_id"] for event in server.events] == [str(n) for n in range(10)]


@pytest.mark.rule("Q-30", "W-8")
def test_a_scope_and_a_flush_without_events_send_no_request(server: FaultServer, make: Make) -> None:
    client = make(server)
    with client.delivery_scope():
        pass
    assert client.flush()
    assert server.requests == []


def test_an_event_is_encoded_once_however_often_it_is_sent(
    server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Any] = []
    monkeypatch.setattr("leanbase.pipeline.encode", lambda *event: encoded.append(1) or encode(*event))
    server.script(Behaviour(status=500), Behaviour(status=500), Behaviour(instead="close"))
    make(server).capture("e", distinct_id="u")
    assert len(server.requests) == 4
    assert len(encoded) == 1


# --- outcomes ---------------------------------------------------------------------------------------


@pytest.mark.rule("W-10")
@pytest.mark.parametrize("body", [b'{"status":1}', b'{"status":"Ok"}', b"", b"not json", b'{"half'])
def test_any_2xx_delivers_whatever_its_body_says(body: bytes, server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=202, body=body))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("W-10")
def test_a_2xx_with_a_truncated_body_delivers(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(headers={"Content-Length": "500"}, close_after=True))
    client = make(server)
    client.capture("e", distinct_id="u")
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 2
    assert len(server.requests) == 2


@pytest.mark.rule("W-11")
def test_a_response_with_quota_limited_delivers_and_is_warned_about_once(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(body=b'{"status":"Ok","quota_limited":["events"]}'))
    client = make(server)
    for _ in range(3):
        client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "quota" in caplog.text


@pytest.mark.rule("W-12")
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_retryable_statuses_are_retried(status: int, server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=status))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 2
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("W-13")
@pytest.mark.parametrize("instead", ["close", "reset", "half"])
def test_broken_connections_are_retried(instead: str, server: FaultServer, make: Make) -> None:
    server.script(Behaviour(instead=instead))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 2
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("E-6", "Q-14", "W-9")
def test_every_attempt_sends_the_same_events_with_a_new_sent_at(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=500), Behaviour(status=500))
    client = make(server)
    with client.delivery_scope():
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
    batches = [request.envelope["batch"] for request in server.requests]
    assert batches[0] == batches[1] == batches[2]
    assert len({request.envelope["sent_at"] for request in server.requests}) == 3


@pytest.mark.rule("G-3", "G-6", "W-14")
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 415, 422])
def test_any_other_4xx_is_terminal_and_reported(
    status: int, server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Any] = []
    server.always(Behaviour(status=status))
    client = make(server, on_error=lambda error, events: reported.append((error, events)))
    uuid = client.capture("e", distinct_id="u", properties={"p": "s3cret"})
    assert len(server.requests) == 1
    assert client.stats()["dropped"] == {"rejected": 1}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    ((error, events),) = reported
    assert isinstance(error, RejectedError)
    assert error.status == status
    assert [event["uuid"] for event in events] == [uuid]
    assert "s3cret" not in caplog.text
    if status == 401:
        assert "API key was rejected" in caplog.text


@pytest.mark.rule("Q-23")
def test_a_rejected_batch_does_not_stop_the_next(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=400))
    client = make(server, flush_at=2)
    with client.delivery_scope():
        for number in range(5):
            client.capture("e", distinct_id=number)
    assert [len(request.events) for request in server.requests] == [2, 2, 1]
    assert client.stats()["dropped"] == {"rejected": 2}
    assert client.stats()["delivered"] == 3


@pytest.mark.rule("Q-1", "W-15")
def test_a_413_halves_the_batch_and_later_batches(server: FaultServer, make: Make) -> None:
    client = make(server)
    original = server._behave

    def accept_at_most_three(connection: socket.socket, behaviour: Behaviour, request: Request) -> bool:
        return original(connection, Behaviour(status=413) if len(request.events) > 3 else behaviour, request)

    server._behave = accept_at_most_three  # type: ignore[method-assign]
    for _ in range(2):
        with client.delivery_scope():
            for number in range(8):
                client.capture("e", distinct_id=number)
    accepted = [request for request in server.requests if len(request.events) <= 3]
    assert [e["distinct_id"] for r in accepted for e in r.events] == [str(n) for n in range(8)] * 2
    rejected = [len(request.events) for request in server.requests if len(request.events) > 3]
    assert rejected == [8, 4, 4]
    assert client.stats()["delivered"] == 16


@pytest.mark.rule("W-15")
def test_a_half_that_is_rejected_does_not_stop_the_other_half(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=413), Behaviour(status=400), Behaviour())
    client = make(server)
    with client.delivery_scope():
        for number in range(4):
            client.capture("e", distinct_id=number)
    assert [len(request.events) for request in server.requests] == [4, 2, 2]
    assert client.stats()["delivered"] == 2
    assert client.stats()["dropped"] == {"rejected": 2}
    assert client.stats()["retained"] == 0


@pytest.mark.rule("W-15")
def test_a_413_for_one_event_is_terminal(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=413))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 1
    assert client.stats()["dropped"] == {"rejected": 1}


@pytest.mark.rule("W-16")
def test_a_redirect_to_the_same_host_is_followed_once(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=308, headers={"Location": "/v2/batch/"}))
    client = make(server)
    client.capture("e", distinct_id="u")
    first, second = server.requests
    assert second.line == "POST /v2/batch/ HTTP/1.1"
    assert first.raw == second.raw
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("W-16")
@pytest.mark.parametrize(
    ("status", "location"),
    [(301, "/other/"), (302, "/other/"), (303, "/other/"), (307, "http://evil.example/batch/"), (308, ""),
     (307, "//evil.example/"), (308, "ftp://127.0.0.1/")],
)  # fmt: skip
def test_any_other_redirect_is_terminal(
    status: int, location: str, server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(status=status, headers={"Location": location}))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 1
    assert client.stats()["dropped"] == {"rejected": 1}
    assert ("evil.example" in caplog.text) == ("evil.example" in location)


@pytest.mark.rule("W-16")
def test_a_second_redirect_is_terminal(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=307, headers={"Location": "/again/"}))
    client = make(server)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 2
    assert client.stats()["dropped"] == {"rejected": 1}


# --- retries and waits ------------------------------------------------------------------------------


@pytest.mark.rule("W-18")
def test_retry_after_is_a_number_of_seconds_or_a_date() -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < (parse_retry_after(in_a_minute) or 0) <= 60
    assert parse_retry_after(email.utils.formatdate(0, usegmt=True)) == 0
    assert parse_retry_after(" 2 ") == 2.0
    assert parse_retry_after("0.25") == 0.25
    for invalid in (None, "", "-1", "soon", "1e9", "inf", "١"):
        assert parse_retry_after(invalid) is None


@pytest.mark.rule("Q-10")
def test_a_send_is_retried_at_most_max_retries_times(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(status=500))
    errors: list[Any] = []
    client = make(server, max_retries=2, on_error=lambda error, events: errors.append(error))
    assert client.capture("e", distinct_id="u") is not None
    assert len(server.requests) == 3
    assert client.stats()["retained"] == 1
    assert len(errors) == 1
    assert isinstance(errors[0], TransportError)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.rule("Q-11")
def test_waits_double_and_are_shortened_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT_SECONDS", 0.25)
    for random, expected in ((0.0, [0.25, 0.5, 1.0, 30.0]), (1.0, [0.125, 0.25, 0.5, 15.0])):
        monkeypatch.setattr("random.random", lambda random=random: random)
        assert [sender._wait_before_retry(n, None) for n in (0, 1, 2, 9)] == expected
    assert sender._wait_before_retry(0, 3.0) == 3.0
    assert sender._wait_before_retry(0, 600.0) == 30.0


@pytest.mark.slow
@pytest.mark.rule("Q-12")
def test_retry_after_is_the_least_wait(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(status=429, headers={"Retry-After": "0.6"}))
    make(server).capture("e", distinct_id="u")
    first, second = server.requests
    assert second.at - first.at >= 0.6


@pytest.mark.rule("Q-13")
def test_a_wait_that_does_not_fit_into_the_deadline_ends_the_send(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=503, headers={"Retry-After": "20"}))
    started = time.monotonic()
    client = make(server, send_deadline=5.0)
    client.capture("e", distinct_id="u")
    assert time.monotonic() - started < 2
    assert len(server.requests) == 1
    assert client.stats()["retained"] == 1


@pytest.mark.rule("Q-15")
def test_closing_a_transport_ends_a_retry_wait(server: FaultServer) -> None:
    server.always(Behaviour(status=503, headers={"Retry-After": "8"}))
    transport = HttpTransport("k", server.url)
    client = Leanbase("k", transport=transport)
    thread = start_thread(client.capture, "e", distinct_id="u")
    wait_until(lambda: server.requests)
    time.sleep(0.1)
    transport.close(deadline=Deadline.after(0))
    thread.join(3)
    assert not thread.is_alive()


# --- retained events --------------------------------------------------------------------------------


@pytest.mark.rule("Q-1", "Q-20", "Q-21", "Q-53")
def test_retained_events_are_sent_first_and_in_order(server: FaultServer, make: Make) -> None:
    client = make(server, max_retries=0)
    server.script(Behaviour(status=500), Behaviour(status=500))
    for number in range(3):
        client.capture("e", distinct_id=number)
    assert [event["distinct_id"] for event in server.requests[-1].events] == ["0", "1", "2"]
    assert client.stats() == {
        "captured": 3, "delivered": 3, "handed_off": 0, "spooled": 0, "retained": 0, "dropped": {},
    }  # fmt: skip


@pytest.mark.rule("Q-32", "Q-57")
def test_a_flush_stops_at_the_first_failed_batch(server: FaultServer, make: Make) -> None:
    client = make(server, max_retries=0, flush_at=2)
    server.script(Behaviour(), Behaviour(status=500), Behaviour(status=500))
    with client.delivery_scope():
        for number in range(5):
            client.capture("e", distinct_id=number)
    assert (
        len(server.requests) == 3
    )  # the end of the scope sent the second batch again, and stopped before the third
    receipt = client.flush()
    assert receipt
    assert receipt.delivered == 3
    assert [event["distinct_id"] for event in server.events] == [*"01", *"23", *"23", *"23", "4"]
    assert client.flush()
    assert balanced(client)


@pytest.mark.rule("Q-22")
def test_the_oldest_retained_events_above_max_queue_size_are_dropped(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Any] = []
    server.always(Behaviour(status=500))
    client = make(
        server, max_retries=0, max_queue_size=3,
        on_error=lambda error, events: reported.append((str(error), [event["distinct_id"] for event in events])),
    )  # fmt: skip
    with client.delivery_scope():
        for number in range(5):
            client.capture("e", distinct_id=number)
    stats = client.stats()
    assert stats["retained"] == 3
    assert stats["dropped"] == {"overflow": 2}
    assert [ids for text, ids in reported if "max_queue_size" in text] == [["0", "1"]]
    server.always(Behaviour())
    client.flush()
    assert [event["distinct_id"] for event in server.requests[-1].events] == ["2", "3", "4"]


@pytest.mark.rule("Q-43")
def test_events_that_a_shutdown_cannot_deliver_are_dropped_and_reported(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Any] = []
    server.always(Behaviour(status=500))
    client = make(server, max_retries=0, on_error=lambda error, events: reported.append((error, len(events))))
    client.capture("e", distinct_id="u")
    receipt = client.shutdown()
    assert receipt.dropped == {"shutdown": 1}
    assert client.stats()["dropped"] == {"shutdown": 1}
    assert client.stats()["retained"] == 0
    assert "1 event(s) could not be delivered" in caplog.text
    assert reported[-1][1] == 1


@pytest.mark.rule("G-8", "Q-24", "Q-57")
def test_on_error_may_capture_flush_shut_down_and_raise(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(status=400))
    calls: list[Any] = []

    def on_error(error: Exception, events: list[Any]) -> None:
        calls.append(events)
        client.capture("from on_error", distinct_id="u")
        client.flush()
        client.shutdown()
        raise RuntimeError

    client = make(server, on_error=on_error)
    client.capture("e", distinct_id="u")
    assert len(calls) == 1
    assert balanced(client)


# --- stale connections ------------------------------------------------------------------------------


def test_connections_are_kept_alive(server: FaultServer, make: Make) -> None:
    client = make(server)
    for _ in range(5):
        client.capture("e", distinct_id="u")
    assert server.connections == 1


@pytest.mark.rule("Q-11")
def test_a_server_that_closes_every_connection_costs_no_event_and_no_wait(
    server: FaultServer, make: Make
) -> None:
    """Every kept-alive connection turns out to be closed when the next request is sent."""
    server.always(Behaviour(close_after=True))
    client = make(server, max_retries=0)
    started = time.monotonic()
    for number in range(100):
        client.capture("e", distinct_id=number)
    assert time.monotonic() - started < 5
    assert [event["distinct_id"] for event in server.events] == [str(number) for number in range(100)]
    assert client.stats()["delivered"] == 100


@pytest.mark.rule("Q-11")
@pytest.mark.parametrize("instead", ["reset", "close"])
def test_a_kept_alive_connection_that_fails_is_replaced_at_once(
    instead: str, server: FaultServer, make: Make
) -> None:
    """The same bytes are sent again without a wait. This does not count as a retry."""
    client = make(server, max_retries=0)
    client.capture("first", distinct_id="u")
    server.script(Behaviour(instead=instead))
    client.capture("second", distinct_id="u")
    _, failed, resent = server.requests
    assert failed.raw == resent.raw
    assert failed.connection != resent.connection
    assert resent.at - failed.at < 0.1
    assert client.stats()["delivered"] == 2


def test_a_new_connection_that_fails_is_not_replaced(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(instead="reset"))
    client = make(server, max_retries=0)
    client.capture("e", distinct_id="u")
    assert len(server.requests) == 1
    assert client.stats()["retained"] == 1


def test_a_kept_alive_connection_is_replaced_once(server: FaultServer, make: Make) -> None:
    client = make(server, max_retries=0)
    client.capture("first", distinct_id="u")
    server.script(Behaviour(instead="reset"), Behaviour(instead="reset"))
    client.capture("second", distinct_id="u")
    assert len(server.requests) == 3
    assert client.stats()["retained"] == 1


def test_a_connection_that_fails_within_the_response_is_not_replaced(server: FaultServer, make: Make) -> None:
    """One byte of a response means that the server has had the request, so that sending it again is a retry."""
    client = make(server, max_retries=0)
    client.capture("first", distinct_id="u")
    server.script(Behaviour(instead="half"))
    client.capture("second", distinct_id="u")
    assert len(server.requests) == 2
    assert client.stats()["retained"] == 1


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_a_connection_that_was_idle_for_a_minute_is_replaced(
    clock: str, server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either clock counts: only the wall clock advances while a sandbox is frozen."""
    client = make(server)
    client.capture("first", distinct_id="u")
    real = getattr(time, clock)
    monkeypatch.setattr(f"leanbase.transports.deadline.time.{clock}", lambda: real() + 61)
    client.capture("second", distinct_id="u")
    assert server.connections == 2
    client.capture("third", distinct_id="u")
    assert server.connections == 2


# --- the deadline -----------------------------------------------------------------------------------


def seconds(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.rule("Q-13", "W-13")
@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(instead="silence"), Behaviour(trickle=0.05), Behaviour(delay=5), Behaviour(status=503)],
    ids=["silence", "trickle", "late", "unavailable"],
)
def test_a_send_ends_with_its_deadline(behaviour: Behaviour, server: FaultServer, make: Make) -> None:
    server.always(behaviour)
    client = make(server, send_deadline=0.6, max_retries=50)
    assert seconds(lambda: client.capture("e", distinct_id="u")) < 1.1
    assert client.stats()["retained"] == 1


@pytest.mark.slow
@pytest.mark.rule("Q-13", "W-10")
def test_a_2xx_whose_body_never_ends_delivers_within_the_deadline(server: FaultServer, make: Make) -> None:
    server.always(Behaviour(headers={"Content-Length": "100000"}, close_after=False))
    client = make(server, send_deadline=0.6)
    assert seconds(lambda: client.capture("e", distinct_id="u")) < 1.1
    assert client.stats()["delivered"] == 1


@pytest.mark.slow
@pytest.mark.rule("W-13")
def test_the_option_timeout_bounds_one_attempt(server: FaultServer, make: Make) -> None:
    server.script(Behaviour(instead="silence"))
    client = make(server, timeout=0.3)
    assert seconds(lambda: client.capture("e", distinct_id="u")) < 1.5
    assert client.stats()["delivered"] == 1


@pytest.mark.slow
@pytest.mark.rule("Q-13", "Q-55", "Q-57", "W-13")
def test_an_endpoint_that_does_not_accept_connections_costs_three_deadlines_and_then_no_time() -> None:
    with contextlib.closing(black_hole()) as hole:
        client = Leanbase("k", f"http://127.0.0.1:{hole.getsockname()[1]}", send_deadline=0.4)
        for _ in range(3):
            assert 0.3 < seconds(lambda: client.capture("e", distinct_id="u")) < 0.9
        assert min(seconds(lambda: client.capture("e", distinct_id="u")) for _ in range(10)) < 0.005
        assert client.stats()["retained"] == 13
        assert balanced(client)


@pytest.mark.slow
@pytest.mark.rule("Q-13")
def test_a_slow_host_name_resolution_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver of the C library takes no timeout, so that a thread has to call it."""
    real = socket.getaddrinfo

    def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.invalid" and not kwargs.get("flags"):
            time.sleep(2)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    client = Leanbase("k", "http://slow.invalid", send_deadline=0.4)
    assert seconds(lambda: client.capture("e", distinct_id="u")) < 0.9
    assert client.stats()["retained"] == 1


@pytest.mark.rule("W-13")
def test_events_for_a_host_name_that_does_not_exist_are_retained(caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("k", "http://no-such-host.invalid", max_retries=0)
    client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    assert "could not be resolved" in caplog.text


@pytest.mark.rule("Q-13")
def test_a_host_is_reached_through_its_second_address(
    server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt at the first address, which does not accept connections, must leave time for the second."""
    with contextlib.closing(black_hole()) as hole:

        def two(*args: Any, **kwargs: Any) -> Any:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
                for port in (hole.getsockname()[1], server.port)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        client = make(server, send_deadline=1.0, max_retries=0)
        client.capture("e", distinct_id="u")
        assert client.stats()["delivered"] == 1


# --- the circuit breaker ----------------------------------------------------------------------------


@pytest.mark.rule("Q-55")
def test_the_breaker_pauses_sends_then_lets_one_through_and_closes_after_a_success(
    server: FaultServer, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = 0.0
    real = time.time
    monkeypatch.setattr("leanbase.transports.deadline.time.time", lambda: real() + ahead)
    server.always(Behaviour(status=500))
    client = make(server, max_retries=0)

    def requests_for(captures: int) -> int:
        before = len(server.requests)
        for _ in range(captures):
            client.capture("e", distinct_id="u")
        return len(server.requests) - before

    assert requests_for(3) == 3
    assert "3 sends failed in a row" in caplog.text
    assert requests_for(5) == 0
    ahead = 29
    assert requests_for(5) == 0
    ahead = 31
    assert requests_for(5) == 1
    ahead = 31 + 59
    assert requests_for(5) == 0
    ahead = 31 + 61
    server.always(Behaviour())
    assert requests_for(1) == 1
    assert requests_for(3) == 3
    assert client.stats()["delivered"] == client.stats()["captured"]
    assert len(server.requests[-4].events) == 24


@pytest.mark.rule("W-14")
def test_rejections_do_not_open_the_breaker(server: FaultServer, make: Make) -> None:
    """401 means a wrong key, not an endpoint that does not respond."""
    server.always(Behaviour(status=401))
    client = make(server)
    for _ in range(6):
        client.capture("e", distinct_id="u")
    assert len(server.requests) == 6


# --- batches ----------------------------------------------------------------------------------------


@pytest.mark.rule("W-21", "W-22")
def test_batches_are_limited_in_number_and_in_bytes(server: FaultServer) -> None:
    client = Leanbase("k", server.url, gzip=False)
    server.script(Behaviour(status=401))  # a rejected batch does not stop the next
    transport = client._current().outbox._transport
    assert transport is not None
    small = [encode({"uuid": UUID, "event": "e", "p": number}) for number in range(250)]
    transport.send(small, deadline=Deadline.after(5))
    assert [len(request.events) for request in server.requests] == [100, 100, 50]
    server.requests.clear()
    large = [encode({"uuid": UUID, "event": "e", "p": "x" * 900_000}) for _ in range(12)]
    transport.send(large, deadline=Deadline.after(10))
    assert [len(request.events) for request in server.requests] == [5, 5, 2]
    assert all(len(request.raw) < 5 * 1024 * 1024 for request in server.requests)


# --- TLS and proxies --------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    running = FaultServer(tls=context)
    yield running
    running.stop()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_https_with_a_custom_certificate_authority(
    variable: str,
    tls_server: FaultServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Make,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    client = make(tls_server)
    client._warm_up()
    time.sleep(0.1)  # for the session tickets, which must not be taken for the end of the connection
    client.capture("first", distinct_id="u")
    client.capture("first", distinct_id="u")
    assert tls_server.connections == 1
    tls_server.script(Behaviour(instead="reset"))
    client.capture("second", distinct_id="u", properties={"p": "x" * 300_000})
    assert client.stats()["delivered"] == 3
    tls_server.close_connections()
    client.capture("third", distinct_id="u")
    assert client.stats()["delivered"] == 4


@pytest.mark.rule("W-13")
def test_https_does_not_send_to_an_untrusted_server(
    tls_server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(tls_server, max_retries=0)
    client.capture("e", distinct_id="u")
    assert tls_server.requests == []
    assert client.stats()["retained"] == 1
    assert "TLS failed" in caplog.text


def test_https_does_not_send_to_a_server_with_the_certificate_of_another_host(
    tls_server: FaultServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    # The certificate is for 127.0.0.1. On 127.0.0.2 the same server must not be trusted.
    with contextlib.closing(socket.create_server(("127.0.0.2", 0))) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_relay_one, args=(listener, tls_server.port), daemon=True).start()
        client = Leanbase("k", f"https://127.0.0.2:{port}", max_retries=0)
        client.capture("e", distinct_id="u")
    assert tls_server.requests == []
    assert "TLS failed" in caplog.text


@pytest.mark.slow
@pytest.mark.rule("Q-13")
def test_a_send_over_https_ends_with_its_deadline_if_the_response_is_slow(
    tls_server: FaultServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Make,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls_server.always(Behaviour(trickle=0.05))
    client = make(tls_server, send_deadline=0.6)
    assert seconds(lambda: client.capture("e", distinct_id="u")) < 1.1


def test_a_missing_certificate_bundle_is_named_in_the_log(
    tls_server: FaultServer, monkeypatch: pytest.MonkeyPatch, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")
    client = make(tls_server, max_retries=0)
    client.capture("e", distinct_id="u")
    assert "/no/such/file.pem" in caplog.text
    assert client.stats()["retained"] == 1


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _join(inside: socket.socket, port: int) -> None:
    """Pass bytes between an accepted connection and a port of this machine until both ends are done."""
    with inside, socket.create_connection(("127.0.0.1", port)) as outside:
        back = threading.Thread(target=_pump, args=(outside, inside), daemon=True)
        back.start()
        _pump(inside, outside)
        back.join()


def _relay_one(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        _join(listener.accept()[0], port)


class Proxy:
    """An HTTP proxy for HTTPS.

    Attributes:
        requests: The head of each CONNECT request.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:p%40ss@127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += inside.recv(1)
                self.requests.append(head.decode())
                port = int(head.split(b" ")[1].rpartition(b":")[2])
                inside.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                threading.Thread(target=_join, args=(inside, port), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def test_https_uses_the_proxy_of_the_environment(
    tls_server: FaultServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Make,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with contextlib.closing(Proxy()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = make(tls_server)
        client._warm_up()
        client.capture("e", distinct_id="u")
        assert client.stats()["delivered"] == 1
        (request,) = proxy.requests
        assert request.startswith(f"CONNECT 127.0.0.1:{tls_server.port} ")
        assert "proxy-authorization: Basic dXNlcjpwQHNz" in request
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        make(tls_server).capture("e", distinct_id="u")
        assert len(proxy.requests) == 1
        assert len(tls_server.events) == 2


def test_http_uses_the_proxy_of_the_environment(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault server is the proxy, which gets the whole URL in the request line."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    client = Leanbase("k", "http://leanbase.test", max_retries=0)
    client.capture("e", distinct_id="u")
    assert server.requests[0].line == "POST http://leanbase.test/batch/ HTTP/1.1"
    assert server.requests[0].headers["host"] == "leanbase.test"
    assert client.stats()["delivered"] == 1


def test_all_proxy_applies_to_every_scheme(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", server.url)
    client = Leanbase("k", "http://leanbase.test", max_retries=0)
    client.capture("e", distinct_id="u")
    assert server.requests[0].line == "POST http://leanbase.test/batch/ HTTP/1.1"


@pytest.mark.parametrize(
    "networks", ["127.0.0.0/8", "10.0.0.0/8, 127.0.0.1/32", "::1/128,127.0.0.1", "nonsense/9,127.1.0.0/8"]
)
def test_no_proxy_may_name_networks(
    networks: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", networks)
    client = make(server, max_retries=0)
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1


def test_hosts_outside_the_networks_of_no_proxy_use_the_proxy(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    for host in ("leanbase.test", "192.0.2.1"):
        Leanbase("k", f"http://{host}", max_retries=0).capture("e", distinct_id="u")
    assert len(server.requests) == 2


@pytest.mark.rule("W-13")
@pytest.mark.parametrize(
    ("proxy", "logged"),
    [
        ("socks5://me:secret@127.0.0.1:1", "the proxy socks5://127.0.0.1:1 cannot be used"),
        ("http://", "the proxy http:// cannot be used"),
        ("http://me:secret@127.0.0.1:port", "the proxy in the environment is not a valid URL"),
        ("http://[::1", "the proxy in the environment is not a valid URL"),
    ],
)
def test_an_invalid_proxy_is_logged_without_its_password_and_not_retried(
    proxy: str,
    logged: str,
    server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    make: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    client = make(server, max_retries=3)
    with caplog.at_level(logging.DEBUG, "leanbase"):
        client.capture("e", distinct_id="u")
    assert logged in caplog.text
    assert "secret" not in caplog.text
    assert caplog.text.count("attempt ") == 1
    assert client.stats()["retained"] == 1
    monkeypatch.delenv("HTTP_PROXY")
    assert client.flush().delivered == 1


@pytest.mark.rule("W-13")
def test_events_that_a_proxy_rejects_with_407_are_retained(
    server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(Behaviour(status=407))
    client = make(server, max_retries=0)
    client.capture("e", distinct_id="u")
    assert "a proxy responded with 407" in caplog.text
    assert client.flush().delivered == 1


@pytest.mark.rule("V-6")
@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"detail": "no such field", "event": {"password": "hunter2"}}', "no such field"),
        (b'{"detail": "the field \'password\' has hunter2", "code": "invalid_input"}', "invalid_input"),
        (b"not taken: https://u:hunter2@shop.example.com/?a=1", "not taken"),
        (b'{"event": {"password": "hunter2", "cut": "in the mid', "redacted"),
        (b"hunter3 " * 1000, "hunter3"),
        (b"[" * 60_000, "[["),
    ],
)
def test_the_body_of_a_rejection_is_redacted_and_shortened_in_the_log(
    body: bytes, shown: str, server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(Behaviour(status=400, body=body))
    client = make(server)
    with caplog.at_level(logging.DEBUG, "leanbase"):
        client.capture("e", distinct_id="u")
    [line] = [each for each in caplog.messages if each.startswith("the server responded with 400")]
    assert shown in line
    assert "hunter2" not in line
    assert len(line) < 250
    assert client.stats()["dropped"] == {"rejected": 1}


@pytest.mark.rule("W-13")
def test_an_untrusted_certificate_is_not_retried_within_a_send(
    tls_server: FaultServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(tls_server, max_retries=3)
    with caplog.at_level(logging.DEBUG, "leanbase"):
        client.capture("e", distinct_id="u")
    assert caplog.text.count("attempt ") == 1
    assert client.stats()["retained"] == 1


# --- warm-up and threads ----------------------------------------------------------------------------


def test_a_warm_up_opens_the_connection_that_the_first_send_uses(server: FaultServer, make: Make) -> None:
    client = make(server)
    client._warm_up()
    wait_until(lambda: server.connections)
    client.capture("e", distinct_id="u")
    assert server.connections == 1
    assert server.requests[0].connection == 1


def test_a_warm_up_of_a_dead_endpoint_ends_with_its_deadline_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with contextlib.closing(black_hole()) as hole:
        client = Leanbase("k", f"http://127.0.0.1:{hole.getsockname()[1]}")
        assert seconds(lambda: client._warm_up(0.3)) < 0.8
    assert caplog.records == []


@pytest.mark.rule("G-4")
def test_captures_in_many_threads_are_delivered_once(server: FaultServer, make: Make) -> None:
    client = make(server)

    def work(name: int) -> None:
        for number in range(25):
            client.capture("e", distinct_id=f"{name}-{number}")

    run_in_threads(*[partial(work, name) for name in range(8)])
    ids = [event["distinct_id"] for event in server.events]
    assert len(ids) == len(set(ids)) == 200
    assert client.stats()["delivered"] == 200


def test_a_synchronous_send_starts_no_thread(server: FaultServer) -> None:
    code = (
        "import threading, leanbase\n"
        f"client = leanbase.Leanbase('k', {server.url!r})\n"
        "with client.delivery_scope(): client.capture('e', distinct_id='u')\n"
        "client.capture('e', distinct_id='u'); print(threading.active_count(), client.stats()['delivered'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["1", "2"]


@pytest.mark.rule("W-7")
def test_a_body_is_valid_json_whatever_characters_the_key_has(server: FaultServer) -> None:
    Leanbase('k"\\\u2028é', server.url).capture("e", distinct_id="u")
    assert json.loads(server.requests[0].text)["api_key"] == 'k"\\\u2028é'


def test_fifty_threads_that_send_at_once_log_no_warning(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(delay=0.2))
    client = make(server)
    run_in_threads(*[partial(client.capture, "e", distinct_id="u")] * 50)
    assert len(server.events) == 50
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_interrupt_in_the_middle_of_a_request_leaves_nothing_of_it_for_the_next_one(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes when the lines of the headers are collected, before they are sent."""
    connections, deadline = Connections(), Deadline.after(10)
    end_headers = http.client.HTTPConnection.endheaders
    strikes = iter([True])

    def interrupted(connection: Any, *args: Any, **named: Any) -> None:
        if next(strikes, False):
            raise TimeoutError("of the application")
        end_headers(connection, *args, **named)

    monkeypatch.setattr(http.client.HTTPConnection, "endheaders", interrupted)
    with pytest.raises((TransportError, TimeoutError)):
        connections.request("POST", f"{server.url}/first", b"{}", {}, deadline=deadline)
    connections.request("POST", f"{server.url}/second", b"[1]", {"X-Second": "1"}, deadline=deadline)
    (request,) = server.requests
    assert (request.line, request.raw) == ("POST /second HTTP/1.1", b"[1]")
