"""A signal handler may capture, flush, shut down or raise at each moment of a call, and no event is lost.

The first test makes a call again and again, and interrupts it one moment later each time (see
`interruption.py`). After each call it compares the events that the transport has with the uuids and counts of
the client. Most other tests use a transport that calls the handler in the middle of a send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.transports import BaseTransport, Deadline, Receipt
from tests.conftest import balanced
from tests.delivery.interruption import Interruption
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.transports import SwitchedTransport

pytestmark = pytest.mark.untraced  # the interrupts come from a trace function


def faults_at_each_moment(call: Callable[[Leanbase], object], action: str, is_available: bool) -> list[str]:
    """Interrupt a call at each of its moments, and return what went wrong at which moment.

    Args:
        call: The call, which gets a client that has one retained event. Returns the uuids of the events that it
            has captured.
        action: What the signal handler does.
        is_available: Whether the transport can deliver during the call. After it, it always can.
    """
    wrong: list[str] = []
    at, happened = 0, True
    while happened:
        transport = SwitchedTransport()
        client = Leanbase("k", transport=transport)
        transport.is_available = False
        uuids = {client.capture("retained", distinct_id="u")}
        transport.is_available = is_available

        def handler(client: Leanbase = client, uuids: set[str | None] = uuids) -> None:
            if action == "capture":
                uuids.add(client.capture("of the handler", distinct_id="u"))
            elif action == "flush":
                client.flush(1)
            elif action == "shutdown":
                client.shutdown(1)
            else:
                raise KeyboardInterrupt

        interruption = Interruption(at, handler, raises=action == "raise")
        was_raised = False
        try:
            returned = interruption.during(partial(call, client))
            uuids |= returned if isinstance(returned, set) else set()
        except KeyboardInterrupt:
            was_raised = True
        happened = interruption.happened
        is_balanced = balanced(client)
        transport.is_available = True
        client.flush(1)
        lost = uuids - {None} - transport.uuids if action != "shutdown" or is_available else set()
        retained = client.stats()["retained"]
        # After an interrupt between a send and its receipt, the client cannot know what has arrived.
        is_unknown = was_raised and len(transport.events) > len(transport.uuids)
        doubled = len(transport.uuids) != client.stats()["delivered"] and action != "shutdown"
        if not is_balanced or lost or retained or (doubled and not is_unknown):
            wrong.append(
                f"{at} in {interruption.where}: {lost} {retained} {client.stats()} {len(transport.events)}"
            )
        if action == "raise" and happened and not was_raised:
            wrong.append(f"{at} in {interruption.where}: the exception was swallowed")
        at += 1
    assert at > 20
    return wrong


def capture(client: Leanbase) -> set[str | None]:
    return {client.capture("e", distinct_id="u")}


def collect(client: Leanbase) -> set[str | None]:
    with client.delivery_scope():
        return {client.capture("first", distinct_id="u"), client.capture("second", distinct_id="u")}


def flush(client: Leanbase) -> None:
    client.flush(1)


@pytest.fixture(autouse=True)
def without_logging() -> Iterator[None]:
    """Switch log records off: formatting thousands of them would take most of the time."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.rule("Q-57", "Q-59")
@pytest.mark.parametrize("call", [capture, collect, flush])
@pytest.mark.parametrize("action", ["capture", "flush", "shutdown", "raise"])
@pytest.mark.parametrize("is_available", [True, False], ids=["available", "unavailable"])
def test_a_signal_handler_at_any_moment_loses_no_event_and_sends_none_twice(
    call: Callable[[Leanbase], object], action: str, is_available: bool
) -> None:
    wrong = faults_at_each_moment(call, action, is_available)
    # An interrupt at the beginning of `__exit__` leaves the scope open, as with any context manager.
    assert [fault for fault in wrong if "in __exit__" not in fault] == []


class HandlerDuringSend(BaseTransport):
    """Calls a function in the middle of its first send, as if a signal handler did.

    Args:
        handler: The function.
        outcome: The outcome of the first send: `"delivered"` or `"retained"`.

    Attributes:
        sent: For each send, the names of its events.
    """

    def __init__(self, handler: Callable[[], object], outcome: str = "delivered") -> None:
        self.handler: Callable[[], object] | None = handler
        self.outcome = outcome
        self.sent: list[list[str]] = []

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        self.sent.append([event.decode()["event"] for event in events])
        first, self.handler = self.handler, None
        if first is not None:
            first()
            if self.outcome == "retained":
                return Receipt.retaining(events, "unavailable", RuntimeError("away"))
        return Receipt(delivered=len(events))


@pytest.mark.rule("Q-59")
def test_an_event_captured_in_a_signal_handler_is_sent_by_the_interrupted_call() -> None:
    transport = HandlerDuringSend(lambda: client.capture("inner", distinct_id="u"))
    client = Leanbase("k", transport=transport)
    client.capture("outer", distinct_id="u")
    assert transport.sent == [["outer"], ["inner"]]
    assert client.stats()["delivered"] == 2


