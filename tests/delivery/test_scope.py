"""Delivery scopes, deadlines and receipts."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.delivery import scope as delivery
from leanbase.delivery.scope import DeliveryScope, activate, open_scope, send_deadline, unfinished_scopes
from leanbase.events.encoding import EncodedEvent
from leanbase.transports import BaseTransport, MemoryTransport
from leanbase.transports.deadline import Deadline, Stopwatch
from leanbase.transports.receipt import Receipt


class Batches(BaseTransport):
    """Notes the batches it is given, and when each had to be done."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seconds: list[float] = []
        self.threads: list[str] = []

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        self.sizes.append(len(events))
        self.seconds.append(deadline.remaining())
        self.threads.append(threading.current_thread().name)
        return Receipt(delivered=len(events))


@pytest.fixture
def batches() -> Batches:
    return Batches()


def test_a_scope_collects_and_sends_once_also_when_the_body_raises(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with pytest.raises(ZeroDivisionError), client.delivery_scope():
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
        assert batches.sizes == []
        raise ZeroDivisionError
    assert batches.sizes == [2]


def test_events_of_several_clients_go_to_their_own_transport(
    batches: Batches, memory: MemoryTransport
) -> None:
    first, second = Leanbase("k", transport=batches), Leanbase("k", transport=memory)
    with first.delivery_scope():
        first.capture("a", distinct_id="u")
        second.capture("b", distinct_id="u")
        first.capture("c", distinct_id="u")
    assert batches.sizes == [2]
    assert [event["event"] for event in memory.events] == ["b"]


def test_a_hundred_events_leave_early(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope():
        for number in range(250):
            client.capture("e", distinct_id=number)
        assert batches.sizes == [100, 100]
    assert batches.sizes == [100, 100, 50]


def test_a_mebibyte_leaves_early(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope():
        for number in range(5):
            client.capture("e", distinct_id=number, properties={"p": "x" * 400_000})
    assert batches.sizes == [3, 2]


def test_flush_each_sends_in_every_capture_also_inside_a_collecting_scope(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope(), client.delivery_scope(flush="each"):
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
        assert batches.sizes == [1, 1]


def test_nested_scopes_each_send_their_own(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope():
        client.capture("outer", distinct_id="u")
        with client.delivery_scope():
            client.capture("inner", distinct_id="u")
        assert batches.sizes == [1]
    assert batches.sizes == [1, 1]


def test_threads_and_tasks_that_carry_the_context_are_collected_others_send(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)

    async def tasks() -> None:
        await asyncio.gather(*(asyncio.to_thread(client.capture, "e", distinct_id=n) for n in range(3)))

    with client.delivery_scope():
        carrying = contextvars.copy_context()
        for target in (
            lambda: carrying.run(client.capture, "e", distinct_id="u"),
            lambda: client.capture("e", distinct_id="u"),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert batches.sizes == [1]
        asyncio.run(tasks())
        assert batches.sizes == [1]
    assert batches.sizes == [1, 4]


def test_a_thread_that_outlives_the_scope_sends_for_itself(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope():
        late = contextvars.copy_context()
        client.capture("in time", distinct_id="u")
    late.run(client.capture, "late", distinct_id="u")
    assert batches.sizes == [1, 1]


def test_captures_racing_with_the_close_are_all_delivered(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    threads: list[threading.Thread] = []

    def work() -> None:
        for _ in range(200):
            client.capture("e", distinct_id="u")

    with client.delivery_scope():
        for _ in range(4):
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=context.run, args=(work,)))
            threads[-1].start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert sum(batches.sizes) == 800
    assert client.stats()["delivered"] == 800


def test_flush_inside_a_scope_sends_what_it_collected(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope():
        client.capture("a", distinct_id="u")
        assert client.flush().delivered == 1
        assert batches.sizes == [1]
    assert batches.sizes == [1]


def test_the_scopes_deadline_limits_every_send_inside(batches: Batches) -> None:
    client = Leanbase("k", transport=batches, send_deadline=5.0)
    for policy in ("end", "each"):
        scope = DeliveryScope(policy, Deadline.after(1.0))
        with activate(scope):
            client.capture("e", distinct_id="u")
            assert send_deadline(5.0).remaining() <= 1.0
            scope.close()
    client.capture("e", distinct_id="u")
    assert all(0.5 < seconds <= 1.0 for seconds in batches.seconds[:2])
    assert 4.5 < batches.seconds[2] <= 5.0


def test_resend_all_also_sends_what_is_on_its_way() -> None:
    """A process that is about to be killed sends the batch in flight again, rather than not at all."""
    under_way, proceed = threading.Event(), threading.Event()
    sent: list[list[str]] = []

    class Slow(BaseTransport):
        def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
            sent.append([event.uuid for event in events])
            if len(sent) == 1:
                under_way.set()
                proceed.wait(5)
            return Receipt(delivered=len(events))

    client = Leanbase("k", transport=Slow())
    scope = DeliveryScope()
    uuids: list[Any] = []
    with activate(scope):
        uuids = [client.capture("e", distinct_id=number) for number in range(99)]
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(client.capture, "e"),
            kwargs={"distinct_id": "hundredth"},
        )
        thread.start()
        under_way.wait(5)
        uuids.append(client.capture("after", distinct_id="u"))
        scope.closed = True
        scope.send(take_over=True)
        proceed.set()
        thread.join()
    assert len(sent[0]) == 100
    assert sent[1] == [*sent[0], uuids[-1]]
    assert client.stats() == {
        "captured": 101, "delivered": 101, "handed_off": 0, "spooled": 0, "retained": 0, "dropped": {},
    }  # fmt: skip


def test_deadlines() -> None:
    soon, later = Deadline.after(0.05), Deadline.after(5)
    assert soon.earlier(later) is later.earlier(soon) is soon.earlier(None) is soon
    assert not soon.expired
    assert 0 < soon.remaining() <= 0.05
    time.sleep(0.06)
    assert soon.expired
    assert soon.remaining() == 0
    assert Deadline.after(-3).expired


def test_elapsed_believes_the_clock_that_saw_more(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = Stopwatch()
    real = time.time
    monkeypatch.setattr("leanbase.transports.deadline.time.time", lambda: real() + 100)
    assert 100 <= elapsed.seconds() < 101


def test_receipts_add_up_and_read_well() -> None:
    events = [EncodedEvent(f"u{number}", b"{}") for number in range(3)]
    error = RuntimeError("away")
    receipt = (
        Receipt(delivered=2, handed_off=1)
        + Receipt.retaining(events[:1], "unavailable", error)
        + Receipt.dropping(events[1:], "rejected", error)
    )
    assert (receipt.delivered, receipt.handed_off, receipt.spooled, receipt.retained) == (2, 1, 0, 1)
    assert receipt.dropped == {"rejected": 2}
    assert not receipt
    assert not receipt.without(events[:1])
    assert receipt.without(events)
    assert [each.uuid for each in receipt.undelivered] == ["u0", "u1", "u2"]
    assert repr(receipt) == "<Receipt delivered=2, handed_off=1, retained=1, dropped={'rejected': 2}>"
    assert repr(Receipt()) == "<Receipt nothing to do>"
    assert Receipt()
    assert "u0 retained: unavailable" in repr(receipt.undelivered[0])


def test_a_scopes_receipt_says_what_became_of_its_events(batches: Batches) -> None:
    client = Leanbase("k", transport=batches)
    with client.delivery_scope() as scope:
        for number in range(120):
            client.capture("e", distinct_id=number)
    assert scope.receipt.delivered == 120
    with pytest.raises(ValueError, match="'ecah'"):
        client.delivery_scope(flush="ecah")  # type: ignore[arg-type]


def test_a_thread_without_the_scope_still_keeps_to_its_deadline(batches: Batches) -> None:
    """A handler that waits for its thread pool must not time out because of a capture in it."""
    client = Leanbase("k", transport=batches, send_deadline=5.0)
    with activate(DeliveryScope("end", Deadline.after(1.0))):
        thread = threading.Thread(target=client.capture, args=("e",), kwargs={"distinct_id": "u"})
        thread.start()
        thread.join()
    client.capture("e", distinct_id="u")
    assert batches.seconds[0] <= 1.0
    assert batches.seconds[1] > 4.0


class Interrupted(BaseTransport):
    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        raise KeyboardInterrupt


def test_an_interrupted_end_of_a_scope_leaves_the_other_clients_their_events(memory: MemoryTransport) -> None:
    first, second = Leanbase("k", transport=Interrupted()), Leanbase("k", transport=memory)
    with pytest.raises(KeyboardInterrupt), first.delivery_scope():
        first.capture("of the first", distinct_id="u")
        second.capture("of the second", distinct_id="u")
    assert first.stats()["retained"] == second.stats()["retained"] == 1
    assert second.flush()
    assert [event["event"] for event in memory.events] == ["of the second"]


@pytest.mark.parametrize("boundary", ["job", "lambda_handler"])
def test_an_interrupt_while_an_exception_is_captured_does_not_cost_the_events(
    memory: MemoryTransport, boundary: str
) -> None:
    def interrupt(event: Any) -> Any:
        if event["event"] == "$exception":
            raise KeyboardInterrupt
        return event

    client = Leanbase("k", transport=memory, before_send=interrupt)

    def work(*arguments: object) -> None:
        client.capture("before", distinct_id="u")
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        getattr(leanbase, boundary)(client=client)(work)({}, None)
    assert [event["event"] for event in memory.events] == ["before"]


def test_what_a_process_sends_while_it_initialises_is_limited_also_in_a_scope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "_initialisation", None)
    delivery.limit_initialisation(2.0, lambda: True)
    assert 1 < send_deadline(10.0).remaining() <= 2
    with activate(DeliveryScope()):
        assert 1 < send_deadline(10.0).remaining() <= 2


def test_a_scope_sends_batches_of_its_clients_flush_at(batches: Batches) -> None:
    client = Leanbase("k", transport=batches, flush_at=20)
    with client.delivery_scope() as scope:
        for number in range(50):
            client.capture("e", distinct_id=number)
    assert batches.sizes == [20, 20, 10]
    assert scope.receipt.delivered == 50


def test_a_long_scope_sends_after_flush_interval_and_one_with_a_deadline_does_not(batches: Batches) -> None:
    """A worker loop under `job` is not silent for hours; an invocation has an end."""
    client = Leanbase("k", transport=batches, flush_interval=0.05)
    for deadline, sent in ((None, 1), (Deadline.after(60), 0)):
        batches.sizes.clear()
        scope = DeliveryScope("end", deadline)
        with activate(scope):
            client.capture("first", distinct_id="u")
            time.sleep(0.1)
            client.capture("second", distinct_id="u")
            assert len(batches.sizes) == sent
            client._close_scope(scope)
        assert sum(batches.sizes) == 2


def test_scopes_that_are_opened_in_contexts_of_earlier_ones_do_not_stay(client: Leanbase) -> None:
    """As by a ticker of an event loop that starts itself anew."""
    scopes: list[weakref.ref[DeliveryScope]] = []

    async def run() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tick(number: int) -> None:
            with client.delivery_scope() as scope:
                scopes.append(weakref.ref(scope))
                client.capture("tick", distinct_id="u")
                if number:
                    loop.call_soon(tick, number - 1)
                else:
                    gc.collect()
                    done.set()

        tick(200)
        await done.wait()
        assert sum(scope() is not None for scope in scopes) < 5

    asyncio.run(run())


def test_a_scope_whose_with_block_is_gone_collects_no_more(client: Leanbase, memory: MemoryTransport) -> None:
    """As after an interrupt at the first instruction of the block's end."""
    with client.delivery_scope() as outer:
        left_open = client.delivery_scope()
        scope = left_open.__enter__()
        client.capture("collected", distinct_id="u")
        del left_open
        client.capture("next", distinct_id="u")
        assert scope.closed
        assert open_scope() is outer
    assert [event["event"] for event in memory.events] == ["collected", "next"]
    assert open_scope() is None
    assert not unfinished_scopes()
