"""Transports that fail or block on purpose."""

from __future__ import annotations

import threading
from typing import Any

from leanbase.transports import BaseTransport, HttpTransport, MemoryTransport
from leanbase.transports.deadline import Deadline
from leanbase.transports.receipt import Receipt
from tests.support.fault_server import Behaviour, FaultServer


class FailingTransport(BaseTransport):
    """Retains all events, like a transport whose server is unavailable. Counts its sends."""

    sends = 0

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        self.sends += 1
        return Receipt.retaining(events, "unavailable", RuntimeError("away"))


class SwitchedTransport(MemoryTransport):
    """Delivers to memory, but retains all events while `is_available` is false."""

    is_available = True

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        if not self.is_available:
            return Receipt.retaining(events, "unavailable", RuntimeError("away"))
        return super().send(events, deadline=deadline)

    @property
    def uuids(self) -> set[str]:
        return {event["uuid"] for event in self.events}


class RaisingTransport(BaseTransport):
    """Raises instead of returning a receipt, like a transport with a defect."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error or RuntimeError("a defect")

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        raise self._error


class GatedTransport(MemoryTransport):
    """Blocks each send until the test lets it continue.

    Args:
        outcomes: The outcomes of the first sends: `"delivered"`, `"retained"` or `"rejected"`. Later sends
            deliver.

    Attributes:
        begun: Each send releases it once when it begins.
        may_continue: The test releases it once for each send that may continue.
        batches: For each send that has begun, the names of its events.
    """

    def __init__(self, *outcomes: str) -> None:
        super().__init__()
        self.outcomes = list(outcomes)
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.may_continue = threading.Semaphore(0)

    def send(self, events: Any, *, deadline: Deadline) -> Receipt:
        self.batches.append([event.decode()["event"] for event in events])
        outcome = self.outcomes.pop(0) if self.outcomes else "delivered"
        self.begun.release()
        assert self.may_continue.acquire(timeout=20), "the test let no send continue"
        if outcome == "retained":
            return Receipt.retaining(events, "unavailable", RuntimeError("away"))
        if outcome == "rejected":
            return Receipt.dropping(events, "rejected", RuntimeError("refused"))
        return super().send(events, deadline=deadline)


def unavailable_http(server: FaultServer) -> HttpTransport:
    """Return a transport to a server that responds to every request with 503."""
    server.always(Behaviour(status=503))
    return HttpTransport("k", server.url, max_retries=0)
