"""The minimum cost of an event in Python: its bytes are written by hand, in one function.

`instructions.py` compares it with Leanbase. It makes the same bytes as `capture()` in a delivery scope, with
these guarantees:

* the event has all values as they were at the call, even if other threads change them;
* the JSON is strict: no NaN, no lone surrogates, no integer beyond 64 bits; other values become strings;
* a structure that contains itself, is nested too deeply, or refers to one list a thousand times, is cut off;
* the uuid is a new UUIDv7, the timestamp is in UTC with microseconds;
* context tags are merged under the given properties, and listed by name;
* threads collect into one list under a lock, and every captured event is counted, with its bytes.

It is fast because the JSON that events share is written once, plain properties are checked but not copied,
and the encoder is made once. It has no hooks, no options and no identity from contexts, and sends nothing.
"""

from __future__ import annotations

import json.encoder
import os
import threading
import time
from typing import Any

module: Any = json.encoder
write = module.c_make_encoder(None, str, module.encode_basestring, None, ":", ",", False, False, False)
VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
MAX_EVENT_BYTES = 900 * 1024


class Handwritten:
    """Collects events. Every event has the properties `runtime`."""

    def __init__(self, runtime: dict[str, Any], tags: dict[str, Any] | None = None) -> None:
        self._tags = {**tags, "$context_tags": sorted(tags)} if tags else {}
        self._runtime = runtime
        self._shared_names = {*self._tags, *runtime}
        self._shared = "".join(write({**self._tags, **runtime}, 0))[1:]
        self.collected: list[bytes] = []
        self.captured = self.bytes = 0
        self._lock = threading.Lock()
        self._second, self._date = 0, ""

    def capture(self, name: str, distinct_id: str, properties: dict[str, Any]) -> str:
        """Collect an event and return its uuid."""
        plain = properties.copy()
        try:
            is_plain = nodes_left(plain, 1000, 16) >= 0
        except RuntimeError:
            is_plain = False
        if not is_plain:
            plain = copied(properties, set())
        nanoseconds = time.time_ns()
        milliseconds, rest = divmod(nanoseconds, 1_000_000)
        moment = milliseconds << 16 | 0x7000 | rest * 4096 // 1_000_000
        digits = (moment.to_bytes(8, "big") + os.urandom(8)).hex()
        variant = VARIANTS[digits[16]]
        uuid = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{variant}{digits[17:20]}-{digits[20:]}"
        seconds, fraction = divmod(nanoseconds, 1_000_000_000)
        if seconds != self._second:
            self._second, self._date = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        is_apart = plain and self._shared_names.isdisjoint(plain)
        event = {
            "event": name,
            "distinct_id": distinct_id,
            "uuid": uuid,
            "timestamp": f"{self._date}.{fraction // 1000:06d}+00:00",
            "properties": plain if is_apart else {**self._tags, **plain, **self._runtime},
        }
        text = "".join(write(event, 0))
        if is_apart:
            text = f"{text[:-2]},{self._shared}}}"
        try:
            body = text.encode()
        except UnicodeEncodeError:
            body = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
        if len(body) > MAX_EVENT_BYTES:
            raise ValueError("too large")
        with self._lock:
            self.captured += 1
            self.bytes += len(body)
            self.collected.append(body)
        return uuid


def nodes_left(container: Any, left: int, levels: int) -> int:
    """Return `left` minus the number of values inside, or -1 if the encoder needs a copy of them."""
    left -= len(container)
    if left < 0 or not levels:
        return -1
    values = container
    if type(container) is dict:
        for key in container:
            if type(key) is not str or len(key) > 4096:
                return -1
        values = container.values()
    for value in values:
        kind = type(value)
        if kind is str:
            if len(value) > 4096:
                return -1
        elif kind is dict or kind is list:
            left = nodes_left(value, left, levels - 1)
            if left < 0:
                return -1
        elif kind is int:
            if not -(2**63) <= value < 2**64:
                return -1
        elif kind is float:
            if value - value != 0.0:
                return -1
        elif value is not None and kind is not bool:
            return -1
    return left


def copied(value: Any, opened: set[int]) -> Any:
    """Return a copy of a value that the encoder can write."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else str(value)
    if kind is float:
        return value if value - value == 0.0 else None
    if kind is not dict and kind is not list:
        return str(value)
    identity = id(value)
    if identity in opened or len(opened) >= 64:
        return "<circular>" if identity in opened else "<max depth>"
    opened.add(identity)
    if kind is dict:
        result: Any = {
            key if type(key) is str else str(key): copied(each, opened) for key, each in value.copy().items()
        }
    else:
        result = [copied(each, opened) for each in list(value)]
    opened.discard(identity)
    return result
