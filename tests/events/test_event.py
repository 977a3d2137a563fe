"""Events on the wire: names, ids, uuids, timestamps, and the properties that the SDK adds."""

from __future__ import annotations

import datetime as dt
import logging
import platform
import re
import sys
import time
import uuid
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leanbase import Leanbase
from leanbase._version import __version__
from leanbase.events import timestamps
from leanbase.events.encoding import encode, sanitize
from leanbase.events.event import runtime_properties
from leanbase.events.ids import uuid4, uuid7
from leanbase.events.timestamps import normalized_timestamp
from leanbase.local.server import LocalServer
from leanbase.transports import MemoryTransport

UTC = dt.timezone.utc
RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")


def only_event(memory: MemoryTransport) -> dict[str, Any]:
    """Return the one event that was captured. Fail if there is another number of events."""
    assert len(memory.events) == 1
    return memory.events[0]


@pytest.mark.rule("E-1")
@pytest.mark.parametrize("name", ["", "  ", None, 7, b"bytes"])
def test_an_event_without_a_name_is_dropped_with_a_warning(
    name: Any, client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.capture(name, distinct_id="u") is None
    assert memory.events == []
    assert client.stats()["dropped"] == {"invalid": 1}
    assert "the event name must be a non-empty string" in caplog.text


@pytest.mark.rule("E-1")
def test_the_event_name_is_sent_verbatim(client: Leanbase, memory: MemoryTransport) -> None:
    client.capture(" Order  Created ", distinct_id="u")
    assert only_event(memory)["event"] == " Order  Created "


@pytest.mark.rule("E-2", "E-11")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("User 1 ", "User 1 "),
        (0, "0"),
        (12345678901234567890123, "12345678901234567890123"),
        (1.5, "1.5"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("né".encode(), "né"),
        ("a\x00b", "a\ufffdb"),
        ("x" * 300, "x" * 300),
    ],
)
def test_ids_of_these_types_are_sent_as_strings(
    given: Any, expected: str, client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture("e", distinct_id=given)
    assert only_event(memory)["distinct_id"] == expected
    assert "$process_person_profile" not in only_event(memory)["properties"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.rule("E-10", "E-11")
@pytest.mark.parametrize("given", [None, "", "  ", float("nan"), float("inf"), b"\xff", Unprintable()])
def test_a_missing_id_makes_the_event_personless(
    given: Any, client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture("e", distinct_id=given)
    event = only_event(memory)
    assert uuid.UUID(event["distinct_id"]).version == 4
    assert event["properties"]["$process_person_profile"] is False


@pytest.mark.rule("E-20")
def test_a_given_process_person_profile_is_not_replaced(client: Leanbase, memory: MemoryTransport) -> None:
    client.capture("e", properties={"$process_person_profile": True})
    client.capture("e", distinct_id="u", properties={"$process_person_profile": False})
    assert [event["properties"]["$process_person_profile"] for event in memory.events] == [True, False]


@pytest.mark.rule("E-3", "G-3")
def test_a_given_uuid_is_kept_normalized_or_replaced_and_the_sent_one_is_returned(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    spelled = "0198C0DE-0000-7000-8000-000000000ABC"
    returned = [
        client.capture("e", distinct_id="u"),
        client.capture("e", distinct_id="u", uuid=spelled),
        client.capture("e", distinct_id="u", uuid="{0198c0de00007000800000000000abcd}"),
        client.capture("e", distinct_id="u", uuid=uuid.UUID(int=5)),
        client.capture("e", distinct_id="u", uuid="not a uuid"),
        client.capture("e", distinct_id="u", uuid=3),
    ]
    assert returned == [event["uuid"] for event in memory.events]
    assert uuid.UUID(returned[0]).version == 7
    assert returned[1] == spelled
    assert returned[2] == "0198c0de-0000-7000-8000-00000000abcd"
    assert returned[3] == str(uuid.UUID(int=5))
    assert uuid.UUID(returned[4]).version == uuid.UUID(returned[5]).version == 7
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "not a uuid" not in caplog.text


@pytest.mark.rule("E-3")
def test_uuid7_values_are_ordered_and_well_formed() -> None:
    made = [uuid7() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert [each[:18] for each in made] == sorted(each[:18] for each in made)
    for each in made[:50]:
        parsed = uuid.UUID(each)
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122
        age = dt.datetime.now(UTC).timestamp() - (parsed.int >> 80) / 1000
        assert -1 < age < 60
    assert uuid.UUID(uuid4()).version == 4
    assert uuid.UUID(uuid4()).variant == uuid.RFC_4122


@pytest.mark.rule("E-4", "E-12")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            dt.datetime(2025, 1, 2, 8, 34, 5, tzinfo=dt.timezone(dt.timedelta(hours=5.5))),
            "2025-01-02T03:04:05+00:00",
        ),
        (dt.datetime(2025, 1, 2, 3, 4, 5, 678900), "2025-01-02T03:04:05.678900+00:00"),
        ("2025-01-02T03:04:05Z", "2025-01-02T03:04:05+00:00"),
        ("2025-01-02T08:34:05.123+05:30", "2025-01-02T03:04:05.123000+00:00"),
        ("2025-01-02T08:34:05+0530", "2025-01-02T03:04:05+00:00"),
        ("20250102T030405Z", "2025-01-02T03:04:05+00:00"),
        ("2025-01-01T22:04:05-05:00", "2025-01-02T03:04:05+00:00"),
        ("2025-01-02 03:04:05", "2025-01-02T03:04:05+00:00"),
        ("2025-01-02T03:04", "2025-01-02T03:04:00+00:00"),
        ("2025-01-02T03:04:05.123456789Z", "2025-01-02T03:04:05.123456+00:00"),
    ],
)
def test_datetimes_and_iso_8601_strings_become_rfc_3339_in_utc(given: Any, expected: str) -> None:
    assert normalized_timestamp(given) == expected


class NoOffset(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> None:
        return None

    def dst(self, when: dt.datetime | None) -> None:
        return None

    def tzname(self, when: dt.datetime | None) -> str:
        return "?"


@pytest.mark.rule("E-12")
def test_a_datetime_whose_tzinfo_has_no_offset_counts_as_naive() -> None:
    moment = dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=NoOffset())
    assert normalized_timestamp(moment) == "2025-01-02T03:04:05+00:00"


@pytest.mark.rule("E-12")
def test_a_naive_datetime_of_the_last_five_seconds_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datetime.now()` returns such a value. As UTC, it would move the event by hours."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        local = dt.datetime.now()
        assert normalized_timestamp(local) == local.astimezone(UTC).isoformat()
        old = local - dt.timedelta(seconds=6)
        assert normalized_timestamp(old) == old.replace(tzinfo=UTC).isoformat()
        ahead = local + dt.timedelta(seconds=60)
        assert normalized_timestamp(ahead) == ahead.replace(tzinfo=UTC).isoformat()
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


class Arrow:
    """Like an object of the package Arrow: it has a datetime of its own."""

    datetime = dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.rule("E-12")
@pytest.mark.parametrize(
    ("given", "instant"),
    [
        ("2026-06-27", "2026-06-27T00:00:00"),
        ("20260627", "2026-06-27T00:00:00"),
        (dt.date(2026, 6, 27), "2026-06-27T00:00:00"),
        (1767225600, "2026-01-01T00:00:00"),
        (1767225600.25, "2026-01-01T00:00:00.250000"),
        (1767225600123, "2026-01-01T00:00:00.123000"),
        (10**8, "1973-03-03T09:46:40"),
        ("2026-01-15T12Z", "2026-01-15T12:00:00"),
        ("2026-W03-4T12:00:00Z", "2026-01-15T12:00:00"),
        ("2026W034", "2026-01-15T00:00:00"),
        ("2026-01-15T24:00:00Z", "2026-01-16T00:00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        ("2026-01-15T12:30:45+05:30:15", "2026-01-15T07:00:30"),
        (Arrow(), "2020-01-02T03:04:05"),
    ],
)
def test_dates_epoch_numbers_and_other_kinds_of_timestamps_are_read(given: Any, instant: str) -> None:
    assert normalized_timestamp(given) == f"{instant}+00:00"


@pytest.mark.rule("E-12")
def test_an_invalid_timestamp_drops_the_event_of_a_historical_migration(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory, historical_migration=True)
    assert client.capture("row", distinct_id="u", timestamp="the day before yesterday") is None
    client.before_send = lambda event: {**event, "timestamp": "soon"}
    assert client.capture("row", distinct_id="u", timestamp="2020-01-02") is None
    client.before_send = None
    assert client.capture("row", distinct_id="u", timestamp="2020-01-02")
    assert client.stats()["dropped"] == {"invalid": 2}
    assert [event["timestamp"] for event in memory.events] == ["2020-01-02T00:00:00+00:00"]


@pytest.mark.rule("E-12")
def test_a_naive_datetime_is_utc_with_one_warning_if_local_time_differs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timestamps._warn_about_time_zone.cache_clear()
    for zone, warnings in (("UTC", 0), ("EST5", 1)):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            for _ in range(2):
                assert normalized_timestamp(dt.datetime(2025, 1, 2, 3, 4, 5)) == "2025-01-02T03:04:05+00:00"
        finally:
            monkeypatch.delenv("TZ")
            time.tzset()
        assert len(caplog.records) == warnings
    assert "UTC" in caplog.text


@pytest.mark.rule("E-4", "E-12")
@pytest.mark.parametrize(
    "given",
    ["yesterday", "", 42, 10**15, True, float("nan"), "2025-13-01T00:00:00Z", "2025-01-02T25:00:00Z", "2025-W60-1",
     "2025-01-02T24:00:01Z", "2025-01-02Z", "0001-01-01T00:00:00+14:00", b"2025-01-02T03:04:05Z", object()],
)  # fmt: skip
def test_an_invalid_timestamp_is_replaced_by_the_current_time_with_a_warning(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    result = normalized_timestamp(given)
    assert RFC_3339_UTC.fullmatch(result)
    assert abs((dt.datetime.fromisoformat(result) - dt.datetime.now(UTC)).total_seconds()) < 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.rule("E-4")
@given(st.datetimes(min_value=dt.datetime(1900, 1, 1), timezones=st.timezones()))
def test_any_aware_datetime_keeps_its_instant(moment: dt.datetime) -> None:
    result = normalized_timestamp(moment)
    assert RFC_3339_UTC.fullmatch(result)
    assert dt.datetime.fromisoformat(result) == moment.astimezone(UTC)


@pytest.mark.rule("E-5")
def test_properties_that_are_not_a_mapping_are_ignored_with_a_warning(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    client.capture("e", distinct_id="u", properties=["secret"])  # type: ignore[arg-type]
    assert only_event(memory)["properties"]["$lib"] == "leanbase-python"
    assert "properties must be a mapping, not list" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.rule("E-6")
def test_an_event_has_only_its_five_fields_at_the_top_level(
    client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture(
        "e",
        distinct_id="u",
        properties={"$set": {"a": 1}, "$set_once": {"b": 2}, "$unset": ["c"]},
        groups={"company": "acme"},
    )
    event = only_event(memory)
    assert set(event) == {"event", "distinct_id", "uuid", "timestamp", "properties"}
    assert event["properties"]["$set"] == {"a": 1}
    assert event["properties"]["$unset"] == ["c"]
    assert event["properties"]["$groups"] == {"company": "acme"}


@pytest.mark.rule("E-13")
def test_events_describe_the_library_the_interpreter_and_the_operating_system(
    client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture("e", distinct_id="u", properties={"a": 1})
    properties = only_event(memory)["properties"]
    assert properties.pop("$os_version")
    assert properties.pop("$os_distro", "only on Linux")
    assert properties == {
        "a": 1,
        "$lib": "leanbase-python",
        "$lib_version": __version__,
        "$is_server": True,
        "$geoip_disable": True,
        "$python_runtime": platform.python_implementation(),
        "$python_version": ".".join(map(str, sys.version_info[:3])),
        "$os": {"linux": "Linux", "darwin": "Mac OS X", "win32": "Windows"}[sys.platform],
    }


@pytest.mark.rule("E-13")
def test_geoip_and_is_server_are_options_and_a_call_can_override_geoip(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory, disable_geoip=False, is_server=False)
    client.capture("e", distinct_id="u", properties={"$is_server": "mine"})
    client.capture("e", distinct_id="u", disable_geoip=True)
    Leanbase("k", transport=memory).capture("e", distinct_id="u", disable_geoip=False)
    first, second, third = (event["properties"] for event in memory.events)
    assert "$geoip_disable" not in first
    assert first["$is_server"] == "mine"
    assert second["$geoip_disable"] is True
    assert "$geoip_disable" not in third
    assert third["$is_server"] is True


@pytest.mark.rule("E-20")
def test_a_later_source_of_a_property_replaces_an_earlier_one(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory, super_properties={"s": "super", "$lib": "mine"})
    with client.new_context():
        client.tag("t", "tag")
        client.tag("p", "tag")
        client.tag("s", "tag")
        client.set_context_session("context")
        client.capture(
            "e",
            distinct_id="u",
            properties={
                "p": "property",
                "s": "property",
                "$groups": "property",
                "$os": "property",
                "$session_id": "property",
                "$is_server": False,
            },
            groups={"company": "acme"},
        )
    properties = only_event(memory)["properties"]
    assert (properties["t"], properties["p"], properties["s"]) == ("tag", "property", "super")
    assert properties["$groups"] == {"company": "acme"}
    assert properties["$os"] != "property"
    assert properties["$session_id"] == "property"
    assert properties["$lib"] == "mine"
    assert properties["$lib_version"] == __version__
    assert properties["$is_server"] is True
    assert properties["$context_tags"] == ["p", "s", "t"]


@pytest.mark.rule("E-6", "G-5")
def test_arguments_are_copied_during_the_call(client: Leanbase, memory: MemoryTransport) -> None:
    properties = {"items": [1]}
    with client.delivery_scope():  # so that the event is sent after the changes
        client.capture("e", distinct_id="u", properties=properties)
        properties["items"].append(2)
        properties["more"] = [3]
    assert only_event(memory)["properties"]["items"] == [1]
    assert "more" not in only_event(memory)["properties"]


@pytest.mark.rule("C-10", "C-15", "C-20", "C-25", "W-7")
def test_the_strict_server_accepts_the_events_of_all_calls(local: LocalServer) -> None:
    client = Leanbase("phc_test", local.url)
    with client.new_context():
        client.tag("odd", {1: float("nan"), "s": "\ud800"})
        client.identify_context("ctx")
        client.set_context_session("s")
        for returned in (
            client.capture("\udfff name", distinct_id="id \ud800", properties={"v": object()}),
            client.capture("$pageview", properties={"$current_url": "https://example.com/"}),
            client.set(properties={"plan": "pro"}),
            client.set_once(properties={"first": 1}),
            client.identify("u", {"name": "N"}, set_once={"since": 2026}),
            client.alias("anon"),
            client.group_identify("company", 0, {"name": "Acme"}),
        ):
            assert returned is not None
    events = local.store.events()
    assert client.shutdown()
    assert [event["event"] for event in events] == [
        "\ufffd name", "$pageview", "$set", "$set_once", "$identify", "$create_alias", "$groupidentify",
    ]  # fmt: skip
    assert client.stats()["delivered"] == 7


# --- the order of the sources of properties ----------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "plan",
        "total",
        "$lib",
        "$os",
        "$session_id",
        "$context_tags",
        "$is_server",
        "$process_person_profile",
        "$groups",
    ]
)


class Colour(Enum):
    RED = "red"


CIRCLE: list[Any] = [1]
CIRCLE.append(CIRCLE)
DEEP: Any = "end"
for _ in range(80):
    DEEP = [DEEP]
ODD = [
    dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), Decimal("1.50"), b"bytes", b"\xff", {3, 1, 2}, (1, "two"),
    "half of a pair: \ud83d", "long " * 1000, Colour.RED, uuid.UUID(int=7), PurePosixPath("/tmp"), object(),
    ValueError("no"), range(3), 10**30, CIRCLE, DEEP, {"deep": DEEP}, [[0] * 100] * 20, ["text " * 500] * 2,
]  # fmt: skip
KEYS = (
    st.text(max_size=3)
    | st.integers(-2, 2)
    | st.none()
    | st.floats(0, 1)
    | st.sampled_from(["\udc00", Colour.RED])
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
MERGED_EVENTS = settings().max_examples * (10 if settings().max_examples > 25 else 1)
SOURCE = st.dictionaries(NAMES | st.text(min_size=1, max_size=3), VALUES, max_size=4)


def merged(
    given: dict[str, Any] | None,
    tags: dict[str, Any] | None,
    super_properties: dict[str, Any],
    session_id: str | None,
    groups: dict[str, Any],
    is_anonymous: bool,
) -> Any:
    """Return the properties of an event by rule E-20, source by source, as they arrive."""
    properties: dict[str, Any] = {**(tags or {}), **sanitize(given or {})}  # keys become strings first
    if tags is not None:
        properties.setdefault("$context_tags", sorted(tags))
    if groups:
        properties["$groups"] = groups
    properties |= runtime_properties()
    properties |= super_properties
    if session_id is not None:
        properties.setdefault("$session_id", session_id)
    if is_anonymous:
        properties.setdefault("$process_person_profile", False)
    properties = {"$lib": "leanbase-python", "$lib_version": __version__, **properties}
    properties |= {"$is_server": True, "$geoip_disable": True}
    event = {"uuid": uuid7(), "properties": sanitize(properties)}
    return encode(event).decode()["properties"]


@pytest.mark.rule("E-20")
@settings(max_examples=MERGED_EVENTS)
@given(
    given=st.none() | SOURCE | st.dictionaries(NAMES | KEYS, VALUES, max_size=4),
    tags=st.none() | SOURCE,
    super_properties=SOURCE,
    session_id=st.none() | st.just("s-1"),
    groups=st.dictionaries(st.sampled_from(["company"]), st.just("acme"), max_size=1),
    is_anonymous=st.booleans(),
    again=st.booleans(),
)
def test_sources_of_properties_are_merged_in_one_order(
    given: Any,
    tags: Any,
    super_properties: Any,
    session_id: Any,
    groups: Any,
    is_anonymous: bool,
    again: bool,
) -> None:
    """Most events take what they share with others as JSON that is written already. It is the same event."""
    memory = MemoryTransport()
    client = Leanbase("phc_test", transport=memory, super_properties=super_properties)

    def capture() -> None:
        client.capture("e", distinct_id=None if is_anonymous else "u", properties=given, groups=groups)

    if tags is None:
        session_id = None
        capture()
    else:
        with client.new_context():
            for name, value in tags.items():
                client.tag(name, value)
            if session_id is not None:
                client.set_context_session(session_id)
            if again:
                capture()  # the tags of the second event are written already
            capture()
    expected = merged(given, tags, super_properties, session_id, groups, is_anonymous)
    assert [event["properties"] for event in memory.events] == [expected] * len(memory.events)


@pytest.mark.rule("K-5")
def test_tags_that_can_change_are_read_for_each_event(client: Leanbase, memory: MemoryTransport) -> None:
    steps = ["one"]
    with client.new_context():
        client.tag("steps", steps)
        client.capture("first")
        steps.append("two")
        client.capture("second")
        client.tag("plan", "pro")
        client.capture("third")
    assert [event["properties"]["steps"] for event in memory.events] == [
        ["one"],
        ["one", "two"],
        ["one", "two"],
    ]
    assert [event["properties"].get("plan") for event in memory.events] == [None, None, "pro"]


def test_tags_of_an_outer_context_that_are_set_later_do_not_reach_an_inner_one(
    client: Leanbase, memory: MemoryTransport
) -> None:
    with client.new_context():
        client.tag("plan", "free")
        with client.new_context():
            client.capture("inner")
        client.tag("plan", "pro")
        client.capture("outer")
        with client.new_context():
            client.capture("inner again")
    assert [event["properties"]["plan"] for event in memory.events] == ["free", "pro", "pro"]


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "1970-01-01T00:00:00.000000+00:00"),
        (1_001_000, "1970-01-01T00:00:00.001001+00:00"),
        (1_767_225_600_000_000_999, "2026-01-01T00:00:00.000000+00:00"),
    ],
)
def test_the_clock_is_read_to_the_microsecond(
    nanoseconds: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a clock that was never set, as at the start of some machines."""
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
    assert timestamps.utc_now() == expected
    assert uuid.UUID(uuid7()).version == 7
