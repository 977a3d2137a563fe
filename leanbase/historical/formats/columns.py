"""Maps columns to events: CSV, JSON lines and Parquet files of any origin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ..rows import HistoricalEvent, UnusableRowError, decode_json, with_groups

MAX_DIGITS_OF_INT = 19
_LIKE_A_NAME = re.compile(r"[A-Za-z_$][\w $./()-]{0,60}")
_FIRST_OF_JSON = frozenset("-0123456789tf{[")


@dataclass(frozen=True)
class Columns:
    """Maps columns to an event.

    Args:
        event: The column with the event's name.
        name: A name for all events, in place of a column.
        distinct_id: The column with the person's id.
        timestamp: The column with the time.
        uuid: The column with the event's own id, or `None`.
        properties: The columns that become properties. Default: all others.
        is_text: Whether all values are strings, as in CSV. Numbers, `true`, `false`, objects and arrays are
            then read as JSON, and an empty string is not a property.
    """

    event: str = "event"
    name: str | None = None
    distinct_id: str = "distinct_id"
    timestamp: str = "timestamp"
    uuid: str | None = None
    properties: Sequence[str] | None = None
    is_text: bool = False
    _formed: frozenset[str | None] = field(init=False)

    def __post_init__(self) -> None:
        event = None if self.name else self.event
        object.__setattr__(self, "_formed", frozenset({self.distinct_id, self.timestamp, self.uuid, event}))

    def check(self, names: Sequence[str]) -> None:
        """Check the header of a file.

        Raises:
            ConfigError: A column is missing, or appears twice.
        """
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the header has {', '.join(map(repr, twice))} more than once")
        options = {
            "--event-column": None if self.name else self.event,
            "--distinct-id-column": self.distinct_id,
            "--timestamp-column": self.timestamp,
            "--uuid-column": self.uuid,
        }
        missing = {option: name for option, name in options.items() if name and name not in names}
        if missing:
            option, name = next(iter(missing.items()))
            are = f"The columns are {', '.join(map(repr, names))}"
            if not all(_LIKE_A_NAME.fullmatch(each) for each in names):  # never show values of a row
                are = f"The first line has {len(names)} cells, and does not look like a header"
            raise ConfigError(f"there is no column {name!r}; name another with {option}. {are}")
        unknown = [name for name in self.properties or () if name not in names]
        if unknown:
            raise ConfigError(f"--properties names {unknown[0]!r}, which is not a column")

    def event_of(self, fields: Mapping[str, Any]) -> HistoricalEvent:
        formed = self._formed
        if self.properties is None:
            if self.is_text:
                given = fields.items()
                chosen = {name: value_of(text) for name, text in given if text != "" and name not in formed}
            else:
                chosen = {name: value for name, value in fields.items() if name not in formed}
            groups = chosen.pop("groups") if isinstance(chosen.get("groups"), Mapping) else None
            if not self.is_text and isinstance(chosen.get("properties"), Mapping):
                chosen = {**chosen.pop("properties"), **chosen}
            if groups is not None:
                chosen = with_groups(chosen, groups)
        else:
            chosen = {name: fields[name] for name in self.properties if fields.get(name) not in (None, "")}
            if self.is_text:
                chosen = {name: value_of(text) for name, text in chosen.items()}
        return HistoricalEvent(
            self.name or fields.get(self.event),
            fields.get(self.distinct_id),
            fields.get(self.timestamp),
            chosen,
            fields.get(self.uuid) if self.uuid else None,
        )


def value_of(text: str) -> Any:
    """Parse a cell that is a number, boolean, object or array in JSON. Return any other cell unchanged.

    >>> value_of("42"), value_of("007"), value_of("true"), value_of("null")
    (42, '007', True, 'null')
    """
    if text[0] not in _FIRST_OF_JSON:
        return text
    if text.isdecimal() and text.isascii() and text[0] != "0" and len(text) < MAX_DIGITS_OF_INT:
        return int(text)  # much faster than the decoder
    try:
        return decode_json(text)
    except (ValueError, RecursionError):
        return text


def object_of(line: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a line.

    Raises:
        UnusableRowError: The line is not a JSON object.
    """
    try:
        found = json.loads(line)
    except UnicodeDecodeError:
        raise UnusableRowError("the line is not UTF-8") from None
    except RecursionError:
        raise UnusableRowError("the line is nested too deeply") from None
    except ValueError as error:
        what = getattr(error, "msg", "")
        raise UnusableRowError(f"the line is not valid JSON: {what}") from None
    if not isinstance(found, Mapping):
        raise UnusableRowError(f"the line must be a JSON object, not {type(found).__name__}")
    return found
