"""The format of hand-off messages: the reader returns what was written, and no message can break it.

No transport and no server: `handoff.encode` and `handoff.decode` are called with events and messages, random
ones too.
"""

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


def event(**changes: Any) -> dict[str, Any]:
    original = {
        "event": "order created",
        "distinct_id": "u",
        "uuid": uuid7(),
        "timestamp": "2026-11-24T10:00:00.000000+00:00",
        "properties": {"total": 42},
    }
    return {**original, **changes}


def message(*events: Any, **others: Any) -> str:
    return json.dumps({"leanbase": 1, "events": list(events), **others})


def gzipped(text: str) -> str:
    return json.dumps(
        {"leanbase": 1, "gzip": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()}
    )


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=5), min_size=1, max_size=5))
def test_written_events_are_read_unchanged(properties: list[dict[str, Any]]) -> None:
    events = [encode(event(properties=sanitize(each))) for each in properties]
    for write in (handoff.encode, handoff.encode_gzip):
        read = handoff.decode(write(events))
        assert [each.decode() for each in read] == [each.decode() for each in events]
        assert [each.uuid for each in read] == [each.uuid for each in events]


def test_unknown_keys_are_ignored_and_never_reach_the_server() -> None:
    text = message(
        event(api_key="phc_other", token="t", later="x"), sent_by="a newer sender", api_key="phc_other"
    )
    (found,) = handoff.decode(text)
    assert found.decode() == event(uuid=found.uuid)


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
        (message(event(), 7), "event 1 .* invalid uuid"),
        (message(event(uuid="7")), "event 0 .* invalid uuid"),
        (message(event(uuid=None)), "event 0 .* invalid uuid"),
        (message(event(timestamp="yesterday")), "event 0 .* invalid timestamp"),
        (message(event(event="")), "not valid"),
        (message(event(distinct_id=None)), "not valid"),
        (message(event(properties=[])), "not valid"),
        (message(event(properties={"x": "y" * 1_000_000})), "not valid"),
        (message(event()).replace("42", "NaN"), "not valid JSON"),
        (message(event()).replace("42", "9" * 5000), "not valid JSON"),
        (message(event()).replace("42", "[" * 100_000), "not valid JSON"),
    ],
)
def test_an_unreadable_message_is_rejected_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        handoff.decode(text)
    assert re.search(why, str(caught.value))
    assert "42" not in str(caught.value)


@given(
    st.text()
    | JSON.map(lambda value: json.dumps({"leanbase": 1, "events": value, "gzip": value}))
    | st.binary()
)
def test_decoding_raises_nothing_but_unreadable_error(text: str | bytes) -> None:
    try:
        handoff.decode(text)
    except UnreadableError:
        pass


@pytest.mark.slow
def test_a_compressed_message_that_is_too_large_is_not_decompressed() -> None:
    bomb = json.dumps({"leanbase": 1, "gzip": base64.b64encode(gzip.compress(b"0" * 500_000_000)).decode()})
    assert len(bomb) < 1024 * 1024
    tracemalloc.start()
    with pytest.raises(UnreadableError, match="above 8388608 bytes"):
        handoff.decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
