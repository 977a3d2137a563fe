"""The ledger of a client when threads, scopes, flushes and shutdowns overlap: each event has one outcome.

Most tests use a `GatedTransport`: each send blocks until the test lets it continue, so that a second call
certainly begins during the first. The counts and receipts of the client are asserted, and what the transport
was given.
"""

from __future__ import annotations

import contextvars
import time
from functools import partial
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase, Receipt
from leanbase.default import default_client
from leanbase.delivery.scope import DeliveryScope, activate, send_deadline
from leanbase.events.encoding import EncodedEvent
from leanbase.handlers.termination import flush_all
from leanbase.transports import BufferedTransport, Deadline, MemoryTransport
from leanbase.transports._ledger import Flight, Ledger
from tests.conftest import balanced
from tests.support.events import encoded_events
from tests.support.threads import start_thread
from tests.support.transports import FailingTransport, GatedTransport


@pytest.mark.rule("Q-20", "Q-57")
def test_a_failed_event_outside_a_scope_is_reported_while_a_scope_has_retained_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reported: list[int] = []
    transport = FailingTransport()
    client = Leanbase("k", transport=transport, on_error=lambda error, events: reported.append(len(events)))
    with client.delivery_scope():
        for _ in range(100):
            client.capture("in the scope", distinct_id="u")
        gate = GatedTransport()
        client._current().outbox._transport.inner = gate
        flushing = start_thread(client.flush)
        assert gate.begun.acquire(timeout=5)
        gate.outcomes = ["retained"]
        outside = start_thread(client.capture, "outside", distinct_id="u")
        assert gate.begun.acquire(timeout=5)
        gate.may_continue.release(10)
        outside.join()
        flushing.join()
        assert reported[-1] == 1
    assert "internal error" not in caplog.text
    assert balanced(client)


def event() -> EncodedEvent:
    return encoded_events(1)[0]


@pytest.mark.rule("Q-57", "Q-59")
def test_a_launch_begins_again_after_a_signal_handler_has_taken_over_its_flight() -> None:
    scope = DeliveryScope()
    ledger = Ledger(100, 1_000_000)
    flight = Flight(scope)
    ledger.collect(event(), scope)

    class InterruptedDict(dict[Any, Any]):
        """Does at the first lookup what a signal handler does that flushes, and then captures."""

        is_first = True

        def get(self, key: Any, default: Any = None) -> Any:
            if self.is_first:
                self.is_first = False
                takeover = Flight()
                ledger.launch(takeover, scope=scope, taking_over=[flight])
                ledger.land(takeover, Receipt(delivered=len(takeover.events)))
                ledger.collect(event(), scope)
            return super().get(key, default)

    ledger._collected = InterruptedDict(ledger._collected)
    ledger.launch(flight, scope=scope)
    assert len(flight.events) == 1
    ledger.land(flight, Receipt(delivered=1))
    stats = ledger.stats()
    assert (stats["captured"], stats["delivered"], stats["retained"]) == (2, 2, 0)


@pytest.mark.rule("Q-43", "Q-57")
def test_a_transport_cannot_get_a_new_client_before_the_shutdown_of_the_old_one_has_ended() -> None:
    """Events that the shutdown still has in flight count in the ledger of the client that captured them."""
    gate = GatedTransport("retained")
    transport = BufferedTransport(gate, flush_interval=60)
    first = Leanbase("k", transport=transport)
    first.capture("of the first", distinct_id="u")
    receipts: list[Receipt] = []
    ending = start_thread(lambda: receipts.append(first.shutdown(5)))
    assert gate.begun.acquire(timeout=5)
    with pytest.raises(leanbase.errors.ConfigError, match="belongs to another client"):
        Leanbase("k", transport=transport)
    gate.may_continue.release(10)
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


