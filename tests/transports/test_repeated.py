"""A condition that persists is logged once a minute, with the number of events since then."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable

import pytest
import trustme

from leanbase import Leanbase
from leanbase.transports._repeated import MAX_KINDS, RepeatedLog
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.sqs import QUEUE_PATH

Make = Callable[..., Leanbase]


@pytest.fixture
def pass_a_minute(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that advances the wall clock by a minute."""
    wall, passed = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: wall() + passed[0])

    def advance() -> None:
        passed[0] += 61

    return advance


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= level]


@pytest.mark.rule("W-14")
def test_the_same_rejection_is_logged_once_and_then_counted(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture, pass_a_minute: Callable[[], None]
) -> None:
    server.always(Behaviour(status=401))
    client = make(server)
    for number in range(30):
        client.capture("e", distinct_id=number)
    url = f"{server.url}/batch/"
    assert logged(caplog) == [
        f"1 event(s) dropped: {url}: the server responded with 401: the API key was rejected"
    ]
    pass_a_minute()
    client.capture("e", distinct_id="u")
    assert logged(caplog)[1:] == [
        f"30 event(s) dropped: {url}: the server responded with 401: the API key was rejected"
    ]
    assert client.stats()["dropped"] == {"rejected": 31}
    assert len(server.requests) == 31, "each event was sent once"


@pytest.mark.rule("W-14")
def test_a_different_rejection_is_logged_at_once(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(*[Behaviour(status=status) for status in (401, 400, 401, 400, 403)])
    client = make(server)
    for number in range(5):
        client.capture("e", distinct_id=number)
    assert [text.split("responded with ")[1][:3] for text in logged(caplog)] == ["401", "400", "403"]


def test_every_retryable_failure_is_logged(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(Behaviour(status=503), Behaviour(status=500))
    client = make(server, max_retries=0)
    client.capture("e", distinct_id="u")
    client.capture("e", distinct_id="u")
    assert [text.split(" ")[0] for text in logged(caplog)] == ["1", "2"]


@pytest.mark.rule("W-13", "Q-20")
def test_an_untrusted_certificate_is_not_retried_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = FaultServer(tls=context)
    reported: list[int] = []
    client = Leanbase("k", server.url, on_error=lambda error, events: reported.append(len(events)))
    for number in range(3):
        client.capture("e", distinct_id=number)
    assert server.connections == 3
    assert len([text for text in logged(caplog) if "not delivered yet" in text]) == 1
    assert reported == [1, 2, 3], "on_error is called for each send"
    server.stop()


def test_missing_credentials_are_logged_once(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = make(server, transport="sqs", queue_url=server.url + QUEUE_PATH)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    started = time.monotonic()
    for number in range(3):
        client.capture("e", distinct_id=number)
    assert time.monotonic() - started < 5
    assert len([text for text in logged(caplog) if "not handed off yet" in text]) == 1
    assert not server.requests


def test_a_queue_without_permission_is_logged_once(
    make: Make, server: FaultServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "eu-west-1")
    server.always(Behaviour(status=403, body=b'{"__type": "AccessDenied"}'))
    client = make(server, transport="sqs", queue_url=server.url + QUEUE_PATH)
    for number in range(10):
        client.capture("e", distinct_id=number)
    assert len(logged(caplog, logging.ERROR)) == 1
    assert client.stats()["retained"] == 10


@pytest.mark.rule("Q-42")
def test_captures_after_a_shutdown_are_logged_once_a_minute(
    client: Leanbase, caplog: pytest.LogCaptureFixture, pass_a_minute: Callable[[], None]
) -> None:
    client.shutdown()
    for _ in range(5):
        assert client.capture("e", distinct_id="u") is None
    pass_a_minute()
    client.capture("e", distinct_id="u")
    assert logged(caplog) == [
        "1 event(s) not sent: the client was shut down",
        "5 event(s) not sent: the client was shut down",
    ]


def test_the_number_of_remembered_messages_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    log = RepeatedLog()
    for kind in range(10 * MAX_KINDS):
        log.log(logging.WARNING, kind, 1, f"number {kind}")
    assert len(log._said) <= MAX_KINDS
    assert len(caplog.records) == 10 * MAX_KINDS
