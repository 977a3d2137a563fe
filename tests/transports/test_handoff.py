"""The form of hand-off messages: what is written is read again, and nothing that is sent can break the reader."""

from __future__ import annotations

import base64
import gzip
import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanbase.events.encoding import encode, sanitize
from leanbase.events.ids import uuid7
from leanbase.transports import handoff
from leanbase.transports.handoff import UnreadableError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def made(**changes: Any) -> dict[str, Any]:
    event = {
        "event": "order created",
        "distinct_id": "u",
        "uuid": uuid7(),
        "timestamp": "2026-11-24T10:00:00.000000+00:00",
        "properties": {"total": 42},
    }
    return {**event, **changes}


def message(*events: Any, **others: Any) -> str:
    return json.dumps({"leanbase": 1, "events": list(events), **others})


def gzipped(text: str) -> str:
    return json.dumps(
        {"leanbase": 1, "gzip": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()}
    )


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=5), min_size=1, max_size=5))
def test_what_is_written_is_read_again(properties: list[dict[str, Any]]) -> None:
    events = [encode(made(properties=sanitize(each))) for each in properties]
    for write in (handoff.encode, handoff.encode_gzip):
        read = handoff.decode(write(events))
        assert [event.decode() for event in read] == [event.decode() for event in events]
        assert [event.uuid for event in read] == [event.uuid for event in events]


def test_unknown_keys_are_tolerated_and_none_reaches_the_server() -> None:
    text = message(
        made(api_key="phc_other", token="t", later="x"), sent_by="a newer one", api_key="phc_other"
    )
    (event,) = handoff.decode(text)
    assert event.decode() == made(uuid=event.uuid)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not valid JSON"),
        ("null", "not an object|not a JSON"),
        ("[]", "not an object|not a JSON"),
        ("{}", "not a Leanbase message"),
        ('{"leanbase": "1", "events": []}', "not a Leanbase message"),
        ('{"leanbase": true, "events": []}', "not a Leanbase message"),
        ('{"leanbase": 2, "events": []}', "is the relay older than the sender"),
        ('{"leanbase": 1}', "no list of events"),
        ('{"leanbase": 1, "events": {}}', "no list of events"),
        ('{"leanbase": 1, "gzip": 7}', "not gzip|ends early"),
        ('{"leanbase": 1, "gzip": "ä"}', "not base64"),
        ('{"leanbase": 1, "gzip": "AAAA"}', "not gzip"),
        (gzipped("{")[:-2] + '"}', "not valid JSON|ends early"),
        (gzipped('{"leanbase": 2, "events": []}'), "older than the sender"),
        (gzipped(gzipped("{}")), "no list of events"),
        (message(made(), 7), "event 1 .* invalid uuid"),
        (message(made(uuid="7")), "event 0 .* invalid uuid"),
        (message(made(uuid=None)), "event 0 .* invalid uuid"),
        (message(made(timestamp="yesterday")), "event 0 .* invalid timestamp"),
        (message(made(event="")), "not valid"),
        (message(made(distinct_id=None)), "not valid"),
        (message(made(properties=[])), "not valid"),
        (message(made(properties={"x": "y" * 1_000_000})), "not valid"),
        (message(made()).replace("42", "NaN"), "not valid JSON"),
        (message(made()).replace("42", "9" * 5000), "not valid JSON"),
        (message(made()).replace("42", "[" * 100_000), "not valid JSON"),
    ],
)
def test_what_can_never_be_delivered_is_told(text: str, why: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        handoff.decode(text)
    assert re.search(why, str(caught.value))
    assert "42" not in str(caught.value)


@given(
    st.text()
    | JSON.map(lambda value: json.dumps({"leanbase": 1, "events": value, "gzip": value}))
    | st.binary()
)
def test_nothing_else_is_raised(text: str | bytes) -> None:
    try:
        handoff.decode(text)
    except UnreadableError:
        pass


@pytest.mark.slow
def test_a_bomb_is_not_unpacked() -> None:
    bomb = json.dumps({"leanbase": 1, "gzip": base64.b64encode(gzip.compress(b"0" * 500_000_000)).decode()})
    assert len(bomb) < 1024 * 1024
    tracemalloc.start()
    with pytest.raises(UnreadableError, match="above 8388608 bytes"):
        handoff.decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