@pytest.mark.rule("Q-42")
def test_a_capture_of_the_module_waits_for_a_shutdown_that_still_uses_the_transport() -> None:
    gate = GatedTransport()
    leanbase.api_key = "k"
    leanbase.transport = BufferedTransport(gate, flush_interval=60)
    leanbase.capture("first", distinct_id="u")
    ending = start_thread(leanbase.shutdown)
    assert gate.begun.acquire(timeout=5)
    capturing = start_thread(leanbase.capture, "second", distinct_id="u")
    time.sleep(0.1)
    gate.may_continue.release(10)
    ending.join()
    capturing.join()
    assert leanbase.flush().delivered == 1
    assert gate.batches == [["first"], ["second"]]
    leanbase.shutdown()


def test_sigterm_waits_for_sends_outside_the_open_scope() -> None:
    gate = GatedTransport()
    client = Leanbase("k", transport=gate)
    outside = start_thread(client.capture, "outside", distinct_id="u")
    assert gate.begun.acquire(timeout=5)
    with client.delivery_scope():
        client.capture("inside", distinct_id="u")
        terminating = start_thread(partial(flush_all, is_last=True), [client], Deadline.after(5))
        assert gate.begun.acquire(timeout=5)
        gate.may_continue.release(1)
        terminating.join(0.3)
        assert terminating.is_alive()
        gate.may_continue.release(10)
        terminating.join(5)
        assert not terminating.is_alive()
        assert client.stats()["delivered"] == 2
    outside.join()


@pytest.mark.rule("Q-41", "Q-59")
def test_an_interrupted_shutdown_can_be_called_again() -> None:
    class InterruptedOnce(MemoryTransport):
        is_first = True

        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            if self.is_first:
                self.is_first = False
                raise KeyboardInterrupt
            return super().send(events, deadline=deadline)

    transport = InterruptedOnce()
    client = Leanbase("k", transport=transport)
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        with pytest.raises(KeyboardInterrupt):
            client.shutdown()
        assert client.shutdown().delivered == 1
    assert len(transport.events) == 1
    assert client.stats()["retained"] == 0


@pytest.mark.rule("Q-59")
def test_a_shutdown_inside_a_shutdown_sends_the_events_of_the_outer_one() -> None:
    receipts: list[Receipt] = []

    class ShutsDownOnce(MemoryTransport):
        is_first = True

        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            if self.is_first:
                self.is_first = False
                receipts.append(leanbase.shutdown())
            return super().send(events, deadline=deadline)

    leanbase.api_key, leanbase.transport = "k", ShutsDownOnce()
    with leanbase.delivery_scope():
        leanbase.capture("e", distinct_id="u")
        leanbase.shutdown()
    assert receipts[0].delivered == 1


@pytest.mark.rule("G-1")
def test_a_defect_while_a_scope_closes_loses_no_events_of_any_client() -> None:
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
def test_a_flush_is_false_if_a_send_in_flight_fails(outcome: str) -> None:
    gate = GatedTransport(outcome)
    client = Leanbase("k", transport=gate)
    capturing = start_thread(client.capture, "e", distinct_id="u")
    assert gate.begun.acquire(timeout=5)
    receipts: list[Receipt] = []
    flushing = start_thread(lambda: receipts.append(client.flush()))
    time.sleep(0.05)
    gate.may_continue.release(10)
    flushing.join()
    capturing.join()
    assert not receipts[0]


@pytest.mark.rule("Q-32")
def test_a_flush_stops_at_the_first_failed_send_even_if_too_many_events_are_retained() -> None:
    transport = FailingTransport()
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


@pytest.mark.rule("C-40", "Q-22", "Q-58")
def test_retained_events_of_a_scope_are_bounded() -> None:
    client = Leanbase("k", transport=MemoryTransport(), max_queue_size=10)
    with client.delivery_scope() as scope:
        for _ in range(50):
            client.capture("e", distinct_id="u")
        client.disabled = True
    assert client.stats()["retained"] == 10
    assert client.stats()["dropped"] == {"overflow": 40}
    assert scope.receipt.retained + sum(scope.receipt.dropped.values()) == 50
    assert not scope.receipt


