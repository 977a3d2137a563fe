"""The books of a client under threads, scopes and shutdowns that meet: each event once, with one outcome."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase, Receipt
from leanbase.default import default_client
from leanbase.delivery.scope import DeliveryScope, activate, send_deadline
from leanbase.events.encoding import encode
from leanbase.events.ids import uuid7
from leanbase.handlers.sigterm import flush_all
from leanbase.transports import BaseTransport, BufferedTransport, Deadline, MemoryTransport
from leanbase.transports._ledger import Flight, Ledger
from tests.conftest import balanced


class Gate(BaseTransport):
    """Sends wait until they may go on; each returns what the next of `outcomes` says."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        self.sent.append([event.decode()["event"] for event in events])
        outcome = self.outcomes.pop(0) if self.outcomes else "delivered"
        self.begun.release()
        self.go_on.acquire(timeout=5)
        if outcome == "retained":
            return Receipt.retaining(events, "unavailable", RuntimeError("away"))
        if outcome == "rejected":
            return Receipt.dropping(events, "rejected", RuntimeError("refused"))
        return Receipt(delivered=len(events))


class Away(BaseTransport):
    sends = 0

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        self.sends += 1
        return Receipt.retaining(events, "unavailable", RuntimeError("away"))


def in_thread(call: Callable[..., object], *args: object, **kwargs: object) -> threading.Thread:
    thread = threading.Thread(target=call, args=args, kwargs=kwargs)
    thread.start()
    return thread


def test_an_event_of_no_scope_beside_events_of_one_that_are_retained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A capture without a scope while a scope has retained events is reported like any other."""
    told: list[int] = []
    transport = Away()
    client = Leanbase("k", transport=transport, on_error=lambda error, events: told.append(len(events)))
    with client.delivery_scope():
        for _ in range(100):
            client.capture("in the scope", distinct_id="u")
        gate = Gate()
        client._current().outbox._transport._inner = gate
        flushing = in_thread(client.flush)
        assert gate.begun.acquire(timeout=5)
        gate.outcomes = ["retained"]
        outside = in_thread(client.capture, "outside", distinct_id="u")
        assert gate.begun.acquire(timeout=5)
        gate.go_on.release(10)
        outside.join()
        flushing.join()
        assert told[-1] == 1
    assert "internal error" not in caplog.text
    assert balanced(client)


def event() -> Any:
    return encode({"uuid": uuid7(), "event": "e", "properties": {}})


def test_a_launch_that_loses_its_flight_begins_anew() -> None:
    """A signal handler that flushes takes the flight of a launch that it interrupts; later events join anew."""
    scope = DeliveryScope()
    ledger = Ledger(100, 1_000_000)
    flight = Flight(scope)
    ledger.collect(event(), scope)

    class Striking(dict[Any, Any]):
        armed = True

        def get(self, key: Any, default: Any = None) -> Any:
            if self.armed:
                self.armed = False
                taking = Flight()
                ledger.launch(taking, scope=scope, over=[flight])
                ledger.land(taking, Receipt(delivered=len(taking.events)))
                ledger.collect(event(), scope)
            return super().get(key, default)

    ledger._collected = Striking(ledger._collected)
    ledger.launch(flight, scope=scope)
    assert len(flight.events) == 1
    ledger.land(flight, Receipt(delivered=1))
    stats = ledger.stats()
    assert (stats["captured"], stats["delivered"], stats["retained"]) == (2, 2, 0)


def test_a_transport_is_not_given_away_before_its_client_has_ended() -> None:
    """What the shutdown has still in flight lands in the books of the client that captured it."""
    gate = Gate("retained")
    transport = BufferedTransport(gate, flush_interval=60)
    first = Leanbase("k", transport=transport)
    first.capture("of the first", distinct_id="u")
    receipts: list[Receipt] = []
    ending = in_thread(lambda: receipts.append(first.shutdown(5)))
    assert gate.begun.acquire(timeout=5)
    with pytest.raises(leanbase.errors.ConfigError, match="belongs to another client"):
        Leanbase("k", transport=transport)
    gate.go_on.release(10)
    ending.join()
    assert receipts[0].dropped == {"shutdown": 1}
    second = Leanbase("k", transport=transport)
    assert first.capture("late", distinct_id="u") is None
    second.capture("of the second", distinct_id="u")
    assert second.flush().delivered == 1
    assert first.stats()["captured"] == 2
    assert second.stats()["captured"] == 1
    assert balanced(first)
    second.shutdown()


def test_a_capture_waits_for_a_shutdown_that_has_its_transport() -> None:
    gate = Gate()
    leanbase.api_key = "k"
    leanbase.transport = BufferedTransport(gate, flush_interval=60)
    leanbase.capture("first", distinct_id="u")
    ending = in_thread(leanbase.shutdown)
    assert gate.begun.acquire(timeout=5)
    capturing = in_thread(leanbase.capture, "second", distinct_id="u")
    time.sleep(0.1)
    gate.go_on.release(10)
    ending.join()
    capturing.join()
    assert leanbase.flush().delivered == 1
    assert gate.sent == [["first"], ["second"]]
    leanbase.shutdown()


def test_sigterm_waits_for_sends_outside_of_the_open_scope() -> None:
    gate = Gate()
    client = Leanbase("k", transport=gate)
    outside = in_thread(client.capture, "outside", distinct_id="u")
    assert gate.begun.acquire(timeout=5)
    with client.delivery_scope():
        client.capture("inside", distinct_id="u")
        terminating = in_thread(flush_all, [client], Deadline.after(5))
        assert gate.begun.acquire(timeout=5)
        gate.go_on.release(1)
        terminating.join(0.3)
        assert terminating.is_alive()
        gate.go_on.release(10)
        terminating.join(5)
        assert not terminating.is_alive()
        assert client.stats()["delivered"] == 2
    outside.join()


def test_a_shutdown_that_was_interrupted_can_be_called_again() -> None:
    class Interrupts(MemoryTransport):
        times = 1

        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            if self.times:
                self.times -= 1
                raise KeyboardInterrupt
            return super().send(events, deadline=deadline)

    transport = Interrupts()
    client = Leanbase("k", transport=transport)
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        with pytest.raises(KeyboardInterrupt):
            client.shutdown()
        assert client.shutdown().delivered == 1
    assert len(transport.events) == 1
    assert client.stats()["retained"] == 0


def test_a_shutdown_inside_a_shutdown_sends_what_that_has() -> None:
    receipts: list[Receipt] = []

    class Reenters(MemoryTransport):
        armed = True

        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            if self.armed:
                self.armed = False
                receipts.append(leanbase.shutdown())
            return super().send(events, deadline=deadline)

    leanbase.api_key, leanbase.transport = "k", Reenters()
    with leanbase.delivery_scope():
        leanbase.capture("e", distinct_id="u")
        leanbase.shutdown()
    assert receipts[0].delivered == 1


def test_an_error_while_a_scope_closes_strands_nothing() -> None:
    first, second = (Leanbase("k", transport=MemoryTransport()) for _ in range(2))
    outbox = first._current().outbox
    with first.delivery_scope():
        first.capture("e", distinct_id="u")
        second.capture("e", distinct_id="u")
        with pytest.MonkeyPatch.context() as patch:

            def failing(*_: object, **__: object) -> Any:
                raise OSError

            patch.setattr(outbox, "send_collected", failing)
            first._close_scope(leanbase.delivery.scope.open_scope())  # type: ignore[arg-type]
    for client in (first, second):
        client.flush()
        assert client.stats()["delivered"] == 1


@pytest.mark.rule("Q-32")
@pytest.mark.parametrize("outcome", ["retained", "rejected"])
def test_a_flush_is_false_when_a_send_fails_that_was_in_flight(outcome: str) -> None:
    gate = Gate(outcome)
    client = Leanbase("k", transport=gate)
    capturing = in_thread(client.capture, "e", distinct_id="u")
    assert gate.begun.acquire(timeout=5)
    receipts: list[Receipt] = []
    flushing = in_thread(lambda: receipts.append(client.flush()))
    time.sleep(0.05)
    gate.go_on.release(10)
    flushing.join()
    capturing.join()
    assert not receipts[0]


def test_a_flush_stops_at_the_first_part_that_fails_also_above_the_limit() -> None:
    transport = Away()
    client = Leanbase(
        "k", transport=transport, sync_mode=False, flush_at=10, flush_interval=60, max_queue_size=100
    )
    with client.delivery_scope():
        for _ in range(99):
            client.capture("in the scope", distinct_id="u")
        client.disabled = True
    client.disabled = False
    outbox = client._current().outbox
    while outbox._ledger.kept < 150:
        outbox._ledger._kept.append(event())
        outbox._ledger._captured += 1
    before = transport.sends
    client.flush(1)
    assert transport.sends == before + 1
    assert outbox._ledger.kept <= 150
    client.shutdown(0.1)


def test_what_a_scope_leaves_behind_is_bounded() -> None:
    client = Leanbase("k", transport=MemoryTransport(), max_queue_size=10)
    with client.delivery_scope() as scope:
        for _ in range(50):
            client.capture("e", distinct_id="u")
        client.disabled = True
    assert client.stats()["retained"] == 10
    assert client.stats()["dropped"] == {"overflow": 40}
    assert scope.receipt.retained + sum(scope.receipt.dropped.values()) == 50
    assert not scope.receipt


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("well", [True, False])
def test_the_receipt_of_a_scope_that_lets_each_capture_send_has_them_all(buffered: bool, well: bool) -> None:
    transport = MemoryTransport() if well else Away()
    client = Leanbase("k", transport=transport, sync_mode=not buffered, flush_interval=60)
    with client.delivery_scope(flush="each") as scope:
        for _ in range(3):
            client.capture("e", distinct_id="u")
    assert (scope.receipt.delivered, scope.receipt.retained) == ((3, 0) if well else (0, 3))
    assert bool(scope.receipt) is well
    client.shutdown(0.1)


def test_what_a_scope_has_when_its_client_is_closed_is_dropped_and_told() -> None:
    told: list[Exception] = []
    client = Leanbase("k", transport=MemoryTransport(), on_error=lambda error, events: told.append(error))
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        client.disabled = True
        client.shutdown()
    assert client.stats()["dropped"] == {"shutdown": 1}
    assert client.stats()["retained"] == 0
    assert len(told) == 1


def test_a_scope_that_nobody_will_close_limits_nothing() -> None:
    scope = DeliveryScope("end", Deadline.after(0))
    with activate(scope):
        scope.deferred = True
        scope.abandon()
    assert send_deadline(10).remaining() > 9


def test_a_late_thread_leaves_nothing_of_a_closed_scope_behind() -> None:
    client = Leanbase("k", transport=MemoryTransport())
    scope = DeliveryScope()
    with activate(scope):
        context = contextvars.copy_context()
    scope.closed = True
    assert client._current().outbox._ledger.collect(event(), scope) is None
    context.run(client.capture, "late", distinct_id="u")
    assert client._current().outbox._ledger._collected == {}
    assert client.stats()["delivered"] == 1


def test_an_outage_does_not_fill_the_receipt_of_a_long_scope() -> None:
    client = Leanbase("k", transport=Away(), max_queue_size=100)
    with client.delivery_scope() as scope:
        for _ in range(1000):
            client.capture("row", distinct_id="u", properties={"text": "x" * 1000})
    assert scope.receipt.retained == 100
    assert scope.receipt.dropped == {"overflow": 900}
    assert len({each.uuid for each in scope.receipt.undelivered}) == 1000
    assert sum(len(each.event) for each in scope.receipt.undelivered) < 200 * 1500


def test_a_closed_buffer_by_itself_counts_what_it_drops() -> None:
    transport = BufferedTransport(MemoryTransport())
    transport.close(deadline=Deadline.after(1))
    assert transport.send([event()], deadline=Deadline.after(1)).dropped == {"shutdown": 1}
    assert transport.ledger.stats()["dropped"] == {"shutdown": 1}


def test_what_a_signal_handler_asks_for_while_the_default_client_is_made() -> None:
    """Nothing raises, and an event that turns out invalid costs no other."""
    leanbase.api_key = "k"
    leanbase.transport = memory = MemoryTransport()
    answers: list[Any] = []
    original = type(default_client)._configure

    def configure(self: Any) -> Any:
        leanbase.before_send = lambda event: (
            {"event": event["event"], "bad": True} if event["event"] == "bad" else event
        )
        answers.extend([leanbase.stats()["captured"], bool(leanbase.flush()), leanbase.is_opted_out()])
        answers.extend([leanbase.setup() is default_client, default_client.disabled, repr(default_client)])
        answers.append(leanbase.capture("", distinct_id="u"))
        assert leanbase.capture("bad", distinct_id="u")
        assert leanbase.capture("good", distinct_id="u")
        assert leanbase.capture_exception(ValueError("early"), distinct_id="u")
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(default_client), "_configure", configure)
        assert leanbase.capture("outer", distinct_id="u")
    assert answers == [0, True, False, True, False, "<DefaultClient to no host>", None]
    assert [each["event"] for each in memory.events] == ["good", "$exception", "outer"]
    assert leanbase.stats()["dropped"] == {"invalid": 2}
    assert balanced(default_client)
