"""`record_context()`, and `lambda_handler(idempotent=True)`: a retry captures the same events again.

Handlers run in this process, and their events go to memory (`sent`). Two events are the same if `identity` returns the
same for both: the server counts them once.
"""

from __future__ import annotations

import base64
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import leanbase
from leanbase.handlers.aws_lambda import invocation
from leanbase.handlers.aws_lambda import records as lambda_records
from leanbase.testing import CapturedEvents, LambdaContext
from leanbase.transports import MemoryTransport
from tests.relay.sources import sqs_event
from tests.support.threads import start_thread

REQUEST_ID = "11111111-2222-3333-4444-555555555555"

pytestmark = pytest.mark.usefixtures("sent")


def identity(event: dict[str, Any]) -> tuple[str, ...]:
    """Return what an event and its repetition have in common."""
    return tuple(event[name] for name in ("event", "uuid", "timestamp", "distinct_id"))


def context(request_id: str = REQUEST_ID) -> LambdaContext:
    return LambdaContext(aws_request_id=request_id)


# --- records of each source ---------------------------------------------------------------------------------

SQS = {
    "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
    "body": "user_1",
    "attributes": {"SentTimestamp": "1704067210500", "ApproximateReceiveCount": "1"},
    "eventSource": "aws:sqs",
    "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:orders",
}
KINESIS = {
    "kinesis": {
        "sequenceNumber": "49590338271490256608559692538361571095921575989136588898",
        "data": base64.b64encode(b"hello").decode(),
        "approximateArrivalTimestamp": 1704067210.5,
    },
    "eventSource": "aws:kinesis",
    "eventID": "shardId-000000000006:49590338271490256608559692538361571095921575989136588898",
    "eventSourceARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
}
DYNAMODB = {
    "eventID": "c4ca4238a0b923820dcc509a6f75849b",
    "eventSource": "aws:dynamodb",
    "dynamodb": {
        "SequenceNumber": "4421584500000000017450439091",
        "ApproximateCreationDateTime": 1704067210.5,
    },
    "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000",
}
SNS = {
    "EventSource": "aws:sns",
    "EventSubscriptionArn": "arn:aws:sns:eu-west-1:123456789012:orders:1",
    "Sns": {"MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e", "Timestamp": "2024-01-01T00:00:10.500Z"},
}


@pytest.mark.parametrize("record", [SQS, KINESIS, DYNAMODB, SNS], ids=["sqs", "kinesis", "dynamodb", "sns"])
def test_a_redelivered_record_sends_the_same_events_with_the_timestamp_of_the_record(
    record: dict[str, Any], sent: MemoryTransport
) -> None:
    """The second delivery is in another invocation and another batch."""

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        for each in event["Records"]:
            with leanbase.record_context(each):
                leanbase.capture("shipped", distinct_id="u")
                leanbase.capture("shipped", distinct_id="u")

    other = {**SQS, "messageId": "another"}
    handler({"Records": [record, other]}, context())
    handler({"Records": [record]}, context("another request"))
    first, redelivered = sent.events[:2], sent.events[4:]
    assert [*map(identity, first)] == [*map(identity, redelivered)]
    assert {event["timestamp"] for event in first} == {"2024-01-01T00:00:10.500000+00:00"}
    assert len({event["uuid"] for event in sent.events}) == 4
    assert first[0]["properties"]["messaging.message.id"] == (
        record.get("messageId")
        or record.get("kinesis", {}).get("sequenceNumber")
        or record.get("dynamodb", {}).get("SequenceNumber")
        or record["Sns"]["MessageId"]
    )