@pytest.mark.rule("Q-58")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("is_available", [True, False])
def test_the_receipt_of_a_scope_with_flush_each_has_every_event(buffered: bool, is_available: bool) -> None:
    transport = MemoryTransport() if is_available else FailingTransport()
    client = Leanbase("k", transport=transport, sync_mode=not buffered, flush_interval=60)
    with client.delivery_scope(flush="each") as scope:
        for _ in range(3):
            client.capture("e", distinct_id="u")
    assert (scope.receipt.delivered, scope.receipt.retained) == ((3, 0) if is_available else (0, 3))
    assert bool(scope.receipt) is is_available
    client.shutdown(0.1)


@pytest.mark.rule("C-40", "Q-43")
def test_collected_events_of_a_disabled_client_are_dropped_and_reported_at_shutdown() -> None:
    reported: list[Exception] = []
    client = Leanbase("k", transport=MemoryTransport(), on_error=lambda error, events: reported.append(error))
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        client.disabled = True
        client.shutdown()
    assert client.stats()["dropped"] == {"shutdown": 1}
    assert client.stats()["retained"] == 0
    assert len(reported) == 1


def test_the_deadline_of_an_abandoned_scope_limits_no_sends() -> None:
    scope = DeliveryScope("end", Deadline.after(0))
    with activate(scope):
        scope.deferred = True
        scope.abandon()
    assert send_deadline(10).remaining() > 9


def test_a_thread_that_captures_after_its_scope_has_closed_leaves_no_events_in_the_scope() -> None:
    client = Leanbase("k", transport=MemoryTransport())
    scope = DeliveryScope()
    with activate(scope):
        context = contextvars.copy_context()
    scope.closed = True
    assert client._current().outbox._ledger.collect(event(), scope) is None
    context.run(client.capture, "late", distinct_id="u")
    assert client._current().outbox._ledger._collected == {}
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("Q-22", "Q-58")
def test_the_receipt_of_a_long_scope_does_not_hold_the_events_dropped_in_an_outage() -> None:
    client = Leanbase("k", transport=FailingTransport(), max_queue_size=100)
    with client.delivery_scope() as scope:
        for _ in range(1000):
            client.capture("row", distinct_id="u", properties={"text": "x" * 1000})
    assert scope.receipt.retained == 100
    assert scope.receipt.dropped == {"overflow": 900}
    assert len({each.uuid for each in scope.receipt.undelivered}) == 1000
    assert sum(len(each.event) for each in scope.receipt.undelivered) < 200 * 1500


@pytest.mark.rule("Q-43")
def test_a_closed_buffer_without_a_client_counts_dropped_events() -> None:
    transport = BufferedTransport(MemoryTransport())
    transport.close(deadline=Deadline.after(1))
    assert transport.send([event()], deadline=Deadline.after(1)).dropped == {"shutdown": 1}
    assert transport.ledger.stats()["dropped"] == {"shutdown": 1}


@pytest.mark.rule("G-1", "Q-57", "Q-59")
def test_every_call_works_in_a_signal_handler_while_the_default_client_is_created() -> None:
    """An event that turns out to be invalid costs no other event."""
    leanbase.api_key = "k"
    leanbase.transport = memory = MemoryTransport()
    results: list[Any] = []
    original = type(default_client)._configure

    def configure(self: Any) -> Any:
        leanbase.before_send = lambda event: (
            {"event": event["event"], "bad": True} if event["event"] == "bad" else event
        )
        results.extend([leanbase.stats()["captured"], bool(leanbase.flush()), leanbase.is_opted_out()])
        results.extend([leanbase.setup() is default_client, default_client.disabled, repr(default_client)])
        results.append(leanbase.capture("", distinct_id="u"))
        assert leanbase.capture("bad", distinct_id="u")
        assert leanbase.capture("good", distinct_id="u")
        assert leanbase.capture_exception(ValueError("early"), distinct_id="u")
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(default_client), "_configure", configure)
        assert leanbase.capture("outer", distinct_id="u")
    assert results == [0, True, False, True, False, "<DefaultClient to no host>", None]
    assert [each["event"] for each in memory.events] == ["good", "$exception", "outer"]
    assert leanbase.stats()["dropped"] == {"invalid": 2}
    assert balanced(default_client)
