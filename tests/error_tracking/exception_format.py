"""The format of `$exception` events, written down independently of the code that makes them.

`assert_valid_exception` holds for every exception event that any test captures. The other functions read parts of an
event's properties.
"""

from __future__ import annotations

from typing import Any

LEVELS = {"fatal", "error", "warning", "log", "info", "debug"}
ITEM_FIELDS = {"type", "value", "module", "thread_id", "stacktrace", "mechanism"}
FRAME_FIELDS = {
    "platform", "filename", "abs_path", "function", "module", "lineno", "context_line", "pre_context",
    "post_context", "in_app", "code_variables",
}  # fmt: skip


def assert_valid_exception(event: dict[str, Any]) -> None:
    """Fail unless the event, each exception in it and each frame has the right fields, types and sizes."""
    assert event["event"] == "$exception"
    properties = event["properties"]
    items = properties["$exception_list"]
    assert 1 <= len(items) <= 50
    assert properties["$exception_type"] == items[0]["type"]
    assert properties["$exception_message"] == items[0]["value"]
    assert properties["$exception_level"] in LEVELS
    assert "$debug_images" not in properties
    for name in ("$exception_fingerprint", "$exception_source"):
        assert name not in properties or (isinstance(properties[name], str) and properties[name])
    for position, item in enumerate(items):
        _assert_valid_item(item, position)


def _assert_valid_item(item: dict[str, Any], position: int) -> None:
    assert set(item) <= ITEM_FIELDS
    assert None not in item.values()
    assert isinstance(item["type"], str)
    assert item["type"]
    assert isinstance(item["value"], str)
    assert len(item["value"].encode()) <= 8192
    assert "module" not in item or (isinstance(item["module"], str) and item["module"] != "builtins")
    assert "thread_id" not in item or -(2**31) <= item["thread_id"] < 2**31
    _assert_valid_mechanism(item["mechanism"], position)
    if "stacktrace" in item:
        assert item["stacktrace"]["type"] == "raw"
        assert 1 <= len(item["stacktrace"]["frames"]) <= 100
        for frame in item["stacktrace"]["frames"]:
            _assert_valid_frame(frame)


def _assert_valid_mechanism(mechanism: dict[str, Any], position: int) -> None:
    assert mechanism["exception_id"] == position
    assert None not in mechanism.values()
    for name in ("handled", "synthetic"):
        assert name not in mechanism or isinstance(mechanism[name], bool)
    if position:
        assert mechanism["type"] == "chained"
        assert 0 <= mechanism["parent_id"] < position
        assert mechanism["source"] in ("cause", "context", "member")
        assert "handled" not in mechanism
    else:
        assert "parent_id" not in mechanism
        assert "source" not in mechanism
        assert isinstance(mechanism["type"], str)
        assert mechanism["type"]


def _assert_valid_frame(frame: dict[str, Any]) -> None:
    assert set(frame) <= FRAME_FIELDS
    assert None not in frame.values()
    assert frame["platform"] == "python"
    for name in ("filename", "function"):
        assert isinstance(frame[name], str)
        assert frame[name]
    assert isinstance(frame["in_app"], bool)
    assert "lineno" not in frame or frame["lineno"] > 0
    for name in ("pre_context", "post_context"):
        assert len(frame.get(name, [])) <= 5
        assert all(len(line.encode()) <= 1024 for line in frame.get(name, []))
    assert len(frame.get("context_line", "").encode()) <= 1024


def frames(properties: dict[str, Any], item: int = 0) -> list[dict[str, Any]]:
    """Return the frames of one exception of an event, outermost first."""
    found: list[dict[str, Any]] = properties["$exception_list"][item].get("stacktrace", {}).get("frames", [])
    return found


def functions(properties: dict[str, Any], item: int = 0) -> list[str]:
    """Return the names of the frames' functions."""
    return [frame["function"] for frame in frames(properties, item)]


def chain(properties: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the message, the relation to its parent and the parent's id of each exception of an event."""
    return [
        (item["value"], item["mechanism"].get("source"), item["mechanism"].get("parent_id"))
        for item in properties["$exception_list"]
    ]
