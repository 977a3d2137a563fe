"""What every transport promises, whatever it does with the events. One parameter a transport."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.delivery import Deadline, Receipt
from leanbase.encoding import EncodedEvent, encode
from leanbase.event import uuid7
from leanbase.transports import (
    BaseTransport,
    FallbackTransport,
    HttpTransport,
    LogTransport,
    MemoryTransport,
    SpoolTransport,
)
from tests.conftest import balanced
from tests.fault_server import Behaviour, FaultServer


class Failing(BaseTransport):
    """Retains everything, as a transport does whose peer is away."""

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        return Receipt.retaining(events, "unavailable", RuntimeError("away"))


def away(server: FaultServer) -> BaseTransport:
    server.always(Behaviour(status=503))
    return HttpTransport("k", server.url, max_retries=0)


class Raising(BaseTransport):
    """Breaks the contract, as one with a defect does."""

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        raise RuntimeError("a defect")


MAKERS: dict[str, Callable[[FaultServer, Path], BaseTransport]] = {
    "memory": lambda server, path: MemoryTransport(),
    "http": lambda server, path: HttpTransport("k", server.url, max_retries=0),
    "http, server away": lambda server, path: away(server),
    "failing": lambda server, path: Failing(),
    "log": lambda server, path: LogTransport(os.open(path / "log", os.O_CREAT | os.O_WRONLY)),
    "log, closed": lambda server, path: LogTransport(4711),
    "spool": lambda server, path: SpoolTransport(path / "spool"),
    "spool, http": lambda server, path: SpoolTransport(path / "spool", HttpTransport("k", server.url)),
    "spool, server away": lambda server, path: SpoolTransport(path / "spool", away(server)),
    "spool as fallback": lambda server, path: SpoolTransport(path / "s", Failing(), write_first=False),
    "spool, raising": lambda server, path: SpoolTransport(path / "spool", Raising()),
    "spool, full": lambda server, path: SpoolTransport(path / "spool", Failing(), max_bytes=10),
    "fallback": lambda server, path: FallbackTransport(away(server), MemoryTransport()),
    "fallback, raising": lambda server, path: FallbackTransport(Raising(), MemoryTransport()),
    "fallback, both failing": lambda server, path: FallbackTransport(Failing(), Failing()),
}


@pytest.fixture(params=MAKERS)
def transport(request: pytest.FixtureRequest, server: FaultServer, tmp_path: Path) -> Iterator[BaseTransport]:
    made = MAKERS[request.param](server, tmp_path)
    yield made
    made.close(deadline=Deadline.after(0))


def events(count: int) -> list[EncodedEvent]:
    return [encode({"uuid": uuid7(), "event": f"e{number}", "properties": {}}) for number in range(count)]


def outcomes(receipt: Receipt) -> int:
    return receipt.delivered + receipt.handed_off + receipt.spooled + len(receipt.undelivered)


@pytest.mark.parametrize("count", [1, 7, 250])
def test_every_event_has_exactly_one_outcome(transport: BaseTransport, count: int) -> None:
    sent = events(count)
    receipt = transport.send(sent, deadline=Deadline.after(5))
    assert outcomes(receipt) == count
    assert {each.uuid for each in receipt.undelivered} <= {each.uuid for each in sent}
    assert receipt.retained + sum(receipt.dropped.values()) == len(receipt.undelivered)
    assert bool(receipt) == (receipt.retained == 0)


def test_an_expired_deadline_returns_at_once_with_an_outcome(transport: BaseTransport) -> None:
    started = time.monotonic()
    receipt = transport.send(events(3), deadline=Deadline.after(0))
    assert outcomes(receipt) == 3
    assert time.monotonic() - started < 1


def test_flush_and_close_can_be_called_at_any_time_and_twice(transport: BaseTransport) -> None:
    for _ in range(2):
        transport.flush(deadline=Deadline.after(1))
    transport.send(events(2), deadline=Deadline.after(1))
    for _ in range(2):
        transport.close(deadline=Deadline.after(1))
        transport.warm_up(deadline=Deadline.after(0))
    assert outcomes(transport.send(events(1), deadline=Deadline.after(1))) >= 1


def test_the_books_of_a_client_balance_on_it(transport: BaseTransport) -> None:
    """captured = delivered + handed off + spooled + retained + dropped, before and after shutdown."""
    client = Leanbase("k", transport=transport)
    client.capture("direct", "u")
    with client.delivery_scope():
        for number in range(150):
            client.capture("collected", number)
        assert balanced(client)
    assert balanced(client)
    client.shutdown()
    assert balanced(client)
    assert client.stats()["retained"] == 0
    assert client.stats()["captured"] == 151
