"""Transports that fail, and events without a client."""

from __future__ import annotations

from typing import Any

from leanbase.events.encoding import EncodedEvent, encode
from leanbase.events.ids import uuid7
from leanbase.transports import BaseTransport, HttpTransport
from leanbase.transports.deadline import Deadline
from leanbase.transports.receipt import Receipt
from tests.support.fault_server import Behaviour, FaultServer


class Failing(BaseTransport):
    """Retains everything, as a transport does whose peer is away."""

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        return Receipt.retaining(events, "unavailable", RuntimeError("away"))


class Raising(BaseTransport):
    """Breaks the contract, as one with a defect does."""

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        raise RuntimeError("a defect")


def away(server: FaultServer) -> BaseTransport:
    server.always(Behaviour(status=503))
    return HttpTransport("k", server.url, max_retries=0)


def events(count: int) -> list[EncodedEvent]:
    return [encode({"uuid": uuid7(), "event": f"e{number}", "properties": {}}) for number in range(count)]
