"""Each export format, in its own shape, to the bytes on the wire. The tables of docs/imports.md show the same."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest

from leanbase.cli import main
from tests.support.fault_server import FaultServer

AT = "2024-02-29T12:00:00.000Z"
ON_THE_WIRE = "2024-02-29T12:00:00+00:00"


@pytest.fixture
def imported(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import rows of a format; give the events that arrive and the reasons for rejected rows."""
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")

    def run(format: str, *rows: Any) -> tuple[list[dict[str, Any]], list[str]]:
        path = tmp_path / "export.jsonl"
        path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in rows))
        code = main(["import", "--format", format, str(path)])
        rejects = Path(f"{path}.rejects.jsonl")
        reasons = (
            [json.loads(line)["reason"] for line in rejects.read_text().splitlines()]
            if rejects.exists()
            else []
        )
        assert code == (1 if reasons else 0)
        return server.events, reasons

    return run


def own(event: dict[str, Any]) -> dict[str, Any]:
    """The properties without those of the SDK."""
    return {
        name: value
        for name, value in event["properties"].items()
        if name not in ("$lib", "$lib_version", "$geoip_disable")
    }


class TestSegment:
    CALL: ClassVar[dict[str, Any]] = {
        "messageId": "ajs-next-1709208000-abc",
        "anonymousId": "anon_1",
        "userId": "user_1",
        "timestamp": AT,
        "originalTimestamp": "2024-02-29T11:59:00Z",
        "receivedAt": "2024-02-29T12:00:01Z",
        "context": {
            "ip": "203.0.113.7",
            "userAgent": "Mozilla/5.0",
            "locale": "de-DE",
            "timezone": "Europe/Berlin",
            "page": {"url": "https://shop.example.com/a?b=c", "path": "/a", "referrer": "", "title": "Shop"},
            "campaign": {"source": "mail", "name": "spring"},
            "groupId": "acme",
        },
        "integrations": {"All": True},
        "channel": "client",
        "version": 2,
    }

    def test_track(self, imported: Any) -> None:
        call = {
            **self.CALL,
            "type": "track",
            "event": "Order Completed",
            "properties": {"total": 42, "ok": True},
        }
        (link, event, _), reasons = imported("segment", call, call)
        assert not reasons
        assert (link["event"], link["distinct_id"], own(link)) == (
            "$identify",
            "user_1",
            {"$anon_distinct_id": "anon_1"},
        )
        assert (event["event"], event["distinct_id"], event["timestamp"]) == (
            "Order Completed",
            "user_1",
            ON_THE_WIRE,
        )
        assert own(event) == {
            "total": 42,
            "ok": True,
            "$ip": "203.0.113.7",
            "$raw_user_agent": "Mozilla/5.0",
            "$locale": "de-DE",
            "$timezone": "Europe/Berlin",
            "$current_url": "https://shop.example.com/a?b=c",
            "$pathname": "/a",
            "title": "Shop",
            "utm_source": "mail",
            "utm_campaign": "spring",
            "$groups": {"segment_group": "acme"},
        }

    def test_the_same_message_is_one_event_and_ids_are_linked_once(self, imported: Any) -> None:
        call = {**self.CALL, "type": "track", "event": "Order"}
        events, _ = imported("segment", call, {**call, "receivedAt": "later"}, {**call, "messageId": "other"})
        assert [event["event"] for event in events] == ["$identify", "Order", "Order", "Order"]
        assert events[1]["uuid"] == events[2]["uuid"] != events[3]["uuid"]

    def test_page_and_screen(self, imported: Any) -> None:
        page = {
            **self.CALL,
            "userId": None,
            "type": "page",
            "name": "Home",
            "properties": {"url": "https://a.example/x"},
        }
        screen = {**self.CALL, "userId": None, "type": "screen", "name": "Cart", "properties": {"items": 3}}
        (first, second), _ = imported("segment", page, screen)
        assert (first["event"], first["distinct_id"]) == ("$pageview", "anon_1")
        assert own(first)["$current_url"] == "https://a.example/x", "the call's own wins"
        assert own(first)["name"] == "Home"
        assert (second["event"], own(second)["$screen_name"], own(second)["items"]) == ("$screen", "Cart", 3)

    def test_identify_group_and_alias(self, imported: Any) -> None:
        identify = {**self.CALL, "type": "identify", "traits": {"plan": "pro"}, "context": {}}
        group = {
            **self.CALL,
            "anonymousId": None,
            "type": "group",
            "groupId": "acme",
            "traits": {"seats": 7},
            "context": {},
        }
        alias = {**self.CALL, "anonymousId": None, "type": "alias", "previousId": "old", "context": {}}
        (one, two, three), _ = imported("segment", identify, group, alias)
        assert (one["event"], own(one)) == (
            "$identify",
            {"$set": {"plan": "pro"}, "$anon_distinct_id": "anon_1"},
        )
        assert (two["event"], own(two)) == (
            "$groupidentify",
            {
                "$group_type": "segment_group",
                "$group_key": "acme",
                "$groups": {"segment_group": "acme"},
                "$group_set": {"seats": 7},
            },
        )
        assert (three["event"], three["distinct_id"], own(three)) == (
            "$create_alias",
            "user_1",
            {"distinct_id": "user_1", "alias": "old"},
        )

    def test_odd_rows(self, imported: Any) -> None:
        track = {**self.CALL, "type": "track", "event": "e"}
        events, reasons = imported(
            "segment",
            {**track, "type": "delete"},
            {**track, "event": None},
            {**track, "userId": None, "anonymousId": ""},
            {**track, "timestamp": None, "originalTimestamp": None, "receivedAt": None},
            {**track, "context": "odd"},
            {**track, "properties": [1]},
            {**track, "type": "group"},
            {**track, "type": "alias", "anonymousId": None},
            {**track, "type": "group", "groupId": "g", "traits": {"group_type": ["x"]}},
            "[]\n",
            "{broken\n",
            '"text"\n',
            "\n",
            {**track, "userId": 17, "context": None, "properties": None},
        )
        assert [event["distinct_id"] for event in events] == ["17", "17"]
        assert len(reasons) == 12
        assert "write one object a line" in reasons[9]
        assert reasons[10].startswith("the line is not valid JSON")
        assert reasons[11] == "the line must be a JSON object, not str"


