"""The same ids for the same work, and a context for each record of a batch."""

from __future__ import annotations

import base64
import os
import threading
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

REQUEST = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def sent(memory: MemoryTransport) -> MemoryTransport:
    leanbase.transport = memory
    return memory


def identity(event: dict[str, Any]) -> tuple[str, ...]:
    return tuple(event[name] for name in ("event", "uuid", "timestamp", "distinct_id"))


def context(request_id: str = REQUEST) -> LambdaContext:
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
def test_a_record_that_comes_again_sends_the_same_events_at_its_own_time(
    record: dict[str, Any], sent: MemoryTransport
) -> None:
    """In another invocation, and in another batch."""

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        for each in event["Records"]:
            with leanbase.record_context(each):
                leanbase.capture("shipped", distinct_id="u")
                leanbase.capture("shipped", distinct_id="u")

    other = {**SQS, "messageId": "another"}
    handler({"Records": [record, other]}, context())
    handler({"Records": [record]}, context("another request"))
    first, again = sent.events[:2], sent.events[4:]
    assert [*map(identity, first)] == [*map(identity, again)]
    assert {event["timestamp"] for event in first} == {"2024-01-01T00:00:10.500000+00:00"}
    assert len({event["uuid"] for event in sent.events}) == 4
    assert first[0]["properties"]["messaging.message.id"] == (
        record.get("messageId")
        or record.get("kinesis", {}).get("sequenceNumber")
        or record.get("dynamodb", {}).get("SequenceNumber")
        or record["Sns"]["MessageId"]
    )


def test_records_have_contexts_of_their_own_in_that_of_the_invocation(sent: MemoryTransport) -> None:
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
    assert one["properties"]["faas.invocation_id"] == REQUEST
    # Without idempotent=True ids and times are those of any event.
    assert one["timestamp"][:4] != "2018"
    assert one["uuid"][14] == "7"