@pytest.mark.rule("Q-59")
@pytest.mark.parametrize("outcome", ["delivered", "retained"])
def test_a_flush_in_a_signal_handler_sends_the_events_of_the_interrupted_send(outcome: str) -> None:
    """The process may end when the handler does."""
    receipts: list[Receipt] = []
    transport = HandlerDuringSend(lambda: receipts.append(client.flush(1)), outcome)
    client = Leanbase("k", transport=transport)
    uuid = client.capture("e", distinct_id="u")
    assert uuid
    assert transport.sent == [["e"], ["e"]]
    assert receipts[0].delivered == 1
    assert client.stats() == {**client.stats(), "captured": 1, "delivered": 1, "retained": 0}


@pytest.mark.rule("Q-57", "Q-59")
def test_events_that_a_handlers_flush_cannot_send_go_back_to_the_interrupted_send() -> None:
    """The interrupted send may still succeed, and then nothing is sent a second time."""

    class FailingSecondSend(HandlerDuringSend):
        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            number = len(self.sent)
            receipt = super().send(events, deadline=deadline)
            if number == 1:
                return Receipt.retaining(events, "unavailable", RuntimeError("away"))
            return receipt

    receipts: list[Receipt] = []
    transport = FailingSecondSend(lambda: receipts.extend([client.flush(1), client.flush(1)]))
    client = Leanbase("k", transport=transport)
    client.capture("e", distinct_id="u")
    assert [receipt.retained for receipt in receipts] == [1, 1]
    assert transport.sent == [["e"], ["e"]]  # the second flush of the handler sent nothing
    client.flush()
    assert transport.sent == [["e"], ["e"]]
    assert client.stats()["delivered"] == 1
    assert balanced(client)


def test_an_event_captured_from_a_log_record_of_a_send_waits_for_the_next_send() -> None:
    """Otherwise a server that rejects each event would be sent an event about each rejection, without end."""
    log = logging.getLogger("an application")

    class CapturingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            client.capture("logged", distinct_id="u")

    logging.disable(logging.NOTSET)
    handler = CapturingHandler()
    log.addHandler(handler)
    try:
        transport = HandlerDuringSend(lambda: log.error("in a send"))
        client = Leanbase("k", transport=transport)
        client.capture("first", distinct_id="u")
        assert transport.sent == [["first"]]
        client.capture("second", distinct_id="u")
        assert transport.sent == [["first"], ["logged", "second"]]
    finally:
        log.removeHandler(handler)


def test_a_transport_may_flush_its_own_client() -> None:
    class FlushingTransport(BaseTransport):
        sends = 0

        def send(self, events: Any, *, deadline: Deadline) -> Receipt:
            self.sends += 1
            client.flush(1)
            return Receipt(delivered=len(events))

    transport = FlushingTransport()
    client = Leanbase("k", transport=transport)
    client.capture("e", distinct_id="u")
    assert transport.sends == 2
    assert client.stats()["delivered"] == 1


@pytest.mark.rule("Q-57")
def test_the_next_call_takes_over_a_send_that_the_recursion_limit_removed_from_the_stack() -> None:
    """At the recursion limit even the clean-up of a send may fail."""
    transport = SwitchedTransport()
    client = Leanbase("k", transport=transport)
    retaining = client._current().outbox._transport
    original = type(retaining)._land

    def failing(*_: object) -> Any:
        raise RecursionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(retaining), "_land", failing)
        uuid = client.capture("e", distinct_id="u")
    assert type(retaining)._land is original
    assert uuid
    assert client.stats()["retained"] == 1
    client.capture("next", distinct_id="u")
    client.flush()
    assert uuid in transport.uuids
    assert client.stats()["retained"] == 0
    assert balanced(client)


@pytest.mark.rule("Q-15", "Q-59")
@pytest.mark.slow
def test_a_handler_that_shuts_down_during_a_retry_wait_does_not_hang(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAIT_SECONDS", "SHORTEST_WAIT_SECONDS"):
        monkeypatch.setattr(f"leanbase.transports._http.sender.{name}", 0.001)
    at, happened = 0, True
    while happened:
        server.script(Behaviour(status=503))
        client = Leanbase("k", server.url, max_retries=1)
        interruption = Interruption(at, partial(client.shutdown, 2), inside="_http/sender.py")
        interruption.during(partial(client.capture, "e", distinct_id="u"))
        happened = interruption.happened
        assert balanced(client)
        at += 1
    assert at > 10
    assert len({event["uuid"] for event in server.events}) == at


@pytest.mark.rule("Q-57")
def test_stats_report_a_retained_event_that_is_missing_from_the_ledger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`retained` is counted where the events are, and not computed from the other counts."""
    logging.disable(logging.NOTSET)
    transport = SwitchedTransport()
    client = Leanbase("k", transport=transport)
    transport.is_available = False
    ledger = client._current().outbox._ledger
    client.capture("retained", distinct_id="u")
    assert balanced(client)
    ledger._kept.pop()
    assert not balanced(client)
    assert "1 event(s) are unaccounted for" in caplog.text
