"""Makes the Lambda events that the relay gets: SQS batches with messages, and CloudWatch Logs with lines."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from leanbase.events.encoding import EncodedEvent, encode
from leanbase.events.ids import uuid7
from leanbase.events.timestamps import utc_now

STREAM = "2026/11/24/[$LATEST]0123456789abcdef0123456789abcdef"


def event(name: str = "e", distinct_id: str = "u", **properties: Any) -> EncodedEvent:
    """Return an event as a transport hands it off."""
    return encode(
        {
            "event": name,
            "distinct_id": distinct_id,
            "uuid": uuid7(),
            "timestamp": utc_now(),
            "properties": properties,
        }
    )


def sqs_event(*bodies: str | bytes) -> dict[str, Any]:
    """Return the Lambda event of an SQS event source mapping."""
    strings = [body.decode() if isinstance(body, bytes) else body for body in bodies]
    return {
        "Records": [
            {
                "messageId": str(uuid4()),
                "receiptHandle": "AQEB",
                "body": string,
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": "1545082649183",
                    "SenderId": "AIDA",
                    "ApproximateFirstReceiveTimestamp": "1545082649185",
                },
                "messageAttributes": {},
                "md5OfBody": "x",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:events",
                "awsRegion": "eu-west-1",
            }
            for string in strings
        ]
    }


def logs_event(
    lines: Sequence[str],
    *,
    group: str = "/aws/lambda/orders",
    stream: str = STREAM,
    owner: str = "123456789012",
    kind: str = "DATA_MESSAGE",
) -> dict[str, Any]:
    """Return the Lambda event of a CloudWatch Logs subscription."""
    data = {
        "messageType": kind,
        "owner": owner,
        "logGroup": group,
        "logStream": stream,
        "subscriptionFilters": ["leanbase"],
        "logEvents": [
            {"id": f"{number:056d}", "timestamp": 1_790_000_000_000 + number, "message": line}
            for number, line in enumerate(lines)
        ],
    }
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(data).encode())).decode()}}


class Context:
    """The context object that the runtime passes with the event."""

    function_name = "relay"
    function_version = "$LATEST"
    aws_request_id = "8d7f"

    def __init__(self, seconds: float = 30) -> None:
        self._milliseconds = int(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds
