"""Reads hand-off messages without the package's own reader."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any


def events_of_message(message: str) -> list[dict[str, Any]]:
    """Return the events of a hand-off message: a log line, or the body of an SQS message."""
    envelope = json.loads(message)
    assert envelope["leanbase"] == 1
    if "gzip" in envelope:
        envelope = json.loads(gzip.decompress(base64.b64decode(envelope["gzip"])))
        assert envelope["leanbase"] == 1
    events: list[dict[str, Any]] = envelope["events"]
    return events