@pytest.mark.rule("K-1")
def test_each_record_has_a_context_inside_that_of_the_invocation(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        for record in event["Records"]:
            with leanbase.record_context(record):
                leanbase.identify_context(record["body"])
                leanbase.tag(record["body"], True)
                leanbase.capture("seen")

    handler(sqs_event("user_1", "user_2"), context())
    one, two = sent.events
    assert (one["distinct_id"], two["distinct_id"]) == ("user_1", "user_2")
    assert "user_1" in one["properties"]
    assert "user_1" not in two["properties"]
    assert one["properties"]["faas.invocation_id"] == REQUEST_ID
    # Without idempotent=True, uuids and timestamps are those of the capture.
    assert one["timestamp"][:4] != "2018"
    assert one["uuid"][14] == "7"


def test_two_contexts_of_one_record_have_different_events(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        for _ in range(2):
            with leanbase.record_context(event["Records"][0]):
                leanbase.capture("seen", distinct_id="u")
        leanbase.capture("seen", distinct_id="u")

    handler({"Records": [SQS]}, context())
    assert len({event["uuid"] for event in sent.events}) == 3


@pytest.mark.rule("K-15", "K-20")
def test_a_batch_processor_sees_the_exception_of_a_record(sent: MemoryTransport) -> None:
    """The exception is captured with the record's identity, and the other records are processed."""
    processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)

    def handle(record: SQSRecord) -> None:
        with leanbase.record_context(record):
            leanbase.identify_context(record.body)
            leanbase.capture("order shipped")
            if record.body == "user_2":
                raise ValueError("no such order")

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: dict[str, Any], context: Any) -> Any:
        return process_partial_response(event, handle, processor, context)

    event = sqs_event("user_1", "user_2", "user_3")
    response = handler(event, context())
    assert response["batchItemFailures"] == [{"itemIdentifier": event["Records"][1]["messageId"]}]
    events = CapturedEvents(sent.events)
    events.assert_captured("order shipped", times=3)
    assert events.assert_captured("$exception", times=1)["distinct_id"] == "user_2"
    handler({"Records": [event["Records"][1]]}, context("the second attempt"))
    assert identity(sent.events[-2]) == identity(events.named("order shipped")[1])
    assert identity(sent.events[-1]) == identity(events.named("$exception")[0])


