"""Segment: calls from its S3 destination and its warehouse exports, one JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rows import HistoricalEvent, UnusableRowError
from .fields import first, mapping, present, renamed

CONTEXT = {"ip": "$ip", "userAgent": "$raw_user_agent", "locale": "$locale", "timezone": "$timezone"}
PAGE = {
    "url": "$current_url",
    "path": "$pathname",
    "referrer": "$referrer",
    "title": "title",
    "search": "$search",
}
CAMPAIGN = {
    "source": "utm_source",
    "medium": "utm_medium",
    "name": "utm_campaign",
    "term": "utm_term",
    "content": "utm_content",
}


def event_of(fields: Mapping[str, Any]) -> HistoricalEvent:
    """Return the event of one call: track, page, screen, identify, group or alias."""
    kind = str(fields.get("type") or "").lower()
    if kind not in _KINDS:
        raise UnusableRowError("type must be track, page, screen, identify, group or alias")
    user, anonymous = fields.get("userId"), fields.get("anonymousId")
    person = first({"user": user, "anonymous": anonymous}, ("user", "anonymous"))
    event = HistoricalEvent(
        None,
        person,
        first(fields, ("timestamp", "originalTimestamp", "receivedAt")),
        _of_context(mapping(fields, "context")),
        fields.get("messageId"),
        anonymous if user not in (None, "") else None,
    )
    _KINDS[kind](event, fields)
    return event


def _track(event: HistoricalEvent, fields: Mapping[str, Any]) -> None:
    event.name = fields.get("event")
    event.properties |= mapping(fields, "properties")


def _page(event: HistoricalEvent, fields: Mapping[str, Any]) -> None:
    own = mapping(fields, "properties")
    event.name = "$pageview"
    event.properties |= {**renamed(own, PAGE), **own, **present({"name": fields.get("name")})}


def _screen(event: HistoricalEvent, fields: Mapping[str, Any]) -> None:
    event.name = "$screen"
    event.properties |= {
        **mapping(fields, "properties"),
        **present({"$screen_name": fields.get("name") or fields.get("event")}),
    }


def _identify(event: HistoricalEvent, fields: Mapping[str, Any]) -> None:
    event.name = "$identify"
    event.properties |= present({"$set": mapping(fields, "traits"), "$anon_distinct_id": event.previous_id})
    event.previous_id = None  # the event itself links the two ids


def _group(event: HistoricalEvent, fields: Mapping[str, Any]) -> None:
    key = fields.get("groupId")
    if key in (None, ""):
        raise UnusableRowError("a group call needs a groupId")
    event.name = "$groupidentify"
    traits = mapping(fields, "traits")
    kind = traits.pop("group_type", None) or "segment_group"
    event.properties |= {"$group_type": kind, "$group_key": key, "$groups": {kind: key}}
    event.properties |= present({"$group_set": traits})


def _alias(event: HistoricalEvent, fields: Mapping[str, Any]) -> None:
    previous = first(fields, ("previousId", "anonymousId"))
    if previous is None:
        raise UnusableRowError("an alias call needs a previousId")
    event.name = "$create_alias"
    event.properties |= {"distinct_id": event.distinct_id, "alias": previous}
    event.previous_id = None


_KINDS = {
    "track": _track,
    "page": _page,
    "screen": _screen,
    "identify": _identify,
    "group": _group,
    "alias": _alias,
}


def _of_context(context: Mapping[str, Any]) -> dict[str, Any]:
    found = renamed(context, CONTEXT)
    for name, names in (("page", PAGE), ("campaign", CAMPAIGN)):
        found |= renamed(mapping(context, name), names)
    groups = first(context, ("groupId",))
    if groups is not None:
        found["$groups"] = {"segment_group": groups}
    return found
