"""Tests for authors of transports. Every transport must pass them."""

from __future__ import annotations

import threading
import time

import pytest

from ..client import Leanbase
from ..events.encoding import EncodedEvent, encode
from ..events.ids import uuid7
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt
from .plugin import SEND


class TransportContract:
    """Tests for a transport. A subclass provides the fixture `transport`, and pytest runs the tests.

    The tests must pass with a transport that delivers, and with a transport that fails. The transport
    receives about 500 small events, named `"e0"`, `"e1"` and so on.

    Examples:
        ```python
        import pytest
        from leanbase.testing import TransportContract

        class TestMyTransport(TransportContract):
            @pytest.fixture
            def transport(self):
                return MyTransport("amqp://127.0.0.1")
        ```
    """

    # Allow sends: Leanbase's pytest plugin would replace the tested transport.
    pytestmark = getattr(pytest.mark, SEND)

    def test_every_event_has_exactly_one_outcome(self, transport: BaseTransport) -> None:
        for count in (1, 7, 250):
            sent = _events(count)
            receipt = transport.send(sent, deadline=Deadline.after(5))
            assert isinstance(receipt, Receipt), f"send() returned a {type(receipt).__name__}, not a Receipt"
            assert _outcomes(receipt) == count, f"{count} events were sent; the receipt says {receipt}"
            undelivered = [each.event for each in receipt.undelivered]
            assert _are_among(undelivered, sent), (
                "the receipt lists an event that was not sent, or one event twice"
            )

    def test_sends_of_several_threads_at_once_keep_their_own_outcomes(self, transport: BaseTransport) -> None:
        ends: list[bool] = []

        def send() -> None:
            for _ in range(5):
                sent = _events(3)
                receipt = transport.send(sent, deadline=Deadline.after(5))
                undelivered = [each.event for each in receipt.undelivered]
                ends.append(_outcomes(receipt) == 3 and _are_among(undelivered, sent))

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ends == [True] * 20, "a send raised, or its receipt was about other events than its own"

    def test_what_is_not_delivered_keeps_its_order(self, transport: BaseTransport) -> None:
        sent = _events(50)
        retained = transport.send(sent, deadline=Deadline.after(5)).retained_events()
        positions = [sent.index(event) for event in retained]
        assert positions == sorted(positions), "the retained events are in another order than they were sent"

    def test_an_expired_deadline_returns_at_once_with_an_outcome(self, transport: BaseTransport) -> None:
        started = time.monotonic()
        receipt = transport.send(_events(3), deadline=Deadline.after(0))
        assert _outcomes(receipt) == 3, f"3 events were sent; the receipt says {receipt}"
        assert time.monotonic() - started < 1, "send() went on after its deadline"

    def test_flush_and_close_can_be_called_at_any_time_and_twice(self, transport: BaseTransport) -> None:
        for _ in range(2):
            receipt = transport.flush(deadline=Deadline.after(1))
            assert isinstance(receipt, Receipt), f"flush() returned a {type(receipt).__name__}, not a Receipt"
            assert _outcomes(receipt) == 0, f"nothing was sent; the receipt of flush() says {receipt}"
        transport.send(_events(2), deadline=Deadline.after(1))
        for _ in range(2):
            assert isinstance(transport.close(deadline=Deadline.after(1)), Receipt)
            transport.warm_up(deadline=Deadline.after(0))
        assert _outcomes(transport.send(_events(1), deadline=Deadline.after(1))) >= 1

    def test_the_books_of_a_client_balance_on_it(self, transport: BaseTransport) -> None:
        """Captured = delivered + handed off + spooled + retained + dropped."""
        client = Leanbase("phc_contract", transport=transport)
        client.capture("e0", distinct_id="u")
        with client.delivery_scope():
            for number in range(150):
                client.capture(f"e{number}", distinct_id="u")
            assert _is_balanced(client)
        assert _is_balanced(client)
        client.shutdown()
        assert _is_balanced(client)
        assert client.stats()["captured"] == 151
        assert client.stats()["retained"] == 0


def _events(count: int) -> list[EncodedEvent]:
    return [encode({"uuid": uuid7(), "event": f"e{number}", "properties": {}}) for number in range(count)]


def _outcomes(receipt: Receipt) -> int:
    return receipt.delivered + receipt.handed_off + receipt.spooled + len(receipt.undelivered)


def _are_among(some: list[EncodedEvent], all_of_them: list[EncodedEvent]) -> bool:
    ids = [id(event) for event in some]
    return len(set(ids)) == len(ids) and set(ids) <= {id(event) for event in all_of_them}


def _is_balanced(client: Leanbase) -> bool:
    stats = client.stats()
    outcomes = stats["delivered"] + stats["handed_off"] + stats["spooled"] + stats["retained"]
    return stats["retained"] >= 0 and stats["captured"] == outcomes + sum(stats["dropped"].values())