def test_the_same_record_in_two_scopes_of_an_invocation_goes_on_counting(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        for _ in range(2):
            with leanbase.record_context(event["Records"][0]):
                leanbase.capture("seen", distinct_id="u")
        leanbase.capture("seen", distinct_id="u")

    handler({"Records": [SQS]}, context())
    assert len({event["uuid"] for event in sent.events}) == 3


def test_a_batch_processor_with_one_record_that_fails(sent: MemoryTransport) -> None:
    """Powertools sees the exception; it is captured with the record's identity, and the others go on."""
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
    answer = handler(event, context())
    assert answer["batchItemFailures"] == [{"itemIdentifier": event["Records"][1]["messageId"]}]
    events = CapturedEvents(sent.events)
    events.assert_captured("order shipped", times=3)
    assert events.assert_captured("$exception", times=1)["distinct_id"] == "user_2"
    handler({"Records": [event["Records"][1]]}, context("the second attempt"))
    assert identity(sent.events[-2]) == identity(events.named("order shipped")[1])
    assert identity(sent.events[-1]) == identity(events.named("$exception")[0])


@pytest.mark.parametrize(
    "record", [None, 3, {}, {"messageId": 7}, {"kinesis": []}, {"attributes": "x", "Sns": 1}]
)
def test_a_record_of_no_known_kind_is_survived(record: Any, sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        with leanbase.record_context(record):
            leanbase.capture("seen", distinct_id="u")

    handler({"Records": [record]}, context())
    assert len(sent.events) == 1


def test_record_context_by_itself_is_a_context(sent: MemoryTransport) -> None:
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
    ("event", "moment"),
    [
        ({"detail-type": "t", "time": "2024-01-01T00:00:10Z"}, "2024-01-01T00:00:10+00:00"),
        ({"requestContext": {"timeEpoch": 1704067210500}}, "2024-01-01T00:00:10.500000+00:00"),
        ({"requestContext": {"requestTimeEpoch": 1704067210500}}, "2024-01-01T00:00:10.500000+00:00"),
        ({"Records": [{"eventTime": "2024-01-01T00:00:10.500Z"}]}, "2024-01-01T00:00:10.500000+00:00"),
    ],
    ids=["EventBridge", "HTTP API", "REST API", "S3"],
)
def test_two_attempts_send_the_same_events_at_the_events_own_time(
    event: Any, moment: str, sent: MemoryTransport
) -> None:
    order(event, context())
    order(event, context())
    assert [*map(identity, sent.events[:7])] == [*map(identity, sent.events[7:])]
    assert {each["timestamp"] for each in sent.events} == {moment}
    assert len({each["uuid"] for each in sent.events}) == 7


def test_without_a_time_in_the_event_it_is_the_traces(
    sent: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-6592008a-0123456789abcdef01234567;Sampled=0")
    order({}, context())
    order({}, context())
    assert [*map(identity, sent.events[:7])] == [*map(identity, sent.events[7:])]
    assert sent.events[0]["timestamp"] == "2024-01-01T00:00:10+00:00"


def test_what_the_caller_gives_stays(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u", uuid=REQUEST, timestamp="2026-05-05T05:05:05Z")

    handler({"detail-type": "t", "time": "2024-01-01T00:00:10Z"}, context())
    assert identity(sent.events[0])[1:3] == (REQUEST, "2026-05-05T05:05:05+00:00")


def test_functions_and_requests_do_not_share_ids(sent: MemoryTransport) -> None:
    for name, request in (("a", "r1"), ("b", "r1"), ("a", "r2")):
        order({}, LambdaContext(function_name=name, aws_request_id=request))
    assert len({event["uuid"] for event in sent.events}) == 21


def test_a_handler_called_by_another_goes_on_with_its_ids(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def outer(event: Any, context: Any) -> None:
        order(event, context)
        order(event, context)

    for _ in range(2):
        outer({"detail-type": "t", "time": "2024-01-01T00:00:10Z"}, context())
    assert [*map(identity, sent.events[:14])] == [*map(identity, sent.events[14:])]
    assert len({event["uuid"] for event in sent.events}) == 14


def test_threads_of_an_invocation_never_share_an_id(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        with ThreadPoolExecutor(8) as executor:
            for _ in range(80):
                executor.submit(copy_context().run, leanbase.capture, "e", distinct_id="u")

    handler({}, context())
    assert len({event["uuid"] for event in sent.events}) == 80


def test_outside_of_such_handlers_nothing_changes(sent: MemoryTransport) -> None:
    order({}, context())
    leanbase.capture("order created", distinct_id="u")
    thread = threading.Thread(target=leanbase.capture, args=("order created",), kwargs={"distinct_id": "u"})
    thread.start()
    thread.join()
    assert [event["uuid"][14] for event in sent.events[-2:]] == ["7", "7"]


def test_a_forked_child_has_ids_of_its_own(sent: MemoryTransport) -> None:
    """Those that it would derive are its parent's next."""

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> str:
        there, here = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            os.write(here, str(leanbase.capture("e", distinct_id="child")).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        leanbase.capture("e", distinct_id="parent")
        return os.read(there, 100).decode()

    assert handler({}, context()) != sent.events[0]["uuid"]


def test_halves_of_surrogate_pairs_in_a_name_are_survived(sent: MemoryTransport) -> None:
    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("x\ud800", distinct_id="u")

    handler({}, context())
    handler({}, context())
    assert sent.events[0]["uuid"] == sent.events[1]["uuid"]


def test_a_whole_event_in_place_of_a_record_is_told(caplog: pytest.LogCaptureFixture) -> None:
    lambda_records._has_warned = False
    for _ in range(2):
        with leanbase.record_context({"Records": [SQS]}):
            pass
    assert caplog.text.count("pass one entry of its Records") == 1


def test_something_else_than_a_client_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    wrong: Any = "client"
    with leanbase.record_context(SQS, client=wrong):
        pass
    assert "client must be a Leanbase, not str" in caplog.text


def test_without_a_request_id_records_have_the_same_ids_again(
    sent: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """A context is what those who try a handler out leave out."""
    invocation._warn_of_no_request_id.cache_clear()

    @leanbase.lambda_handler(idempotent=True)
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("outside", distinct_id="u")
        with leanbase.record_context(SQS):
            leanbase.capture("inside", distinct_id="u")

    for _ in range(2):
        handler({}, None)
    outside, inside, outside_again, inside_again = map(identity, sent.events)
    assert inside == inside_again
    assert outside != outside_again
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
def test_an_event_of_any_source_has_the_same_time_at_each_attempt(
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
def test_records_of_mail_objects_and_kafka_are_known(record: Any, id: str, sent: MemoryTransport) -> None:
    with leanbase.record_context(record):
        leanbase.capture("e", distinct_id="u")
    assert sent.events[0]["properties"]["messaging.message.id"] == id
