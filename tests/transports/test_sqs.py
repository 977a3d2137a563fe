"""Hand-off to SQS: what arrives at its endpoint, and what is made of what it answers."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from tests.support.fault_server import Behaviour, FaultServer, Request
from tests.transports.doubles import events

QUEUE = "/123456789012/events"


def taking(*failures: tuple[str, bool, str] | None) -> Callable[[Request], bytes]:
    """Answers as SQS does: takes all messages but those, by position, that fail."""

    def respond(request: Request) -> bytes:
        successful, failed = [], []
        for entry, failure in zip(request.envelope["Entries"], [*failures, *[None] * 10], strict=False):
            if failure is None:
                successful.append({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "x"})
            else:
                code, sender_fault, text = failure
                failed.append({"Id": entry["Id"], "Code": code, "SenderFault": sender_fault, "Message": text})
        return json.dumps({"Successful": successful, "Failed": failed}).encode()

    return respond


def refusing(code: str, text: str = "", status: int = 400) -> Behaviour:
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": text}).encode()
    return Behaviour(status=status, body=body)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nobody-sees")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setattr("leanbase.transports._http.sender.FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture
def queue(server: FaultServer) -> FaultServer:
    server.always(Behaviour(respond=taking()))
    return server


@pytest.fixture
def transport(queue: FaultServer) -> Iterator[SqsTransport]:
    made = SqsTransport(queue.url + QUEUE)
    yield made
    made.close(deadline=Deadline.after(0))


def unpacked(body: str) -> list[dict[str, Any]]:
    message = json.loads(body)
    assert message["leanbase"] == 1
    if "gzip" in message:
        message = json.loads(gzip.decompress(base64.b64decode(message["gzip"])))
        assert message["leanbase"] == 1
    found: list[dict[str, Any]] = message["events"]
    return found


def bodies(queue: FaultServer) -> list[str]:
    return [entry["MessageBody"] for request in queue.requests for entry in request.envelope["Entries"]]


def arrived(queue: FaultServer) -> list[dict[str, Any]]:
    return [event for body in bodies(queue) for event in unpacked(body)]


def sent(transport: BaseTransport, batch: Any, seconds: float = 5) -> Receipt:
    return transport.send(batch, deadline=Deadline.after(seconds))


def of_size(count: int, size: int, *, random: bool = False) -> list[Any]:
    def text() -> str:
        return os.urandom(size // 2).hex() if random else "x" * size

    return [encode({"uuid": uuid7(), "event": f"e{n}", "properties": {"text": text()}}) for n in range(count)]


class TestSqsKeepsTheContract(TransportContract):
    pass


class TestSqsAway(TransportContract):
    @pytest.fixture
    def transport(self, server: FaultServer) -> BaseTransport:
        server.always(Behaviour(status=503))
        return SqsTransport(server.url + QUEUE, max_retries=0)


# --- the request ---------------------------------------------------------------------------------------


def test_the_request_is_the_json_protocol_s(queue: FaultServer) -> None:
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE)
    uuid = client.capture("order created", distinct_id="u", properties={"total": 42, "name": "Ünïcode 🎉"})
    (request,) = queue.requests
    assert request.line == "POST / HTTP/1.1"
    assert request.headers["content-type"] == "application/x-amz-json-1.0"
    assert request.headers["x-amz-target"] == "AmazonSQS.SendMessageBatch"
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-west-1/sqs/aws4_request" in request.headers["authorization"]
    assert request.envelope["QueueUrl"] == queue.url + QUEUE
    (entry,) = request.envelope["Entries"]
    assert set(entry) == {"Id", "MessageBody"}
    (event,) = unpacked(entry["MessageBody"])
    assert (event["uuid"], event["properties"]["total"]) == (uuid, 42)
    assert event["properties"]["name"] == "Ünïcode 🎉"
    assert client.stats()["handed_off"] == 1


def test_needs_no_key_and_no_host_but_a_queue(queue: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase(transport="sqs")
    assert client.capture("e", distinct_id="u") is None
    assert "queue_url" in caplog.text


def test_many_events_are_few_messages_and_few_requests(transport: SqsTransport, queue: FaultServer) -> None:
    batch = of_size(1000, 500)
    assert sent(transport, batch).handed_off == 1000
    assert len(queue.requests) == 1
    assert len(bodies(queue)) == 1
    assert '"gzip"' in bodies(queue)[0]
    assert [event["uuid"] for event in arrived(queue)] == [event.uuid for event in batch]


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 20_000, 300_000, 900_000])
def test_messages_and_requests_keep_within_the_limits(
    transport: SqsTransport, queue: FaultServer, size: int
) -> None:
    batch = of_size(30, size, random=True)
    assert sent(transport, batch, 30).handed_off == 30
    assert {event["uuid"] for event in arrived(queue)} == {event.uuid for event in batch}
    for request in queue.requests:
        entries = request.envelope["Entries"]
        assert 1 <= len(entries) <= 10
        assert len({entry["Id"] for entry in entries}) == len(entries)
        assert sum(len(entry["MessageBody"].encode()) for entry in entries) <= 1024 * 1024


def test_small_messages_are_readable_and_large_ones_as_small_as_can_be(
    transport: SqsTransport, queue: FaultServer
) -> None:
    sent(transport, events(1))
    sent(transport, of_size(1, 5000))
    sent(transport, of_size(1, 5000, random=True))
    small, large, random = bodies(queue)
    assert '"events"' in small
    assert len(large) < 1000
    assert len(random) < 4500, "hexadecimal digits compress to a half, and base64 adds a third"


def test_characters_that_xml_does_not_know_arrive(transport: SqsTransport, queue: FaultServer) -> None:
    text = "\ufffe \uffff \x00 \x1f \x7f \u2028 🎉"
    sent(transport, [encode({"uuid": uuid7(), "event": "e", "properties": {"text": text}})])
    (body,) = bodies(queue)
    assert not {"\ufffe", "\uffff", "\x00", "\x1f"} & set(body)
    assert arrived(queue)[0]["properties"]["text"] == text


def test_connections_are_kept_and_a_stale_one_is_replaced(
    transport: SqsTransport, queue: FaultServer
) -> None:
    for _ in range(3):
        sent(transport, events(1))
    assert queue.connections == 1
    queue.close_connections()
    assert sent(transport, events(1)).handed_off == 1
    assert queue.connections == 2


# --- FIFO queues ---------------------------------------------------------------------------------------


def test_a_fifo_queue_gets_a_group_for_each_distinct_id(queue: FaultServer) -> None:
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE + ".fifo")
    with client.delivery_scope():
        for number in range(60):
            client.capture(f"e{number}", distinct_id=f"user {number % 3} ü")
    entries = [entry for request in queue.requests for entry in request.envelope["Entries"]]
    assert len(entries) == 3
    for entry in entries:
        found = unpacked(entry["MessageBody"])
        assert len({event["distinct_id"] for event in found}) == 1
        numbers = [int(event["event"][1:]) for event in found]
        assert numbers == sorted(numbers)
    assert len({entry["MessageGroupId"] for entry in entries}) == 3
    assert len({entry["MessageDeduplicationId"] for entry in entries}) == 3
    for entry in entries:
        assert entry["MessageGroupId"].isalnum()
        assert "user" not in entry["MessageGroupId"]


def test_what_is_sent_again_has_the_same_deduplication_id(queue: FaultServer) -> None:
    queue.script(Behaviour(instead="reset"), Behaviour(status=503))
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE + ".fifo")
    client.capture("e", distinct_id="u")
    ids = {request.envelope["Entries"][0]["MessageDeduplicationId"] for request in queue.requests}
    assert len(queue.requests) == 3
    assert len(ids) == 1


def test_many_users_share_requests_of_a_fifo_queue(queue: FaultServer) -> None:
    transport = SqsTransport(queue.url + QUEUE + ".fifo")
    batch = [
        encode({"uuid": uuid7(), "event": "e", "distinct_id": f"u{n}", "properties": {}}) for n in range(95)
    ]
    assert sent(transport, batch).handed_off == 95
    assert len(queue.requests) == 10


# --- credentials, regions, endpoints -------------------------------------------------------------------


def test_credentials_are_read_anew_for_each_send(
    transport: SqsTransport, queue: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(transport, events(1))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIARENEWED")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    sent(transport, events(1))
    first, second = queue.requests
    assert "x-amz-security-token" not in first.headers
    assert "Credential=ASIARENEWED/" in second.headers["authorization"]
    assert "x-amz-security-token" in second.headers["authorization"].partition("SignedHeaders=")[2]
    assert second.headers["x-amz-security-token"] == "a-token"


def test_without_credentials_and_botocore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(MissingDependencyError, match="the extra 'aws'"):
        Leanbase(transport="sqs", queue_url="https://sqs.eu-west-1.amazonaws.com" + QUEUE)


def test_credentials_that_go_away_leave_events_retained(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sent(transport, events(2)).retained == 2


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
def test_the_url_tells_region_and_endpoint(host: str, region: str) -> None:
    transport = SqsTransport(host + QUEUE)
    assert transport._region == region
    assert transport._endpoint == host + "/"


def test_the_environment_can_name_another_endpoint(
    queue: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://sqs.us-east-1.amazonaws.com" + QUEUE
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", queue.url)
    assert sent(SqsTransport(url), events(1)).handed_off == 1
    assert queue.requests[0].envelope["QueueUrl"] == url
    assert "/us-east-1/sqs/" in queue.requests[0].headers["authorization"]
    monkeypatch.delenv("AWS_ENDPOINT_URL_SQS")
    monkeypatch.setenv("AWS_ENDPOINT_URL", queue.url)
    assert sent(SqsTransport(url), events(1)).handed_off == 1


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
def test_a_queue_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="queue_url must be the URL of an SQS queue") as caught:
        Leanbase(transport="sqs", queue_url=url)
    assert ("ARN" in str(caught.value)) == url.startswith("arn:")
    assert "password" not in str(caught.value)


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigError, match="AWS_REGION"):
        SqsTransport("http://127.0.0.1:5000" + QUEUE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert SqsTransport("http://127.0.0.1:5000" + QUEUE)._region == "eu-west-3"


# --- what SQS answers ----------------------------------------------------------------------------------


def test_only_what_was_not_taken_is_sent_again(transport: SqsTransport, queue: FaultServer) -> None:
    queue.script(
        Behaviour(respond=taking(None, ("InternalError", False, ""), None, ("RequestThrottled", True, "")))
    )
    batch = of_size(4, 1000, random=True)
    transport._max_message_bytes = 1200  # one event each
    assert sent(transport, batch).handed_off == 4
    first, second = queue.requests
    assert [len(request.envelope["Entries"]) for request in (first, second)] == [4, 2]
    again = [
        event["uuid"] for entry in second.envelope["Entries"] for event in unpacked(entry["MessageBody"])
    ]
    assert again == [batch[1].uuid, batch[3].uuid]


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
        refusing("ThrottlingException"),
        refusing("RequestThrottled", status=403),
        refusing("KmsThrottled"),
    ],
)
def test_what_may_work_later_is_retried(
    transport: SqsTransport, queue: FaultServer, behaviour: Behaviour
) -> None:
    queue.script(behaviour)
    assert sent(transport, events(3)).handed_off == 3
    assert len(queue.requests) == 2
    assert queue.requests[0].envelope["Entries"] == queue.requests[1].envelope["Entries"]


def test_it_stops_at_the_deadline(transport: SqsTransport, queue: FaultServer) -> None:
    queue.always(Behaviour(instead="silence"))
    started = time.monotonic()
    assert sent(transport, events(3), 0.3).retained == 3
    assert time.monotonic() - started < 1


def test_throttled_on_and_on_events_are_retained_in_order_and_go_first(queue: FaultServer) -> None:
    queue.always(Behaviour(respond=taking(*[("RequestThrottled", True, "")] * 10)))
    heard: list[Any] = []
    client = Leanbase(
        transport="sqs",
        queue_url=queue.url + QUEUE,
        max_retries=1,
        on_error=lambda error, events: heard.append((str(error), len(events))),
    )
    client.capture("first", distinct_id="u")
    client.capture("second", distinct_id="u")
    assert client.stats()["retained"] == 2
    assert heard == [("messages were not accepted: RequestThrottled", n) for n in (1, 2)]
    queue.always(Behaviour(respond=taking()))
    client.capture("third", distinct_id="u")
    assert client.stats() == {**client.stats(), "handed_off": 3, "retained": 0}
    assert [event["event"] for event in unpacked(bodies(queue)[-1])] == ["first", "second", "third"]
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
def test_what_has_to_be_mended_is_retained_and_explained_and_goes_to_a_fallback(
    queue: FaultServer, code: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue.always(refusing(code, "User: arn:aws:sts::123456789012:assumed-role/secret-role is not authorized"))
    memory = MemoryTransport()
    client = Leanbase(transport="sqs", queue_url=queue.url + QUEUE)
    with_fallback = Leanbase(transport="sqs", queue_url=queue.url + QUEUE, fallback=memory)
    client.capture("e", distinct_id="u")
    with_fallback.capture("e", distinct_id="u")
    assert len(queue.requests) == 2, "sending it again at once would not help"
    assert client.stats()["retained"] == 1
    assert len(memory.events) == 1
    assert hint in caplog.text
    assert "secret" not in caplog.text
    assert caplog.records[0].levelname == "ERROR"


def test_a_message_that_is_refused_is_dropped_and_the_others_arrive(
    transport: SqsTransport, queue: FaultServer
) -> None:
    queue.script(Behaviour(respond=taking(None, ("InvalidMessageContents", True, "no"), None)))
    transport._max_message_bytes = 1200
    receipt = sent(transport, of_size(3, 1000, random=True))
    assert (receipt.handed_off, receipt.dropped) == (2, {"rejected": 1})
    assert len(queue.requests) == 1


def test_a_queue_with_a_lower_limit_gets_smaller_messages(
    transport: SqsTransport, queue: FaultServer
) -> None:
    text = "One or more parameters are invalid. Reason: Message must be shorter than 4096 bytes."
    queue.script(Behaviour(respond=taking(("InvalidParameterValue", True, text))))
    batch = of_size(30, 1000, random=True)
    assert sent(transport, batch).handed_off == 30
    assert max(map(len, bodies(queue)[1:])) <= 4096
    assert [event["uuid"] for body in bodies(queue)[1:] for event in unpacked(body)] == [
        e.uuid for e in batch
    ]
    assert sent(transport, of_size(1, 10_000, random=True)).dropped == {"too_large": 1}


@pytest.mark.parametrize("text", ["Batch requests cannot be longer than 262144 bytes.", "too long"])
def test_a_service_with_a_lower_limit_gets_smaller_requests(
    transport: SqsTransport, queue: FaultServer, text: str
) -> None:
    queue.script(refusing("BatchRequestTooLong", text))
    batch = of_size(10, 90_000, random=True)
    assert sent(transport, batch).handed_off == 10
    _, *others = queue.requests
    for request in others:
        size = sum(len(entry["MessageBody"]) for entry in request.envelope["Entries"])
        assert size <= (262_144 if "longer" in text else 600_000)
    assert len({event["uuid"] for body in bodies(queue) for event in unpacked(body)}) == 10


def test_a_dead_queue_costs_a_warm_function_one_deadline(queue: FaultServer) -> None:
    queue.always(Behaviour(status=503))
    transport = SqsTransport(queue.url + QUEUE, max_retries=0)
    for _ in range(10):
        assert sent(transport, events(1)).retained == 1
    assert len(queue.requests) == 3


# --- what it does not load -----------------------------------------------------------------------------


def test_with_credentials_in_the_environment_boto_is_never_imported(queue: FaultServer) -> None:
    program = f"""
import sys, leanbase
loaded = [name for name in sys.modules if name.partition(".")[0] in ("boto3", "botocore", "urllib3", "ssl")]
assert not loaded, loaded
client = leanbase.Leanbase(transport="sqs", queue_url={queue.url + QUEUE!r})
for n in range(10): client.capture("e", distinct_id=n)
print(client.stats()["handed_off"], "botocore" in sys.modules, "boto3" in sys.modules)
print(repr(client), repr(client._current().outbox._transport._inner))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )
    assert ended.stdout.startswith("10 False False\n"), ended.stderr
    assert "secret" not in ended.stdout
    assert "AKID" not in ended.stdout
