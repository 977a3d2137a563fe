"""The relay with an SQS event source: what it delivers, and which messages SQS redelivers.

`failed` returns the ids of the messages that the relay reports as failed: SQS delivers these again.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import pytest

from leanbase.errors import ConfigError
from leanbase.local.server import LocalServer
from leanbase.transports import handoff
from tests.relay.sources import event, sqs_event
from tests.support.fault_server import Behaviour, FaultServer, Request


def failed(response: Any) -> list[str]:
    """Return the ids of the messages to redeliver."""
    return [each["itemIdentifier"] for each in response["batchItemFailures"]]


@pytest.mark.rule("W-6", "W-8")
def test_the_messages_of_an_invocation_are_delivered_in_one_request(
    configured: Any, server: FaultServer
) -> None:
    relay = configured(server)
    events = [event(f"e{number}", properties={"number": number, "text": "ü🎉"}) for number in range(30)]
    messages = [handoff.encode(events[:10]), handoff.encode_gzip(events[10:20]), handoff.encode(events[20:])]
    assert relay(sqs_event(*messages)) == {"batchItemFailures": []}
    (request,) = server.requests
    assert request.envelope["api_key"] == "phc_relay"
    assert request.events == [each.decode() for each in events]


@pytest.mark.rule("W-22")
def test_many_events_are_delivered_in_several_requests(configured: Any, local: LocalServer) -> None:
    relay = configured(local)
    messages = [
        handoff.encode_gzip([event(properties={"text": "x" * 5000}) for _ in range(150)]) for _ in range(10)
    ]
    assert failed(relay(sqs_event(*messages))) == []
    received = local.store.events(0)
    assert len(received) == 1500
    assert len({each["request"] for each in received}) == 15


def test_the_relay_keeps_its_connection_between_invocations(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    for _ in range(3):
        relay(sqs_event(handoff.encode([event()])))
    assert server.connections == 1


def test_a_message_cannot_change_the_key_or_host(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    message = json.loads(handoff.encode([event()]))
    message |= {"api_key": "phc_other", "host": "http://127.0.0.1:1"}
    message["events"][0] |= {"api_key": "phc_other", "token": "phc_other"}
    assert failed(relay(sqs_event(json.dumps(message)))) == []
    assert "phc_other" not in server.requests[0].text


def test_unreadable_messages_fail_alone(
    configured: Any, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    relay = configured(server)
    bodies: list[str | bytes] = [
        handoff.encode([event("first")]),
        "not valid JSON",
        '{"leanbase": 2, "events": []}',
        handoff.encode([event("second"), event("third")]),
    ]
    batch = sqs_event(*bodies)
    response = relay(batch)
    assert failed(response) == [record["messageId"] for record in batch["Records"][1:3]]
    assert [each["event"] for each in server.events] == ["first", "second", "third"]
    assert "is the relay older than the sender" in caplog.text


def test_only_messages_with_an_undelivered_event_are_redelivered(
    configured: Any, server: FaultServer
) -> None:
    relay = configured(server)
    server.script(Behaviour(), Behaviour(status=503))
    batch = sqs_event(*(handoff.encode([event() for _ in range(60)]) for _ in range(3)))
    # A request holds 100 events: the second one has the rest of the second message, and the third message.
    assert failed(relay(batch)) == [record["messageId"] for record in batch["Records"][1:]]
    assert failed(relay({"Records": batch["Records"][1:]})) == []
    assert len({each["uuid"] for each in server.events}) == 180


def test_a_message_with_a_malformed_event_fails_alone(configured: Any, server: FaultServer) -> None:
    """A single malformed event makes the endpoint reject a whole request."""
    relay = configured(server)

    def status(request: Any) -> int:
        return 400 if any(each["event"] == "malformed" for each in request.events) else 200

    original = server._behave

    def behave(connection: Any, behaviour: Behaviour, request: Request) -> bool:
        return original(connection, Behaviour(status=status(request)), request)

    server._behave = behave  # type: ignore[method-assign]
    batch = sqs_event(*(handoff.encode([event(name)]) for name in ("a", "malformed", "b", "c")))
    assert failed(relay(batch)) == [batch["Records"][1]["messageId"]]
    accepted = [
        each["event"] for request in server.requests if status(request) == 200 for each in request.events
    ]
    assert sorted(accepted) == ["a", "b", "c"]


@pytest.mark.rule("W-14")
def test_a_rejected_key_costs_one_request(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    server.always(Behaviour(status=401))
    batch = sqs_event(*(handoff.encode([event()]) for _ in range(5)))
    assert len(failed(relay(batch))) == 5
    assert len(server.requests) == 1


@pytest.mark.rule("Q-13")
def test_the_relay_returns_before_the_function_times_out(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    server.always(Behaviour(instead="silence"))
    started = time.monotonic()
    assert len(failed(relay(sqs_event(handoff.encode([event()])), seconds=1))) == 1
    assert time.monotonic() - started < 1


def test_a_message_without_events_does_not_fail(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    assert failed(relay(sqs_event('{"leanbase": 1, "events": []}'))) == []
    assert not server.requests


@pytest.mark.parametrize("name", ["LEANBASE_API_KEY", "LEANBASE_HOST"])
def test_without_a_key_or_host_the_relay_raises(
    configured: Any, server: FaultServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    relay = configured(server)
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=name):
        relay(sqs_event(handoff.encode([event()])))


@pytest.mark.parametrize(
    "other",
    [{}, {"Records": []}, {"Records": [{"eventSource": "aws:s3"}]}, {"httpMethod": "GET"}, {"awslogs": 7}],
)
def test_events_of_other_sources_are_rejected(configured: Any, server: FaultServer, other: Any) -> None:
    relay = configured(server)
    with pytest.raises(ConfigError, match="SQS batches, CloudWatch Logs"):
        relay(other)


def test_without_powertools_the_import_error_names_the_package_to_install() -> None:
    program = "import sys; sys.modules['aws_lambda_powertools'] = None\nimport leanbase.relay"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs aws_lambda_powertools: install that, or this package with the extra 'relay'" in ended.stderr


def test_decompression_bombs_fail_alone_and_take_no_memory(configured: Any, server: FaultServer) -> None:
    """Each has ten kilobytes, which decompress to millions of values. Python would make an object of each value."""
    relay = configured(server)
    many = b"[]," * 2_700_000
    bombs = [
        b'{"leanbase":1,"events":[' + many + b"[]]}",
        b'{"leanbase":1,"events":[{"event":"e","properties":{"a":[' + many + b"[]]}}]}",
        b'{"leanbase":1,"more":[' + many + b'[]],"events":[]}',
    ]
    messages = [
        json.dumps({"leanbase": 1, "gzip": base64.b64encode(gzip.compress(bomb)).decode()}) for bomb in bombs
    ]
    good = event("good")
    tracemalloc.start()
    try:
        response = relay(sqs_event(*messages * 3, handoff.encode([good])))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(failed(response)) == 9
    assert server.events == [good.decode()]
    assert peak < 64 * 1024 * 1024


def test_two_messages_with_the_same_id_are_both_delivered(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    events = [event("first"), event("second")]
    batch = sqs_event(*(handoff.encode([each]) for each in events))
    batch["Records"][1]["messageId"] = batch["Records"][0]["messageId"]
    assert failed(relay(batch)) == []
    assert server.events == [each.decode() for each in events]


@pytest.mark.rule("Q-1")
def test_messages_of_a_fifo_queue_do_not_overtake_an_unreadable_one(
    configured: Any, server: FaultServer
) -> None:
    relay = configured(server)
    first, third = event("first"), event("third")
    batch = sqs_event(handoff.encode([first]), "not readable", handoff.encode([third]))
    for record in batch["Records"]:
        record["eventSourceARN"] += ".fifo"
    ids = [record["messageId"] for record in batch["Records"]]
    assert failed(relay(batch)) == ids[1:]
    assert server.events == [first.decode()]


@pytest.mark.rule("Q-1")
def test_messages_of_a_fifo_queue_do_not_overtake_a_rejected_one(
    configured: Any, server: FaultServer
) -> None:
    relay = configured(server)
    events = [event(f"e{number}") for number in range(3)]
    batch = sqs_event(*(handoff.encode([each]) for each in events))
    for record in batch["Records"]:
        record["eventSourceARN"] += ".fifo"
    server.script(Behaviour(), Behaviour(status=400))
    assert failed(relay(batch)) == [record["messageId"] for record in batch["Records"][1:]]
    assert [each["event"] for each in server.events] == ["e0", "e1"]


def test_reading_many_messages_leaves_time_to_send(
    configured: Any, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = configured(server)
    decode = handoff.decode

    def decode_slowly(*args: Any) -> Any:
        time.sleep(0.2)
        return decode(*args)

    monkeypatch.setattr(handoff, "decode", decode_slowly)
    response = relay(sqs_event(*(handoff.encode([event()]) for _ in range(20))), 1.5)
    sent, redelivered = len(server.events), len(failed(response))
    assert sent + redelivered == 20
    assert 1 <= sent < 20


def test_the_keys_of_a_message_may_have_any_order(configured: Any, server: FaultServer) -> None:
    assert failed(configured(server)(sqs_event(reordered_message()))) == []
    assert len(server.events) == 1


def test_a_message_with_a_syntax_error_fails(configured: Any, server: FaultServer) -> None:
    message = reordered_message()
    invalid = [message + "x", message.replace("[", "[,"), message.replace("]", ",]")]
    assert len(failed(configured(server)(sqs_event(*invalid)))) == 3
    assert not server.requests


def reordered_message() -> str:
    message = json.loads(handoff.encode([event("e")]))
    return json.dumps({"more": {"a": [1]}, "events": message["events"], "leanbase": 1}, indent=2)