class TestMixpanel:
    EVENT: ClassVar[dict[str, Any]] = {
        "event": "Signed up",
        "properties": {
            "time": 1709208000,
            "distinct_id": "$device:abc",
            "$insert_id": "hpuDqcvpltpCjBsebtxwadtEBDnFAdycabFb",
            "$browser": "Chrome",
            "$city": "Berlin",
            "$region": "Land Berlin",
            "mp_country_code": "DE",
            "mp_lib": "web",
            "mp_processing_time_ms": 1709208001000,
            "$mp_api_endpoint": "api.mixpanel.com",
            "token": "their token",
            "plan": "pro",
        },
    }

    def changed(self, **more: Any) -> dict[str, Any]:
        return {**self.EVENT, "properties": {**self.EVENT["properties"], **more}}

    def test_an_event(self, imported: Any) -> None:
        (event,), _ = imported("mixpanel", self.EVENT)
        assert (event["event"], event["distinct_id"], event["timestamp"]) == (
            "Signed up",
            "$device:abc",
            ON_THE_WIRE,
        )
        assert own(event) == {
            "$browser": "Chrome",
            "$geoip_city_name": "Berlin",
            "$geoip_subdivision_1_name": "Land Berlin",
            "$geoip_country_code": "DE",
            "mp_lib": "web",
            "plan": "pro",
        }

    def test_milliseconds_page_views_and_ids(self, imported: Any) -> None:
        view = {
            "event": "$mp_web_page_view",
            "properties": {"time": 1709208000123, "distinct_id": "u", "$device_id": "abc", "$user_id": "u"},
        }
        (link, event), _ = imported("mixpanel", view)
        assert (event["event"], event["timestamp"]) == ("$pageview", "2024-02-29T12:00:00.123000+00:00")
        assert (link["event"], link["distinct_id"], own(link)) == (
            "$identify",
            "u",
            {"$anon_distinct_id": "$device:abc"},
        )

    def test_what_joins_ids(self, imported: Any) -> None:
        base = {"time": 1709208000}
        (one, two, three), _ = imported(
            "mixpanel",
            {"event": "$identify", "properties": {**base, "$identified_id": "user", "$anon_id": "anon"}},
            {"event": "$create_alias", "properties": {**base, "distinct_id": "user", "alias": "old"}},
            {"event": "$merge", "properties": {**base, "$distinct_ids": ["a", "b"]}},
        )
        assert (one["distinct_id"], own(one)["$anon_distinct_id"]) == ("user", "anon")
        assert (two["distinct_id"], own(two)) == ("user", {"distinct_id": "user", "alias": "old"})
        assert (three["event"], three["distinct_id"], own(three)["alias"]) == ("$merge_dangerously", "a", "b")

    def test_a_profile(self, imported: Any) -> None:
        profile = {
            "$distinct_id": 4,
            "$properties": {
                "$email": "a@example.com",
                "$created": "2020-01-01T00:00:00",
                "$last_seen": "2024-02-29T12:00:00",
                "plan": "pro",
            },
        }
        (event,), reasons = imported(
            "mixpanel",
            profile,
            {"$distinct_id": 5, "$properties": {}},
            {"$distinct_id": 6, "$properties": {"a": 1}},
        )
        assert (event["event"], event["distinct_id"], event["timestamp"]) == ("$set", "4", ON_THE_WIRE)
        assert own(event) == {
            "$set": {"email": "a@example.com", "created": "2020-01-01T00:00:00", "plan": "pro"}
        }
        assert reasons == ["the profile has no properties", "the row has no timestamp"]

    def test_odd_rows(self, imported: Any) -> None:
        events, reasons = imported(
            "mixpanel",
            self.changed(time=None),
            self.changed(time="soon"),
            self.changed(distinct_id=""),
            {"event": "e", "properties": None},
            {"event": "", "properties": self.EVENT["properties"]},
            {"event": "$merge", "properties": {"time": 1709208000, "$distinct_ids": ["a"]}},
            {"event": "$create_alias", "properties": {"time": 1709208000, "distinct_id": "a"}},
            {"error": "Invalid API request"},
            {"event": ["x"], "properties": {"distinct_id": "a", "time": 1709208000}},
            self.changed(**{"$insert_id": None}),
        )
        assert len(events) == 1
        assert len(reasons) == 9

    def test_an_insert_id_is_one_of_a_person_and_a_time(self, imported: Any) -> None:
        events, _ = imported(
            "mixpanel",
            self.changed(**{"$insert_id": "1"}),
            self.changed(**{"$insert_id": "1"}),
            self.changed(**{"$insert_id": "1", "distinct_id": "other"}),
        )
        first, again, other = [event["uuid"] for event in events]
        assert first == again != other


