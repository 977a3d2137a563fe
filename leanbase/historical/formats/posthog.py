"""PostHog: events and persons from its batch exports, in JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rows import HistoricalEvent, UnusableRowError
from .fields import first, mapping, present


def event_of(fields: Mapping[str, Any]) -> HistoricalEvent:
    """Return the event of a row: an event, or the properties of a person."""
    properties = mapping(fields, "properties")
    if "event" not in fields and "person_id" in fields:
        return _person(fields, properties)
    beside = present(
        {
            "$set": mapping(fields, "set"),
            "$set_once": mapping(fields, "set_once"),
            "$ip": fields.get("ip"),
            "$elements_chain": fields.get("elements_chain"),
        }
    )
    return HistoricalEvent(
        fields.get("event"),
        fields.get("distinct_id"),
        fields.get("timestamp"),
        {**beside, **properties},
        fields.get("uuid"),
    )


def _person(fields: Mapping[str, Any], properties: dict[str, Any]) -> HistoricalEvent:
    if fields.get("is_deleted") in (True, 1, "true"):
        raise UnusableRowError("the person was deleted")
    if not properties:
        raise UnusableRowError("the person has no properties")
    changed = first(fields, ("_inserted_at", "created_at"))
    return HistoricalEvent("$set", fields.get("distinct_id"), changed, {"$set": properties})
