"""Events without a client, and the names of received events."""

from __future__ import annotations

from leanbase.events.encoding import EncodedEvent, encode
from leanbase.events.ids import uuid7
from tests.support.fault_server import FaultServer


def encoded_events(count: int) -> list[EncodedEvent]:
    """Return events as a transport receives them, named `e0`, `e1` and so on."""
    return [encode({"uuid": uuid7(), "event": f"e{number}", "properties": {}}) for number in range(count)]


def received_names(server: FaultServer) -> list[str]:
    """Return the names of all events that a server received, in order, including refused events."""
    return [event["event"] for event in server.events]
