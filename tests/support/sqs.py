"""Responses of SQS, for a `FaultServer` in the place of SQS."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.fault_server import Request

QUEUE_PATH = "/123456789012/events"
"""The path of a queue's URL."""

Failure = tuple[str, bool, str]
"""The code of a failure, whether the sender is at fault, and the message."""


def accept_messages(*failures: Failure | None) -> Callable[[Request], bytes]:
    """Return a `Behaviour.respond` that accepts all messages, except those with a failure at their position."""

    def respond(request: Request) -> bytes:
        successful, failed = [], []
        for entry, failure in zip(request.envelope["Entries"], [*failures, *[None] * 10], strict=False):
            if failure is None:
                successful.append({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "x"})
            else:
                code, sender_fault, text = failure
                failed.append({"Id": entry["Id"], "Code": code, "SenderFault": sender_fault, "Message": text})
        return json.dumps({"Successful": successful, "Failed": failed}).encode()

    return respond