class TestAmplitude:
    EVENT: ClassVar[dict[str, Any]] = {
        "event_type": "Order",
        "event_time": "2024-02-29 12:00:00.000000",
        "client_event_time": "2024-02-29 11:59:59.000000",
        "uuid": "0198c0de-0000-7000-8000-000000000abc",
        "$insert_id": "x",
        "user_id": "user_1",
        "device_id": "device_1",
        "amplitude_id": 123,
        "session_id": 1709207999000,
        "event_properties": {"total": 42},
        "user_properties": {"plan": "pro"},
        "groups": {"company": ["acme"]},
        "group_properties": {},
        "city": "Berlin",
        "country": "Germany",
        "region": None,
        "ip_address": "203.0.113.7",
        "os_name": "Chrome",
        "os_version": "120",
        "device_family": "Mac",
        "version_name": None,
        "platform": "Web",
        "library": "amplitude-ts/2.3.0",
    }

    def test_an_event(self, imported: Any) -> None:
        (link, event), _ = imported("amplitude", self.EVENT)
        assert (link["distinct_id"], own(link)) == ("user_1", {"$anon_distinct_id": "device_1"})
        assert (event["event"], event["distinct_id"], event["timestamp"]) == ("Order", "user_1", ON_THE_WIRE)
        assert event["uuid"] == self.EVENT["uuid"]
        assert own(event) == {
            "total": 42,
            "$set": {"plan": "pro"},
            "$groups": {"company": "acme"},
            "$geoip_city_name": "Berlin",
            "$geoip_country_name": "Germany",
            "$ip": "203.0.113.7",
            "$os": "Chrome",
            "$os_version": "120",
            "$device": "Mac",
            "$device_id": "device_1",
            "platform": "Web",
            "session_id": 1709207999000,
        }

    def test_pages_persons_and_groups(self, imported: Any) -> None:
        anonymous = {**self.EVENT, "user_id": None}
        page = {
            **anonymous,
            "event_type": "[Amplitude] Page Viewed",
            "event_properties": {"[Amplitude] Page URL": "https://a.example/"},
        }
        person = {**anonymous, "event_type": "$identify"}
        group = {
            **anonymous,
            "event_type": "$groupidentify",
            "device_id": None,
            "group_properties": {"seats": 7},
        }
        (one, two, three), _ = imported("amplitude", page, person, group)
        assert (one["event"], one["distinct_id"], own(one)["$current_url"]) == (
            "$pageview",
            "device_1",
            "https://a.example/",
        )
        assert (two["event"], own(two)["$set"]) == ("$identify", {"plan": "pro"})
        assert (three["event"], three["distinct_id"]) == ("$groupidentify", "$company_acme")
        assert (own(three)["$group_type"], own(three)["$group_key"], own(three)["$group_set"]) == (
            "company",
            "acme",
            {"seats": 7},
        )

    def test_odd_rows(self, imported: Any) -> None:
        events, reasons = imported(
            "amplitude",
            {**self.EVENT, "user_id": None, "device_id": None},
            {**self.EVENT, "event_time": None, "client_event_time": None},
            {**self.EVENT, "event_time": "29.02.2024"},
            {**self.EVENT, "event_type": None},
            {**self.EVENT, "user_properties": "odd"},
            {**self.EVENT, "event_type": "$groupidentify", "groups": {}},
            {**self.EVENT, "user_id": "device_1", "groups": None, "uuid": None},
        )
        assert len(reasons) == 6
        assert [event["event"] for event in events] == ["Order"], "an id is not linked with itself"

    def test_an_archive_as_the_export_api_sends_it(
        self, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LEANBASE_HOST", server.url)
        monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")
        path = tmp_path / "export.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for hour in (1, 0):
                line = json.dumps({**self.EVENT, "user_id": None, "uuid": None, "$insert_id": f"hour {hour}"})
                archive.writestr(f"123/123_2024-02-29_{hour}#0.json.gz", gzip.compress(line.encode() + b"\n"))
        assert main(["import", "--format", "amplitude", str(path)]) == 0
        assert len(server.events) == 2
        assert main(["import", "--format", "amplitude", str(path)]) == 0
        assert len(server.events) == 2, "the checkpoint knows both"


class TestPostHog:
    EVENT: ClassVar[dict[str, Any]] = {
        "uuid": "0198c0de-0000-7000-8000-000000000abc",
        "event": "$pageview",
        "distinct_id": "user_1",
        "person_id": "0198c0de-0000-7000-8000-000000000def",
        "timestamp": "2024-02-29T12:00:00.000000+00:00",
        "created_at": "2024-02-29T12:00:01+00:00",
        "properties": {"$current_url": "https://a.example/", "$lib": "web", "$lib_version": "1.100.0"},
        "person_properties": {"plan": "pro"},
        "set": {"plan": "pro"},
        "set_once": {},
        "ip": "203.0.113.7",
        "site_url": "",
        "team_id": 1,
        "elements_chain": "",
    }

    def test_an_event(self, imported: Any) -> None:
        (event,), _ = imported("posthog", self.EVENT)
        assert {name: event[name] for name in ("event", "distinct_id", "uuid", "timestamp")} == {
            "event": "$pageview",
            "distinct_id": "user_1",
            "uuid": self.EVENT["uuid"],
            "timestamp": ON_THE_WIRE,
        }
        assert event["properties"] == {
            "$current_url": "https://a.example/",
            "$lib": "web",
            "$lib_version": "1.100.0",
            "$set": {"plan": "pro"},
            "$ip": "203.0.113.7",
            "$geoip_disable": True,
        }

    def test_strings_of_json_as_in_parquet_and_persons(self, imported: Any) -> None:
        text = {
            **self.EVENT,
            "properties": json.dumps({"a": 1}),
            "set": "{}",
            "timestamp": "2024-02-29 12:00:00.000000",
        }
        person = {
            "team_id": 1,
            "distinct_id": "user_1",
            "person_id": "p",
            "properties": {"plan": "pro"},
            "created_at": AT,
        }
        deleted = {**person, "is_deleted": True}
        events, reasons = imported("posthog", text, person, deleted, {**person, "properties": {}})
        assert own(events[0]) == {"a": 1, "$ip": "203.0.113.7"}
        assert (events[1]["event"], events[1]["distinct_id"], own(events[1])) == (
            "$set",
            "user_1",
            {"$set": {"plan": "pro"}},
        )
        assert reasons == ["the person was deleted", "the person has no properties"]

    def test_odd_rows(self, imported: Any) -> None:
        events, reasons = imported(
            "posthog",
            {**self.EVENT, "event": None},
            {**self.EVENT, "distinct_id": None},
            {**self.EVENT, "timestamp": None},
            {**self.EVENT, "properties": "{broken"},
            {**self.EVENT, "properties": "[]"},
            {**self.EVENT, "uuid": None, "properties": None},
        )
        assert len(events) == 1
        assert len(reasons) == 5
