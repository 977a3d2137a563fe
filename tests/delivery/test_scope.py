"""Delivery scopes, deadlines and receipts.

Most tests use a `RecordingTransport`, and assert how many events each send had and how much time was left for
it.
"""

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
from tests.support.threads import run_in_threads, start_thread
from tests.support.transports import RaisingTransport


class RecordingTransport(BaseTransport):
    """Delivers everything.

    Attributes:
        sizes: The number of events of each send.
        seconds: The time that each send had until its deadline.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seconds: list[float] = []

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        self.sizes.append(len(events))
        self.seconds.append(deadline.remaining())
        return Receipt(delivered=len(events))


@pytest.fixture
def recording() -> RecordingTransport:
    return RecordingTransport()


@pytest.mark.rule("G-2", "Q-54")
def test_a_scope_sends_once_when_it_closes_even_if_its_body_raises(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with pytest.raises(ZeroDivisionError), client.delivery_scope():
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
        assert recording.sizes == []
        raise ZeroDivisionError
    assert recording.sizes == [2]


@pytest.mark.rule("Q-54")
def test_a_scope_sends_the_events_of_each_client_through_its_own_transport(
    recording: RecordingTransport, memory: MemoryTransport
) -> None:
    first, second = Leanbase("k", transport=recording), Leanbase("k", transport=memory)
    with first.delivery_scope():
        first.capture("a", distinct_id="u")
        second.capture("b", distinct_id="u")
        first.capture("c", distinct_id="u")
    assert recording.sizes == [2]
    assert [event["event"] for event in memory.events] == ["b"]


@pytest.mark.rule("Q-54")
def test_a_scope_sends_early_at_a_hundred_events(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope():
        for number in range(250):
            client.capture("e", distinct_id=number)
        assert recording.sizes == [100, 100]
    assert recording.sizes == [100, 100, 50]


@pytest.mark.rule("Q-54")
def test_a_scope_sends_early_at_one_mebibyte(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope():
        for number in range(5):
            client.capture("e", distinct_id=number, properties={"p": "x" * 400_000})
    assert recording.sizes == [3, 2]


def test_with_flush_each_every_capture_sends_even_inside_a_collecting_scope(
    recording: RecordingTransport,
) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope(), client.delivery_scope(flush="each"):
        client.capture("a", distinct_id="u")
        client.capture("b", distinct_id="u")
        assert recording.sizes == [1, 1]


@pytest.mark.rule("Q-54")
def test_a_nested_scope_sends_its_own_events_when_it_closes(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope():
        client.capture("outer", distinct_id="u")
        with client.delivery_scope():
            client.capture("inner", distinct_id="u")
        assert recording.sizes == [1]
    assert recording.sizes == [1, 1]


@pytest.mark.rule("G-2", "G-4")
def test_threads_and_tasks_with_a_copied_context_are_collected_and_other_threads_send(
    recording: RecordingTransport,
) -> None:
    client = Leanbase("k", transport=recording)

    async def tasks() -> None:
        await asyncio.gather(*(asyncio.to_thread(client.capture, "e", distinct_id=n) for n in range(3)))

    with client.delivery_scope():
        copied = contextvars.copy_context()
        run_in_threads(lambda: copied.run(client.capture, "e", distinct_id="u"))
        run_in_threads(lambda: client.capture("e", distinct_id="u"))
        assert recording.sizes == [1]
        asyncio.run(tasks())
        assert recording.sizes == [1]
    assert recording.sizes == [1, 4]


@pytest.mark.rule("Q-53")
def test_a_capture_in_the_context_of_a_closed_scope_sends_at_once(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope():
        late = contextvars.copy_context()
        client.capture("in time", distinct_id="u")
    late.run(client.capture, "late", distinct_id="u")
    assert recording.sizes == [1, 1]


@pytest.mark.rule("G-4", "Q-57")
def test_captures_during_the_close_of_their_scope_are_all_delivered(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)

    def work() -> None:
        for _ in range(200):
            client.capture("e", distinct_id="u")

    with client.delivery_scope():
        threads = [start_thread(contextvars.copy_context().run, work) for _ in range(4)]
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert sum(recording.sizes) == 800
    assert client.stats()["delivered"] == 800


@pytest.mark.rule("Q-31")
def test_a_flush_inside_a_scope_sends_the_collected_events(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope():
        client.capture("a", distinct_id="u")
        assert client.flush().delivered == 1
        assert recording.sizes == [1]
    assert recording.sizes == [1]


def test_the_deadline_of_a_scope_limits_every_send_inside_it(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording, send_deadline=5.0)
    for policy in ("end", "each"):
        scope = DeliveryScope(policy, Deadline.after(1.0))
        with activate(scope):
            client.capture("e", distinct_id="u")
            assert send_deadline(5.0).remaining() <= 1.0
            scope.close()
    client.capture("e", distinct_id="u")
    assert all(0.5 < seconds <= 1.0 for seconds in recording.seconds[:2])
    assert 4.5 < recording.seconds[2] <= 5.0


@pytest.mark.rule("Q-5", "Q-57")
def test_a_scope_that_takes_over_sends_the_events_in_flight_again() -> None:
    """A process that is about to be killed cannot wait for the outcome of a send in another thread."""
    is_sending, may_continue = threading.Event(), threading.Event()
    sent: list[list[str]] = []

    class SlowFirstSend(BaseTransport):
        def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
            sent.append([event.uuid for event in events])
            if len(sent) == 1:
                is_sending.set()
                may_continue.wait(5)
            return Receipt(delivered=len(events))

    client = Leanbase("k", transport=SlowFirstSend())
    scope = DeliveryScope()
    uuids: list[Any] = []
    with activate(scope):
        uuids = [client.capture("e", distinct_id=number) for number in range(99)]
        context = contextvars.copy_context()
        thread = start_thread(context.run, client.capture, "e", distinct_id="hundredth")
        is_sending.wait(5)
        uuids.append(client.capture("after", distinct_id="u"))
        scope.closed = True
        scope.send(take_over=True)
        may_continue.set()
        thread.join()
    assert len(sent[0]) == 100
    assert sent[1] == [*sent[0], uuids[-1]]
    assert client.stats() == {
        "captured": 101, "delivered": 101, "handed_off": 0, "spooled": 0, "retained": 0, "dropped": {},
    }  # fmt: skip


def test_the_earlier_deadline_counts_and_expires() -> None:
    soon, later = Deadline.after(0.05), Deadline.after(5)
    assert soon.earlier(later) is later.earlier(soon) is soon.earlier(None) is soon
    assert not soon.expired
    assert 0 < soon.remaining() <= 0.05
    time.sleep(0.06)
    assert soon.expired
    assert soon.remaining() == 0
    assert Deadline.after(-3).expired


def test_a_stopwatch_uses_the_clock_that_has_advanced_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stopwatch = Stopwatch()
    real = time.time
    monkeypatch.setattr("leanbase.transports.deadline.time.time", lambda: real() + 100)
    assert 100 <= stopwatch.seconds() < 101


@pytest.mark.rule("Q-58")
def test_receipts_can_be_added_and_have_a_readable_repr() -> None:
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


@pytest.mark.rule("Q-58")
def test_the_receipt_of_a_scope_has_the_outcomes_of_all_its_sends(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording)
    with client.delivery_scope() as scope:
        for number in range(120):
            client.capture("e", distinct_id=number)
    assert scope.receipt.delivered == 120


def test_an_unknown_flush_policy_is_an_error(client: Leanbase) -> None:
    with pytest.raises(ValueError, match="'ecah'"):
        client.delivery_scope(flush="ecah")  # type: ignore[arg-type]


def test_the_deadline_of_a_scope_also_limits_threads_outside_it(recording: RecordingTransport) -> None:
    """A handler that waits for its thread pool must not time out because a thread captures."""
    client = Leanbase("k", transport=recording, send_deadline=5.0)
    with activate(DeliveryScope("end", Deadline.after(1.0))):
        run_in_threads(lambda: client.capture("e", distinct_id="u"))
    client.capture("e", distinct_id="u")
    assert recording.seconds[0] <= 1.0
    assert recording.seconds[1] > 4.0


@pytest.mark.rule("Q-59")
def test_an_interrupt_while_a_scope_closes_costs_other_clients_no_events(memory: MemoryTransport) -> None:
    first = Leanbase("k", transport=RaisingTransport(KeyboardInterrupt()))
    second = Leanbase("k", transport=memory)
    with pytest.raises(KeyboardInterrupt), first.delivery_scope():
        first.capture("of the first", distinct_id="u")
        second.capture("of the second", distinct_id="u")
    assert first.stats()["retained"] == second.stats()["retained"] == 1
    assert second.flush()
    assert [event["event"] for event in memory.events] == ["of the second"]


@pytest.mark.rule("Q-59")
@pytest.mark.parametrize("boundary", ["job", "lambda_handler"])
def test_an_interrupt_while_an_exception_is_captured_costs_no_earlier_events(
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


def test_sends_during_the_initialisation_are_limited_inside_and_outside_a_scope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "_initialisation", None)
    delivery.limit_initialisation(2.0, lambda: True)
    assert 1 < send_deadline(10.0).remaining() <= 2
    with activate(DeliveryScope()):
        assert 1 < send_deadline(10.0).remaining() <= 2


@pytest.mark.rule("Q-54", "Q-58", "W-22")
def test_a_scope_sends_early_at_flush_at_events(recording: RecordingTransport) -> None:
    client = Leanbase("k", transport=recording, flush_at=20)
    with client.delivery_scope() as scope:
        for number in range(50):
            client.capture("e", distinct_id=number)
    assert recording.sizes == [20, 20, 10]
    assert scope.receipt.delivered == 50


def test_a_scope_without_a_deadline_sends_after_flush_interval(recording: RecordingTransport) -> None:
    """A worker loop under `job` must not collect for hours. An invocation has a deadline, and ends."""
    client = Leanbase("k", transport=recording, flush_interval=0.05)
    for deadline, sends in ((None, 1), (Deadline.after(60), 0)):
        recording.sizes.clear()
        scope = DeliveryScope("end", deadline)
        with activate(scope):
            client.capture("first", distinct_id="u")
            time.sleep(0.1)
            client.capture("second", distinct_id="u")
            assert len(recording.sizes) == sends
            client._close_scope(scope)
        assert sum(recording.sizes) == 2


def test_scopes_opened_in_the_contexts_of_closed_scopes_are_garbage_collected(client: Leanbase) -> None:
    """A timer of an event loop that starts itself again inherits the context of the call before."""
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


def test_a_scope_collects_no_more_once_its_context_manager_is_garbage_collected(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """An interrupt at the first instruction of `__exit__` leaves a scope in this state."""
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
