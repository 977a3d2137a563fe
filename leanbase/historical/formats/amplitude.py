"""Amplitude: events from its Export API, one JSON object a line, in gzip files in a zip archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rows import HistoricalEvent, UnusableRowError
from .fields import first, mapping, present, renamed

EVENTS = {"[Amplitude] Page Viewed": "$pageview"}
RENAMED = {
    "city": "$geoip_city_name",
    "country": "$geoip_country_name",
    "region": "$geoip_subdivision_1_name",
    "ip_address": "$ip",
    "language": "$locale",
    "os_name": "$os",
    "os_version": "$os_version",
    "device_family": "$device",
    "device_id": "$device_id",
    "device_manufacturer": "$device_manufacturer",
    "device_model": "$device_model",
    "device_type": "$device_type",
    "version_name": "$app_version",
    "platform": "platform",
    "session_id": "session_id",
}
OF_PAGES = {
    "[Amplitude] Page URL": "$current_url",
    "[Amplitude] Page Path": "$pathname",
    "[Amplitude] Page Domain": "$host",
    "[Amplitude] Page Title": "title",
}


def event_of(fields: Mapping[str, Any]) -> HistoricalEvent:
    user, device = (fields.get(name) for name in ("user_id", "device_id"))
    own = mapping(fields, "event_properties")
    groups = {kind: _group_key(key) for kind, key in mapping(fields, "groups").items()}
    properties = {
        **renamed(fields, RENAMED),
        **renamed(own, OF_PAGES),
        **own,
        **present({"$groups": present(groups), "$set": mapping(fields, "user_properties")}),
    }
    name = fields.get("event_type")
    event = HistoricalEvent(
        EVENTS.get(str(name), name),
        first({"user": user, "device": device}, ("user", "device")),
        first(fields, ("event_time", "client_event_time", "server_received_time")),
        properties,
        first(fields, ("uuid", "$insert_id")),
        device if user not in (None, "") else None,
    )
    if name == "$groupidentify":
        _describe_group(event, present(groups), mapping(fields, "group_properties"))
    return event


def _group_key(key: Any) -> Any:
    return key[0] if isinstance(key, list) and len(key) == 1 else key


def _describe_group(event: HistoricalEvent, groups: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    if len(groups) != 1:
        raise UnusableRowError("a $groupidentify event needs one group")
    ((kind, key),) = groups.items()
    event.distinct_id = first({"id": event.distinct_id}, ("id",)) or f"${kind}_{key}"
    event.properties |= {"$group_type": kind, "$group_key": key, "$group_set": dict(described)}
