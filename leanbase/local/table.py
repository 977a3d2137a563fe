"""Format events for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_EVERYWHERE = (
    "$context_tags", "$geoip_disable", "$ip", "$is_server", "$lib", "$os", "$python", "$raw_user_agent",
    "$request_", "$user_agent", "cloud.", "faas.",
)  # fmt: skip
"""Prefixes of properties that do not distinguish events.

The SDK adds them to every event, or a handler adds them to every event of an invocation.
"""

_HEADINGS = ("time", "event", "distinct id", "properties")


def rows(events: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return the cells of each event: time of day in UTC, name, distinct id, the properties of interest."""
    return [
        (
            event["timestamp"][11:23],
            printable(event["event"]),
            printable(event["distinct_id"]),
            properties_of_interest(event["properties"]),
        )
        for event in events
    ]


def properties_of_interest(properties: Mapping[str, Any]) -> str:
    """Return the properties that distinguish events, on one line. The application's own come first."""
    what = _exception(properties)
    left_out = (*_EVERYWHERE, "$exception_") if what else _EVERYWHERE
    shown = {name: value for name, value in properties.items() if not name.startswith(left_out)}
    ordered = sorted(shown, key=lambda name: name.startswith("$"))
    return "  ".join([*what, *(f"{printable(name)}={_short(shown[name])}" for name in ordered)])


def _exception(properties: Mapping[str, Any]) -> list[str]:
    """Return the type, message, level and innermost in-app frame of an exception event, else `[]`."""
    try:
        first = properties["$exception_list"][0]
        what = [f"{first['type']}: {_short(first['value'])}"]
        frames = first.get("stacktrace", {}).get("frames", [])
        own = [frame for frame in frames if frame["in_app"]] or frames
        if own:
            what.append(f"at {own[-1]['filename']}:{own[-1].get('lineno')} in {own[-1]['function']}")
        handled = {True: ", handled", False: ", not handled"}.get(first["mechanism"].get("handled"), "")
        what.append(f"({properties['$exception_level']}{handled})")
        return [printable(each) for each in what]
    except (KeyError, IndexError, TypeError, AttributeError):
        return []  # not an exception event, or the application set `$exception_list` itself


def render(events: Iterable[Mapping[str, Any]], width: int) -> str:
    """Return a table with a heading, each line cut to `width` characters."""
    cells: list[Sequence[str]] = [_HEADINGS, *rows(events)]
    widths = [min(36, max(len(row[column]) for row in cells)) for column in range(3)]
    lines = ["  ".join([*(_fit(c, w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in cells]
    lines.insert(1, "  ".join([*("─" * w for w in widths), "─" * max(10, width - sum(widths) - 6)]))
    return "\n".join(_fit(line, width).rstrip() for line in lines)


def printable(text: str) -> str:
    """Replace the unprintable characters of a received string: a terminal could execute them.

    >>> printable("a\\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _fit(printable(text), 60).rstrip()


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
