"""Events on their whole way: from `capture` through a queue and the relay to the ingestion server.

The queue is in moto, a process of its own, over real HTTP. The test plays the part of Lambda's poller: it receives
messages, invokes the relay with them in this process, and deletes those that did not fail.
"""

from __future__ import annotations

import math
import os
import random
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.local.server import LocalServer
from tests.support.moto_server import CREDENTIALS, MotoServer

EVENTS = 10_000
LARGE_EVENTS = 150


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def drain(moto: MotoServer, queue: str, relay: Any) -> int:
    """Invoke the relay until the queue is empty, and return the number of invocations."""
    invocations = 0
    while not moto.is_empty(queue):
        event = moto.receive(queue, wait=1)
        if event is not None:
            invocations += 1
            moto.delete(queue, event, relay(event))
    return invocations


@pytest.mark.rule("Q-5", "Q-58", "E-6")
@pytest.mark.slow
def test_ten_thousand_events_of_all_sizes_arrive_unchanged_and_once(
    moto: MotoServer, configured: Any, local: LocalServer
) -> None:
    queue = moto.queue(VisibilityTimeout="60")
    client = Leanbase(transport="sqs", queue_url=queue)
    dice = random.Random(7)
    sizes = [
        int(math.exp(dice.uniform(math.log(100), math.log(3_000)))) for _ in range(EVENTS - LARGE_EVENTS)
    ]
    sizes += [
        int(math.exp(dice.uniform(math.log(3_000), math.log(800_000)))) for _ in range(LARGE_EVENTS - 2)
    ]
    sizes += [100, 800_000]
    dice.shuffle(sizes)
    sent: dict[str, dict[str, Any]] = {}
    with client.delivery_scope() as scope:
        for number, size in enumerate(sizes):
            string = os.urandom(size // 2).hex() if number % 2 else ("text ü🎉 \ufffe " * size)[: size // 2]
            properties = {"number": number, "string": string, "nested": {"list": [1, 2.5, None, True, "ü"]}}
            uuid = client.capture(
                f"event {number}", distinct_id=f"user {number % 100}", properties=properties
            )
            assert uuid
            sent[uuid] = properties
    assert scope.receipt.handed_off == EVENTS
    assert drain(moto, queue, configured(local)) < EVENTS / 100
    received = local.store.events(0)
    assert len(received) == EVENTS
    assert [each["times_received"] for each in received] == [1] * EVENTS
    for each in received:
        expected = sent.pop(each["uuid"])
        assert {name: each["properties"][name] for name in expected} == expected
    assert not sent


@pytest.mark.rule("Q-1")
def test_a_fifo_queue_preserves_the_order_of_the_events_of_each_user(
    moto: MotoServer, configured: Any, local: LocalServer
) -> None:
    queue = moto.queue(fifo=True)
    client = Leanbase(transport="sqs", queue_url=queue)
    for batch in range(5):
        with client.delivery_scope():
            for number in range(40):
                client.capture(
                    "e", distinct_id=f"user {number % 4}", properties={"number": batch * 40 + number}
                )
    drain(moto, queue, configured(local))
    received = local.store.events(0)
    assert len(received) == 200
    for user in range(4):
        numbers = [each["properties"]["number"] for each in received if each["distinct_id"] == f"user {user}"]
        assert numbers == sorted(numbers)
