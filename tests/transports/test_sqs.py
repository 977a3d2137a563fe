"""The transport `sqs`: the requests that it sends to the endpoint of SQS, and what it does with each response.

The endpoint is a `FaultServer`, which responds as SQS does (`accept_messages`) or fails. moto is used in the
tests of the relay.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.errors import ConfigError, MissingDependencyError
from leanbase.events.encoding import encode
from leanbase.events.ids import uuid7
from leanbase.testing import TransportContract
from leanbase.transports import BaseTransport, MemoryTransport, SqsTransport
from leanbase.transports.deadline import Deadline
from leanbase.transports.receipt import Receipt
from tests.conftest import balanced
from tests.support.events import encoded_events
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.handoff import events_of_message
from tests.support.programs import run_program
from tests.support.sqs import QUEUE_PATH, accept_messages


def error_response(code: str, text: str = "", status: int = 400) -> Behaviour:
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": text}).encode()
    return Behaviour(status=status, body=body)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setattr("leanbase.transports._http.sender.FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture
def queue(server: FaultServer) -> FaultServer:
    """The endpoint of SQS, which accepts every message."""
    server.always(Behaviour(respond=accept_messages()))
    return server


@pytest.fixture
def transport(queue: FaultServer) -> Iterator[SqsTransport]:
    made = SqsTransport(queue.url + QUEUE_PATH)
    yield made
    made.close(deadline=Deadline.after(0))


def message_bodies(queue: FaultServer) -> list[str]:
    return [entry["MessageBody"] for request in queue.requests for entry in request.envelope["Entries"]]


def received_events(queue: FaultServer) -> list[dict[str, Any]]:
    return [event for body in message_bodies(queue) for event in events_of_message(body)]


def send(transport: BaseTransport, batch: Any, seconds: float = 5) -> Receipt:
    return transport.send(batch, deadline=Deadline.after(seconds))


def events_of_size(count: int, size: int, *, random: bool = False) -> list[Any]:
    """Return events with `size` characters each, which compress badly if they are `random`."""

    def text() -> str:
        return os.urandom(size // 2).hex() if random else "x" * size

    return [encode({"uuid": uuid7(), "event": f"e{n}", "properties": {"text": text()}}) for n in range(count)]


class TestSqsThatAccepts(TransportContract):
    pass


class TestSqsThatIsUnavailable(TransportContract):
    @pytest.fixture
    def transport(self, server: FaultServer) -> BaseTransport:
        server.always(Behaviour(status=503))
        return SqsTransport(server.url + QUEUE_PATH, max_retries=0)


# --- the request ---------------------------------------------------------------------------------------


@pytest.mark.rule("Q-58")
def test_the_request_follows_the_json_protocol_of_sqs(queue: FaultServer) -> None:
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE_PATH)
    uuid = client.capture("order created", distinct_id="u", properties={"total": 42, "name": "Ünïcode 🎉"})
    (request,) = queue.requests
    assert request.line == "POST / HTTP/1.1"
    assert request.headers["content-type"] == "application/x-amz-json-1.0"
    assert request.headers["x-amz-target"] == "AmazonSQS.SendMessageBatch"
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-west-1/sqs/aws4_request" in request.headers["authorization"]
    assert request.envelope["QueueUrl"] == queue.url + QUEUE_PATH
    (entry,) = request.envelope["Entries"]
    assert set(entry) == {"Id", "MessageBody"}
    (event,) = events_of_message(entry["MessageBody"])
    assert (event["uuid"], event["properties"]["total"]) == (uuid, 42)
    assert event["properties"]["name"] == "Ünïcode 🎉"
    assert client.stats()["handed_off"] == 1


@pytest.mark.rule("G-1")
def test_a_client_without_queue_url_is_disabled(queue: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase(transport="sqs")
    assert client.capture("e", distinct_id="u") is None
    assert "queue_url" in caplog.text


def test_a_thousand_events_are_one_compressed_message(transport: SqsTransport, queue: FaultServer) -> None:
    batch = events_of_size(1000, 500)
    assert send(transport, batch).handed_off == 1000
    assert len(queue.requests) == 1
    assert len(message_bodies(queue)) == 1
    assert '"gzip"' in message_bodies(queue)[0]
    assert [event["uuid"] for event in received_events(queue)] == [event.uuid for event in batch]


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 20_000, 300_000, 900_000])
def test_messages_and_requests_stay_within_the_limits_of_sqs(
    transport: SqsTransport, queue: FaultServer, size: int
) -> None:
    batch = events_of_size(30, size, random=True)
    assert send(transport, batch, 30).handed_off == 30
    assert {event["uuid"] for event in received_events(queue)} == {event.uuid for event in batch}
    for request in queue.requests:
        entries = request.envelope["Entries"]
        assert 1 <= len(entries) <= 10
        assert len({entry["Id"] for entry in entries}) == len(entries)
        assert sum(len(entry["MessageBody"].encode()) for entry in entries) <= 1024 * 1024


def test_small_messages_are_readable_and_large_ones_are_compressed(
    transport: SqsTransport, queue: FaultServer
) -> None:
    send(transport, encoded_events(1))
    send(transport, events_of_size(1, 5000))
    send(transport, events_of_size(1, 5000, random=True))
    small, large, random = message_bodies(queue)
    assert '"events"' in small
    assert len(large) < 1000
    assert len(random) < 4500, "hexadecimal digits compress to one half, and base64 adds one third"


def test_characters_that_xml_does_not_allow_are_escaped(transport: SqsTransport, queue: FaultServer) -> None:
    text = "\ufffe \uffff \x00 \x1f \x7f \u2028 🎉"
    send(transport, [encode({"uuid": uuid7(), "event": "e", "properties": {"text": text}})])
    (body,) = message_bodies(queue)
    assert not {"\ufffe", "\uffff", "\x00", "\x1f"} & set(body)
    assert received_events(queue)[0]["properties"]["text"] == text


def test_connections_are_kept_alive_and_a_stale_one_is_replaced(
    transport: SqsTransport, queue: FaultServer
) -> None:
    for _ in range(3):
        send(transport, encoded_events(1))
    assert queue.connections == 1
    queue.close_connections()
    assert send(transport, encoded_events(1)).handed_off == 1
    assert queue.connections == 2


# --- FIFO queues ---------------------------------------------------------------------------------------


def test_a_fifo_queue_gets_a_group_for_each_distinct_id(queue: FaultServer) -> None:
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE_PATH + ".fifo")
    with client.delivery_scope():
        for number in range(60):
            client.capture(f"e{number}", distinct_id=f"user {number % 3} ü")
    entries = [entry for request in queue.requests for entry in request.envelope["Entries"]]
    assert len(entries) == 3
    for entry in entries:
        found = events_of_message(entry["MessageBody"])
        assert len({event["distinct_id"] for event in found}) == 1
        numbers = [int(event["event"][1:]) for event in found]
        assert numbers == sorted(numbers)
    assert len({entry["MessageGroupId"] for entry in entries}) == 3
    assert len({entry["MessageDeduplicationId"] for entry in entries}) == 3
    for entry in entries:
        assert entry["MessageGroupId"].isalnum()
        assert "user" not in entry["MessageGroupId"]


def test_a_retry_has_the_same_deduplication_id(queue: FaultServer) -> None:
    queue.script(Behaviour(instead="reset"), Behaviour(status=503))
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE_PATH + ".fifo")
    client.capture("e", distinct_id="u")
    ids = {request.envelope["Entries"][0]["MessageDeduplicationId"] for request in queue.requests}
    assert len(queue.requests) == 3
    assert len(ids) == 1


def test_messages_of_many_users_share_requests_to_a_fifo_queue(queue: FaultServer) -> None:
    transport = SqsTransport(queue.url + QUEUE_PATH + ".fifo")
    batch = [
        encode({"uuid": uuid7(), "event": "e", "distinct_id": f"u{n}", "properties": {}}) for n in range(95)
    ]
    assert send(transport, batch).handed_off == 95
    assert len(queue.requests) == 10


# --- credentials, regions, endpoints -------------------------------------------------------------------


def test_credentials_are_read_again_for_each_send(
    transport: SqsTransport, queue: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(transport, encoded_events(1))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIARENEWED")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    send(transport, encoded_events(1))
    first, second = queue.requests
    assert "x-amz-security-token" not in first.headers
    assert "Credential=ASIARENEWED/" in second.headers["authorization"]
    assert "x-amz-security-token" in second.headers["authorization"].partition("SignedHeaders=")[2]
    assert second.headers["x-amz-security-token"] == "a-token"


def test_the_error_without_credentials_and_botocore_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(MissingDependencyError, match="the extra 'aws'"):
        Leanbase(transport="sqs", queue_url="https://sqs.eu-west-1.amazonaws.com" + QUEUE_PATH)


def test_events_are_retained_while_credentials_are_missing(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert send(transport, encoded_events(2)).retained == 2


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("https://sqs.us-east-2.amazonaws.com", "us-east-2"),
        ("https://sqs-fips.us-west-2.amazonaws.com", "us-west-2"),
        ("https://sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ("https://ap-southeast-2.queue.amazonaws.com", "ap-southeast-2"),
        ("https://queue.amazonaws.com", "us-east-1"),
        ("https://vpce-0123abcd-efgh.sqs.ca-central-1.vpce.amazonaws.com", "ca-central-1"),
        ("https://sqs.eu-north-1.api.aws", "eu-north-1"),
        ("http://sqs.us-west-1.localhost.localstack.cloud:4566", "us-west-1"),
        ("http://127.0.0.1:5000", "eu-west-1"),
    ],
)
def test_region_and_endpoint_come_from_the_url(host: str, region: str) -> None:
    transport = SqsTransport(host + QUEUE_PATH)
    assert transport._region == region
    assert transport._endpoint == host + "/"


def test_environment_variables_can_name_another_endpoint(
    queue: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://sqs.us-east-1.amazonaws.com" + QUEUE_PATH
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", queue.url)
    assert send(SqsTransport(url), encoded_events(1)).handed_off == 1
    assert queue.requests[0].envelope["QueueUrl"] == url
    assert "/us-east-1/sqs/" in queue.requests[0].headers["authorization"]
    monkeypatch.delenv("AWS_ENDPOINT_URL_SQS")
    monkeypatch.setenv("AWS_ENDPOINT_URL", queue.url)
    assert send(SqsTransport(url), encoded_events(1)).handed_off == 1


@pytest.mark.parametrize(
    "url",
    [
        "events",
        "arn:aws:sqs:eu-west-1:123456789012:events",
        "https://sqs.eu-west-1.amazonaws.com",
        "https://sqs.eu-west-1.amazonaws.com/events",
        "https://user:password@sqs.eu-west-1.amazonaws.com/123456789012/events",
        "https://sqs.eu-west-1.amazonaws.com/123456789012/events?x=1",
        "ftp://sqs.eu-west-1.amazonaws.com/123456789012/events",
        "https://[/123456789012/events",
    ],
)
def test_an_invalid_queue_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="queue_url must be the URL of an SQS queue") as caught:
        Leanbase(transport="sqs", queue_url=url)
    assert ("ARN" in str(caught.value)) == url.startswith("arn:")
    assert "password" not in str(caught.value)


def test_a_missing_region_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigError, match="AWS_REGION"):
        SqsTransport("http://127.0.0.1:5000" + QUEUE_PATH)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert SqsTransport("http://127.0.0.1:5000" + QUEUE_PATH)._region == "eu-west-3"


# --- responses -----------------------------------------------------------------------------------------


def test_only_messages_that_were_not_accepted_are_retried(
    transport: SqsTransport, queue: FaultServer
) -> None:
    queue.script(
        Behaviour(
            respond=accept_messages(None, ("InternalError", False, ""), None, ("RequestThrottled", True, ""))
        )
    )
    batch = events_of_size(4, 1000, random=True)
    transport._max_message_bytes = 1200  # one event each
    assert send(transport, batch).handed_off == 4
    first, second = queue.requests
    assert [len(request.envelope["Entries"]) for request in (first, second)] == [4, 2]
    retried = [
        event["uuid"]
        for entry in second.envelope["Entries"]
        for event in events_of_message(entry["MessageBody"])
    ]
    assert retried == [batch[1].uuid, batch[3].uuid]


@pytest.mark.rule("Q-10", "W-12", "W-13")
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=500),
        Behaviour(status=503, body=b"<html>"),
        Behaviour(status=429),
        Behaviour(instead="reset"),
        Behaviour(instead="half"),
        Behaviour(body=b"not json"),
        Behaviour(body=b"[]"),
        Behaviour(body=b'{"Successful": [{"Id": "7"}], "Failed": 3}'),
        error_response("ThrottlingException"),
        error_response("RequestThrottled", status=403),
        error_response("KmsThrottled"),
    ],
)
def test_retryable_failures_are_retried_with_the_same_messages(
    transport: SqsTransport, queue: FaultServer, behaviour: Behaviour
) -> None:
    queue.script(behaviour)
    assert send(transport, encoded_events(3)).handed_off == 3
    assert len(queue.requests) == 2
    assert queue.requests[0].envelope["Entries"] == queue.requests[1].envelope["Entries"]


@pytest.mark.rule("Q-13")
def test_a_send_ends_at_the_deadline(transport: SqsTransport, queue: FaultServer) -> None:
    queue.always(Behaviour(instead="silence"))
    started = time.monotonic()
    assert send(transport, encoded_events(3), 0.3).retained == 3
    assert time.monotonic() - started < 1


@pytest.mark.rule("Q-20", "Q-21", "Q-57")
def test_events_throttled_in_every_attempt_are_retained_and_sent_first(queue: FaultServer) -> None:
    queue.always(Behaviour(respond=accept_messages(*[("RequestThrottled", True, "")] * 10)))
    reported: list[Any] = []
    client = Leanbase(
        transport="sqs",
        queue_url=queue.url + QUEUE_PATH,
        max_retries=1,
        on_error=lambda error, events: reported.append((str(error), len(events))),
    )
    client.capture("first", distinct_id="u")
    client.capture("second", distinct_id="u")
    assert client.stats()["retained"] == 2
    assert reported == [("messages were not accepted: RequestThrottled", n) for n in (1, 2)]
    queue.always(Behaviour(respond=accept_messages()))
    client.capture("third", distinct_id="u")
    assert client.stats() == {**client.stats(), "handed_off": 3, "retained": 0}
    assert [event["event"] for event in events_of_message(message_bodies(queue)[-1])] == [
        "first",
        "second",
        "third",
    ]
    assert balanced(client)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AccessDeniedException", "sqs:SendMessage"),
        ("AWS.SimpleQueueService.NonExistentQueue", ""),
        ("QueueDoesNotExist", "queue_url"),
        ("InvalidClientTokenId", "credentials"),
        ("ExpiredToken", "credentials"),
        ("InvalidSignatureException", "clock"),
    ],
)
def test_a_configuration_error_is_explained_and_events_are_retained_or_go_to_the_fallback(
    queue: FaultServer, code: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue.always(
        error_response(code, "User: arn:aws:sts::123456789012:assumed-role/secret-role is not authorized")
    )
    memory = MemoryTransport()
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE_PATH)
    with_fallback = Leanbase(transport="sqs", queue_url=queue.url + QUEUE_PATH, fallback=memory)
    client.capture("e", distinct_id="u")
    with_fallback.capture("e", distinct_id="u")
    assert len(queue.requests) == 2, "a retry would not help"
    assert client.stats()["retained"] == 1
    assert len(memory.events) == 1
    assert hint in caplog.text
    assert "secret" not in caplog.text
    assert caplog.records[0].levelname == "ERROR"


@pytest.mark.rule("Q-23")
def test_a_rejected_message_is_dropped_and_the_others_arrive(
    transport: SqsTransport, queue: FaultServer
) -> None:
    queue.script(Behaviour(respond=accept_messages(None, ("InvalidMessageContents", True, "no"), None)))
    transport._max_message_bytes = 1200
    receipt = send(transport, events_of_size(3, 1000, random=True))
    assert (receipt.handed_off, receipt.dropped) == (2, {"rejected": 1})
    assert len(queue.requests) == 1


def test_a_queue_with_a_lower_limit_gets_smaller_messages(
    transport: SqsTransport, queue: FaultServer
) -> None:
    text = "One or more parameters are invalid. Reason: Message must be shorter than 4096 bytes."
    queue.script(Behaviour(respond=accept_messages(("InvalidParameterValue", True, text))))
    batch = events_of_size(30, 1000, random=True)
    assert send(transport, batch).handed_off == 30
    assert max(map(len, message_bodies(queue)[1:])) <= 4096
    assert [event["uuid"] for body in message_bodies(queue)[1:] for event in events_of_message(body)] == [
        e.uuid for e in batch
    ]
    assert send(transport, events_of_size(1, 10_000, random=True)).dropped == {"too_large": 1}


@pytest.mark.parametrize("text", ["Batch requests cannot be longer than 262144 bytes.", "too long"])
def test_a_service_with_a_lower_limit_gets_smaller_requests(
    transport: SqsTransport, queue: FaultServer, text: str
) -> None:
    queue.script(error_response("BatchRequestTooLong", text))
    batch = events_of_size(10, 90_000, random=True)
    assert send(transport, batch).handed_off == 10
    _, *others = queue.requests
    for request in others:
        size = sum(len(entry["MessageBody"]) for entry in request.envelope["Entries"])
        assert size <= (262_144 if "longer" in text else 600_000)
    assert len({event["uuid"] for body in message_bodies(queue) for event in events_of_message(body)}) == 10


@pytest.mark.rule("Q-55")
def test_the_breaker_opens_after_three_failed_sends(queue: FaultServer) -> None:
    queue.always(Behaviour(status=503))
    transport = SqsTransport(queue.url + QUEUE_PATH, max_retries=0)
    for _ in range(10):
        assert send(transport, encoded_events(1)).retained == 1
    assert len(queue.requests) == 3


# --- imports -------------------------------------------------------------------------------------------


def test_boto_is_not_imported_if_credentials_are_in_the_environment(queue: FaultServer) -> None:
    ended = run_program("tests.transports.programs.hand_off_to_sqs", queue.url + QUEUE_PATH)
    assert ended.stdout.startswith("10 False False\n"), ended.stderr
    assert "secret" not in ended.stdout
    assert "AKID" not in ended.stdout
