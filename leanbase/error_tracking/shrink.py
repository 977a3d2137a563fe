"""Shrinks an exception event that is too large, step by step, until it fits (X-60)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..errors import EventTooLargeError
from ..events.encoding import EncodedEvent, encode
from .source import cut_bytes

OUTERMOST = 10
INNERMOST = 20
MAX_MESSAGE_BYTES = 1024
MAX_ITEMS = 5


def encode_shrunk(event: dict[str, Any]) -> EncodedEvent:
    """Encode an event that is too large, with as much of its exceptions as fits. Changes `event`.

    Its properties may be malformed, because hooks may have changed them.

    Raises:
        EventTooLargeError: The event is still too large after all steps.
    """
    for reduce in _STEPS:
        reduce(event["properties"])
        try:
            return encode(event)
        except EventTooLargeError as error:
            last = error
    raise last


def _without_variables(properties: dict[str, Any]) -> None:
    for frame in _frames(properties):
        frame.pop("code_variables", None)


def _without_source_of_others(properties: dict[str, Any]) -> None:
    for frame in _frames(properties):
        if not frame.get("in_app"):
            _drop_source(frame)


def _without_source(properties: dict[str, Any]) -> None:
    for frame in _frames(properties):
        _drop_source(frame)


def _with_fewer_frames(properties: dict[str, Any]) -> None:
    for stacktrace in _stacktraces(properties):
        frames = stacktrace["frames"]
        if len(frames) > OUTERMOST + INNERMOST:
            stacktrace["frames"] = [*frames[:OUTERMOST], *frames[-INNERMOST:]]


def _with_short_messages(properties: dict[str, Any]) -> None:
    for owner, name in [
        (properties, "$exception_message"),
        *((item, "value") for item in _items(properties)),
    ]:
        if isinstance(owner.get(name), str):
            owner[name] = cut_bytes(owner[name], MAX_MESSAGE_BYTES)


def _with_fewer_items(properties: dict[str, Any]) -> None:
    if isinstance(properties.get("$exception_list"), list):
        del properties["$exception_list"][MAX_ITEMS:]


_STEPS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _without_variables,
    _without_source_of_others,
    _without_source,
    _with_fewer_frames,
    _with_short_messages,
    _with_fewer_items,
)


def _items(properties: dict[str, Any]) -> Iterator[dict[str, Any]]:
    items = properties.get("$exception_list")
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _stacktraces(properties: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in _items(properties):
        stacktrace = item.get("stacktrace")
        if isinstance(stacktrace, dict) and isinstance(stacktrace.get("frames"), list):
            yield stacktrace


def _frames(properties: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for stacktrace in _stacktraces(properties):
        yield from (frame for frame in stacktrace["frames"] if isinstance(frame, dict))


def _drop_source(frame: dict[str, Any]) -> None:
    for name in ("pre_context", "context_line", "post_context"):
        frame.pop(name, None)