@pytest.mark.rule("G-1")
@pytest.mark.parametrize(
    "record", [None, 3, {}, {"messageId": 7}, {"kinesis": []}, {"attributes": "x", "Sns": 1}]
)
def test_a_malformed_record_loses_no_event(record: Any, sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        with leanbase.record_context(record):
            leanbase.capture("seen", distinct_id="u")

    handler({"Records": [record]}, context())
    assert len(sent.events) == 1


def test_a_record_context_outside_a_handler_tags_events(sent: MemoryTransport) -> None:
    with leanbase.record_context(SQS):
        leanbase.capture("seen", distinct_id="u")
    assert sent.events[0]["properties"]["messaging.message.id"] == SQS["messageId"]
    assert leanbase.get_tags() == {}


# --- invocations --------------------------------------------------------------------------------------------


@leanbase.lambda_handler(idempotent=True)
def order(event: Any, context: Any) -> None:
    leanbase.capture("order created", distinct_id="u", properties={"n": 1})
    leanbase.capture("order created", distinct_id="u", properties={"n": 2})
    leanbase.identify("u", {"plan": "pro"})
    leanbase.alias("anonymous", "u")
    leanbase.group_identify("company", "acme")
    leanbase.capture("anonymous")
    leanbase.capture_exception(ValueError("x"))


@pytest.mark.parametrize(
    ("event", "timestamp"),
    [
        ({"detail-type": "t", "time": "2024-01-01T00:00:10Z"}, "2024-01-01T00:00:10+00:00"),
        ({"requestContext": {"timeEpoch": 1704067210500}}, "2024-01-01T00:00:10.500000+00:00"),
        ({"requestContext": {"requestTimeEpoch": 1704067210500}}, "2024-01-01T00:00:10.500000+00:00"),
        ({"Records": [{"eventTime": "2024-01-01T00:00:10.500Z"}]}, "2024-01-01T00:00:10.500000+00:00"),
    ],
    ids=["EventBridge", "HTTP API", "REST API", "S3"],
)
def test_two_attempts_send_the_same_events_with_the_timestamp_of_the_lambda_event(
    event: Any, timestamp: str, sent: MemoryTransport
) -> None:
    order(event, context())
    order(event, context())
    assert [*map(identity, sent.events[:7])] == [*map(identity, sent.events[7:])]
    assert {each["timestamp"] for each in sent.events} == {timestamp}
    assert len({each["uuid"] for each in sent.events}) == 7


def test_without_a_timestamp_in_the_lambda_event_that_of_the_trace_is_used(
    sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-6592008a-0123456789abcdef01234567;Sampled=0")
    order({}, context())
    order({}, context())
    assert [*map(identity, sent.events[:7])] == [*map(identity, sent.events[7:])]
    assert sent.events[0]["timestamp"] == "2024-01-01T00:00:10+00:00"


@pytest.mark.rule("E-3", "E-4")
def test_a_uuid_and_timestamp_of_the_caller_are_sent(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u", uuid=REQUEST_ID, timestamp="2026-05-05T05:05:05Z")

    handler({"detail-type": "t", "time": "2024-01-01T00:00:10Z"}, context())
    assert identity(sent.events[0])[1:3] == (REQUEST_ID, "2026-05-05T05:05:05+00:00")


def test_functions_and_requests_do_not_share_uuids(sent: MemoryTransport) -> None:
    for name, request in (("a", "r1"), ("b", "r1"), ("a", "r2")):
        order({}, LambdaContext(function_name=name, aws_request_id=request))
    assert len({event["uuid"] for event in sent.events}) == 21


def test_calls_of_one_handler_by_another_do_not_share_uuids(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def outer(event: Any, context: Any) -> None:
        order(event, context)
        order(event, context)

    for _ in range(2):
        outer({"detail-type": "t", "time": "2024-01-01T00:00:10Z"}, context())
    assert [*map(identity, sent.events[:14])] == [*map(identity, sent.events[14:])]
    assert len({event["uuid"] for event in sent.events}) == 14


@pytest.mark.rule("G-4")
def test_threads_of_an_invocation_do_not_share_uuids(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        with ThreadPoolExecutor(8) as executor:
            for _ in range(80):
                executor.submit(copy_context().run, leanbase.capture, "e", distinct_id="u")

    handler({}, context())
    assert len({event["uuid"] for event in sent.events}) == 80


def test_outside_idempotent_handlers_uuids_are_generated(sent: MemoryTransport) -> None:
    order({}, context())
    leanbase.capture("order created", distinct_id="u")
    start_thread(leanbase.capture, "order created", distinct_id="u").join()
    assert [event["uuid"][14] for event in sent.events[-2:]] == ["7", "7"]


def test_a_forked_child_has_uuids_of_its_own(sent: MemoryTransport) -> None:
    """The derived uuids would be the next ones of its parent."""

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> str:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            os.write(writing, str(leanbase.capture("e", distinct_id="child")).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        leanbase.capture("e", distinct_id="parent")
        return os.read(reading, 100).decode()

    assert handler({}, context()) != sent.events[0]["uuid"]


def test_a_lone_surrogate_in_a_name_does_not_change_the_uuid(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("x\ud800", distinct_id="u")

    handler({}, context())
    handler({}, context())
    assert sent.events[0]["uuid"] == sent.events[1]["uuid"]


def test_a_whole_event_instead_of_a_record_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    lambda_records._has_warned = False
    for _ in range(2):
        with leanbase.record_context({"Records": [SQS]}):
            pass
    assert caplog.text.count("pass one entry of its Records") == 1


@pytest.mark.rule("G-1")
def test_a_client_of_the_wrong_type_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    wrong: Any = "client"
    with leanbase.record_context(SQS, client=wrong):
        pass
    assert "client must be a Leanbase, not str" in caplog.text


def test_without_a_request_id_only_events_of_records_have_the_same_uuids_again(
    sent: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers that try a handler out often pass no Lambda context."""
    invocation._warn_of_no_request_id.cache_clear()

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("outside", distinct_id="u")
        with leanbase.record_context(SQS):
            leanbase.capture("inside", distinct_id="u")

    for _ in range(2):
        handler({}, None)
    outside, inside, second_outside, second_inside = map(identity, sent.events)
    assert inside == second_inside
    assert outside != second_outside
    assert caplog.text.count("needs a Lambda context with an aws_request_id") == 1


SES = {
    "eventSource": "aws:ses",
    "ses": {"mail": {"messageId": "m-1", "timestamp": "2024-01-01T00:00:00.000Z"}},
}
S3 = {
    "eventSource": "aws:s3",
    "eventTime": "2024-01-01T00:00:00.000Z",
    "s3": {"bucket": {"name": "b"}, "object": {"key": "k", "sequencer": "0055AED6DCD90281E5"}},
}
KAFKA = {"topic": "orders", "partition": 0, "offset": 7, "timestamp": 1704067200000, "value": "e30="}
EVENTS = {
    "SES": {"Records": [SES]},
    "S3": {"Records": [S3]},
    "Kafka": {"eventSource": "aws:kafka", "records": {"orders-0": [KAFKA]}},
    "unknown": {"Records": [{"eventSource": "aws:new"}]},
}


@pytest.mark.parametrize("kind", EVENTS)
def test_each_attempt_of_any_source_has_the_same_timestamp(
    kind: str, sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-65920080-000000000000000000000001")

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    context = LambdaContext()
    for _ in range(2):
        handler(EVENTS[kind], context)
    first, second = sent.events
    assert first == {**second, "properties": first["properties"]}
    assert first["timestamp"][:16] == "2024-01-01T00:00"


@pytest.mark.parametrize(
    ("record", "id"),
    [(SES, "m-1"), (S3, "b/k/0055AED6DCD90281E5"), (KAFKA, "orders/0/7")],
    ids=["SES", "S3", "Kafka"],
)
def test_records_of_ses_s3_and_kafka_are_tagged_with_their_id(
    record: Any, id: str, sent: MemoryTransport
) -> None:
    with leanbase.record_context(record):
        leanbase.capture("e", distinct_id="u")
    assert sent.events[0]["properties"]["messaging.message.id"] == id
