"""Mixpanel: events from its raw export and profiles from its engage query, one JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rows import HistoricalEvent, UnusableRowError
from .fields import first, mapping, present

LEFT_OUT = (
    "$import",
    "$insert_id",
    "$mp_api_endpoint",
    "$mp_api_timestamp_ms",
    "distinct_id",
    "mp_processing_time_ms",
    "time",
    "token",
)
RENAMED = {
    "$city": "$geoip_city_name",
    "$region": "$geoip_subdivision_1_name",
    "mp_country_code": "$geoip_country_code",
    "ip": "$ip",
}
OF_PERSONS = {
    "$avatar": "avatar",
    "$created": "created",
    "$email": "email",
    "$first_name": "first_name",
    "$last_name": "last_name",
    "$name": "name",
    "$phone": "phone",
}
EVENTS = {"$mp_web_page_view": "$pageview"}


def event_of(fields: Mapping[str, Any]) -> HistoricalEvent:
    """Return the event of a row: an event, a profile, or an event that joins ids."""
    if "$distinct_id" in fields:
        return _profile(fields)
    given = mapping(fields, "properties")
    name = fields.get("event")
    own = {RENAMED.get(key, key): value for key, value in given.items() if key not in LEFT_OUT}
    event = HistoricalEvent(
        EVENTS.get(str(name), name), given.get("distinct_id"), given.get("time"), own, given.get("$insert_id")
    )
    if name in _JOINS:
        _JOINS[str(name)](event, given)
    elif given.get("$device_id") and given.get("$user_id"):
        event.previous_id = f"$device:{given['$device_id']}"
    return event


def _profile(fields: Mapping[str, Any]) -> HistoricalEvent:
    given = mapping(fields, "$properties")
    changed = {OF_PERSONS.get(name, name): value for name, value in given.items() if name != "$last_seen"}
    if not changed:
        raise UnusableRowError("the profile has no properties")
    return HistoricalEvent(
        "$set", fields.get("$distinct_id"), first(given, ("$last_seen", "$created")), {"$set": changed}
    )


def _identify(event: HistoricalEvent, given: Mapping[str, Any]) -> None:
    event.distinct_id = first(given, ("$identified_id", "distinct_id"))
    event.properties |= present({"$anon_distinct_id": given.get("$anon_id")})


def _alias(event: HistoricalEvent, given: Mapping[str, Any]) -> None:
    if not given.get("alias"):
        raise UnusableRowError("a $create_alias event needs an alias")
    event.properties["distinct_id"] = event.distinct_id


def _merge(event: HistoricalEvent, given: Mapping[str, Any]) -> None:
    ids = given.get("$distinct_ids")
    if not isinstance(ids, list) or len(ids) != 2:
        raise UnusableRowError("a $merge event needs two $distinct_ids")
    event.name, event.distinct_id = "$merge_dangerously", ids[0]
    event.properties["alias"] = ids[1]


_JOINS = {"$identify": _identify, "$create_alias": _alias, "$merge": _merge}
