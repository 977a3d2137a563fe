"""The least that an event costs in Python: its bytes written by hand, in one function.

`instructions.py` measures it beside Leanbase. It makes the same bytes as `capture()` in a delivery scope, and
keeps these guarantees:

* the arguments are copied at the call, down to the last value;
* the JSON is strict: no NaN, no lone surrogates; a value that is not plain JSON becomes a string;
* a structure that contains itself, or is nested beyond 64 levels, ends;
* the uuid is a new UUIDv7, the timestamp is in UTC with microseconds;
* context tags are merged under the given properties, and listed by name;
* threads collect into one list under a lock, and every captured event is counted.

It has no hooks, no options, no sources of identity, no size limit, and nobody to send what it collects.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from typing import Any

encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode


class Handwritten:
    """Collects events; `runtime` are the properties that every event has."""

    def __init__(self, runtime: dict[str, Any]) -> None:
        self.tags: dict[str, Any] | None = None
        self.collected: list[bytes] = []
        self.captured = 0
        self._runtime = runtime
        self._lock = threading.Lock()
        self._second, self._date = 0, ""

    def capture(self, name: str, distinct_id: str, properties: dict[str, Any]) -> str:
        """Collect an event and return its uuid."""
        given = properties if self.tags is None else {**self.tags, **properties}
        plain: dict[str, Any] = copied(given, set())
        if self.tags is not None:
            plain["$context_tags"] = sorted(self.tags)
        plain.update(self._runtime)
        nanoseconds = time.time_ns()
        milliseconds, rest = divmod(nanoseconds, 1_000_000)
        random = int.from_bytes(os.urandom(8), "big") >> 2
        bits = milliseconds << 80 | 0x7 << 76 | (rest * 4096 // 1_000_000) << 64 | 0b10 << 62 | random
        digits = f"{bits:032x}"
        uuid = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        seconds, fraction = divmod(nanoseconds, 1_000_000_000)
        if seconds != self._second:
            self._second, self._date = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        event = {
            "event": name,
            "distinct_id": distinct_id,
            "uuid": uuid,
            "timestamp": f"{self._date}.{fraction // 1000:06d}+00:00",
            "properties": plain,
        }
        body = encode(event).encode()
        with self._lock:
            self.captured += 1
            self.collected.append(body)
        return uuid


def copied(value: Any, opened: set[int]) -> Any:
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is not dict and kind is not list:
        return str(value)
    identity = id(value)
    if identity in opened or len(opened) >= 64:
        return "<circular>" if identity in opened else "<max depth>"
    opened.add(identity)
    if kind is dict:
        result: Any = {
            key if type(key) is str else str(key): copied(each, opened) for key, each in value.items()
        }
    else:
        result = [copied(each, opened) for each in value]
    opened.discard(identity)
    return result
