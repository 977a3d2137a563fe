"""The events that have left a function, by the transport that it uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leanbase.relay.cloudwatch_logs import TAGGED
from leanbase.transports import handoff
from tests.support.fault_server import FaultServer


def outgoing_events(way: str, server: FaultServer, log: Iterable[str]) -> list[dict[str, Any]]:
    """Return the events that a server or a log has received.

    Args:
        way: `"sqs"`, `"log"`, or another transport, which sends over HTTP.
        server: Stands for the ingestion server and for SQS.
        log: The lines of the function's log.
    """
    requests = [each for each in list(server.accepted) if "/flags" not in each.line]
    if way == "sqs":
        messages = [entry["MessageBody"] for each in requests for entry in each.envelope["Entries"]]
        return [event.decode() for message in messages for event in handoff.decode(message)]
    if way == "log":
        tagged = [(line, found.start()) for line in log if (found := TAGGED.search(line))]
        return [event.decode() for line, start in tagged for event in handoff.decode(line, start)]
    return [event for request in requests for event in request.events]
