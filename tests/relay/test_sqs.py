"""The relay on an SQS event source: what reaches the ingestion server, and which messages come again."""

from __future__ import annotations

import base64
import gzip
import json
import time
import tracemalloc
from typing import Any

import pytest

from leanbase.errors import ConfigError
from leanbase.local.server import LocalServer
from leanbase.transports import handoff
from tests.relay.sources import Context, event, sqs_event
from tests.support.fault_server import Behaviour, FaultServer, Request


def failed(answer: Any) -> list[str]:
    return [each["itemIdentifier"] for each in answer["batchItemFailures"]]


def test_the_records_of_an_invocation_are_one_request(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    events = [event(f"e{number}", properties={"number": number, "text": "ü🎉"}) for number in range(30)]
    messages = [handoff.encode(events[:10]), handoff.encode_gzip(events[10:20]), handoff.encode(events[20:])]
    assert relay(sqs_event(*messages)) == {"batchItemFailures": []}
    (request,) = server.requests
    assert request.envelope["api_key"] == "phc_relay"
    assert request.events == [each.decode() for each in events]


def test_many_events_keep_within_the_limits_of_a_request(configured: Any, local: LocalServer) -> None:
    relay = configured(local)
    messages = [
        handoff.encode_gzip([event(properties={"text": "x" * 5000}) for _ in range(150)]) for _ in range(10)
    ]
    assert failed(relay(sqs_event(*messages))) == []
    received = local.store.events(0)
    assert len(received) == 1500
    assert len({each["request"] for each in received}) == 15


def test_connections_are_kept_between_invocations(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    for _ in range(3):
        relay(sqs_event(handoff.encode([event()])))
    assert server.connections == 1


def test_nothing_that_a_message_says_changes_key_or_host(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    message = json.loads(handoff.encode([event()]))
    message |= {"api_key": "phc_evil", "host": "http://127.0.0.1:1"}
    message["events"][0] |= {"api_key": "phc_evil", "token": "phc_evil"}
    assert failed(relay(sqs_event(json.dumps(message)))) == []
    assert "evil" not in server.requests[0].text


def test_messages_that_can_never_be_delivered_fail_alone(
    configured: Any, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    relay = configured(server)
    bodies: list[str | bytes] = [
        handoff.encode([event("first")]),
        "not valid JSON",
        '{"leanbase": 2, "events": []}',
        handoff.encode([event("second"), event("third")]),
    ]
    brought = sqs_event(*bodies)
    answer = relay(brought)
    assert failed(answer) == [record["messageId"] for record in brought["Records"][1:3]]
    assert [each["event"] for each in server.events] == ["first", "second", "third"]
    assert "is the relay older than the sender" in caplog.text


def test_what_an_outage_leaves_comes_again_and_nothing_else(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    server.script(Behaviour(), Behaviour(status=503))
    brought = sqs_event(*(handoff.encode([event() for _ in range(60)]) for _ in range(3)))
    # The second request has the rest of the second message and the third.
    assert failed(relay(brought)) == [record["messageId"] for record in brought["Records"][1:]]
    assert failed(relay({"Records": brought["Records"][1:]})) == []
    assert len({each["uuid"] for each in server.events}) == 180


def test_a_record_that_the_server_finds_malformed_fails_alone(configured: Any, server: FaultServer) -> None:
    """One bad event makes the endpoint refuse a whole request."""
    relay = configured(server)

    def picky(request: Any) -> int:
        return 400 if any(each["event"] == "poison" for each in request.events) else 200

    original = server._behave

    def behave(connection: Any, behaviour: Behaviour, request: Request) -> bool:
        return original(connection, Behaviour(status=picky(request)), request)

    server._behave = behave  # type: ignore[method-assign]
    brought = sqs_event(*(handoff.encode([event(name)]) for name in ("a", "poison", "b", "c")))
    assert failed(relay(brought)) == [brought["Records"][1]["messageId"]]
    accepted = [
        each["event"] for request in server.requests if picky(request) == 200 for each in request.events
    ]
    assert sorted(accepted) == ["a", "b", "c"]


def test_a_wrong_key_is_asked_about_once(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    server.always(Behaviour(status=401))
    brought = sqs_event(*(handoff.encode([event()]) for _ in range(5)))
    assert len(failed(relay(brought))) == 5
    assert len(server.requests) == 1


def test_it_ends_before_the_function_s_timeout(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    server.always(Behaviour(instead="silence"))
    started = time.monotonic()
    assert len(failed(relay(sqs_event(handoff.encode([event()])), seconds=1))) == 1
    assert time.monotonic() - started < 1


def test_an_empty_message_is_done_with(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    assert failed(relay(sqs_event('{"leanbase": 1, "events": []}'))) == []
    assert not server.requests


@pytest.mark.parametrize("name", ["LEANBASE_API_KEY", "LEANBASE_HOST"])
def test_without_key_or_host_nothing_is_taken(
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
def test_events_of_others_are_refused(configured: Any, server: FaultServer, other: Any) -> None:
    relay = configured(server)
    with pytest.raises(ConfigError, match="SQS batches and CloudWatch Logs"):
        relay(other)


def test_without_powertools_it_says_what_to_install() -> None:
    import subprocess
    import sys

    program = "import sys; sys.modules['aws_lambda_powertools'] = None\nimport leanbase.relay"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs aws_lambda_powertools: install that, or this package with the extra 'relay'" in ended.stderr
    assert Context().function_name == "relay"


def test_bombs_fail_alone_and_take_no_memory(configured: Any, server: FaultServer) -> None:
    """Ten kilobytes that unpack to millions of values, each of which Python would make an object of."""
    relay = configured(server)
    many = b"[]," * 2_700_000
    bombs = [
        b'{"leanbase":1,"events":[' + many + b"[]]}",
        b'{"leanbase":1,"events":[{"event":"e","properties":{"a":[' + many + b"[]]}}]}",
        b'{"leanbase":1,"more":[' + many + b'[]],"events":[]}',
    ]
    packed = [
        json.dumps({"leanbase": 1, "gzip": base64.b64encode(gzip.compress(bomb)).decode()}) for bomb in bombs
    ]
    good = event("good")
    tracemalloc.start()
    try:
        answer = relay(sqs_event(*packed * 3, handoff.encode([good])))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(failed(answer)) == 9
    assert server.events == [good.decode()]
    assert peak < 64 * 1024 * 1024


def test_two_messages_with_one_id_are_two_messages(configured: Any, server: FaultServer) -> None:
    relay = configured(server)
    events = [event("first"), event("second")]
    batch = sqs_event(*(handoff.encode([each]) for each in events))
    batch["Records"][1]["messageId"] = batch["Records"][0]["messageId"]
    assert failed(relay(batch)) == []
    assert server.events == [each.decode() for each in events]


def test_of_a_fifo_queue_nothing_overtakes_a_message_that_failed(
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


def test_of_a_fifo_queue_nothing_is_sent_behind_a_message_that_the_server_refused(
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


def test_reading_leaves_time_to_send_what_was_read(
    configured: Any, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = configured(server)
    decode = handoff.decode

    def slowly(*args: Any) -> Any:
        time.sleep(0.2)
        return decode(*args)

    monkeypatch.setattr(handoff, "decode", slowly)
    answer = relay(sqs_event(*(handoff.encode([event()]) for _ in range(20))), 1.5)
    sent, again = len(server.events), len(failed(answer))
    assert sent + again == 20
    assert 1 <= sent < 20


def test_the_order_of_a_messages_keys_means_nothing_and_what_follows_it_is_refused(
    configured: Any, server: FaultServer
) -> None:
    relay = configured(server)
    plain = json.loads(handoff.encode([event("e")]))
    turned = json.dumps({"more": {"a": [1]}, "events": plain["events"], "leanbase": 1}, indent=2)
    assert failed(relay(sqs_event(turned))) == []
    assert (
        len(failed(relay(sqs_event(turned + "x", turned.replace("[", "[,"), turned.replace("]", ",]"))))) == 3
    )
