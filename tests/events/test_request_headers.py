"""Identity and tags of a request, from its headers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanbase.events.request_headers import Headers, request_tags, sanitize_header


@pytest.mark.rule("M-1")
@pytest.mark.parametrize(
    "name",
    ["X-LEANBASE-SESSION-ID", "x-leanbase-session-id", "HTTP_X_LEANBASE_SESSION_ID", b"x-leanbase-session-id",
     "X-PostHog-Session-Id"],
)  # fmt: skip
def test_a_header_is_found_under_any_form_of_its_name(name: Any) -> None:
    assert Headers([(name, "s-1")]).session_id == "s-1"


@pytest.mark.rule("M-2")
def test_the_primary_header_wins_if_it_has_a_value() -> None:
    both = {"X-POSTHOG-DISTINCT-ID": "second", "X-LEANBASE-DISTINCT-ID": "first"}
    assert Headers.of(both).distinct_id == "first"
    assert Headers.of({**both, "X-LEANBASE-DISTINCT-ID": " \x00"}).distinct_id == "second"
    assert Headers.of({}).distinct_id is None


@pytest.mark.rule("M-3")
@pytest.mark.parametrize(
    ("value", "clean"),
    [
        (" user \r\n", "user"),
        ("a\x00b\x7f\x9fc", "abc"),
        ("x" * 2000, "x" * 1000),
        ("", None),
        (" \t", None),
        (b"caf\xe9", "café"),
        (["", "\x00", "second"], "second"),
        ([], None),
        (7, None),
        (None, None),
    ],
)
def test_header_values_are_sanitized(value: Any, clean: str | None) -> None:
    assert sanitize_header(value) == clean


@pytest.mark.rule("M-4")
def test_headers_that_cannot_be_read_count_as_missing() -> None:
    class BrokenItems(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError

    assert (
        Headers.of(None, "string", BrokenItems(), {3: "x", "X-LEANBASE-SESSION-ID": object()}).session_id
        is None
    )


@pytest.mark.rule("M-10")
def test_the_tags_of_a_request_leave_out_missing_values() -> None:
    headers = Headers.of({"User-Agent": "curl/8", "X-Forwarded-For": " 203.0.113.7 , 10.0.0.1"})
    ip = headers.forwarded_for()
    assert request_tags(headers, url="https://e.com/a?b=1", method="GET", path="/a", ip=ip) == {
        "$current_url": "https://e.com/a?b=1",
        "$request_method": "GET",
        "$request_path": "/a",
        "$ip": "203.0.113.7",
        "$user_agent": "curl/8",
        "$raw_user_agent": "curl/8",
    }
    assert request_tags(Headers.of({}), url=None, method="", path=None, ip=None) == {}
    assert headers.forwarded_for(last=True) == "10.0.0.1"
    assert Headers.of({}).forwarded_for() is None


@pytest.mark.parametrize(
    "forged",
    [
        [("x-forwarded-for", ", ".join(["6.6.6.6"] * 500) + ", 203.0.113.7")],
        [("x-forwarded-for", "6.6.6.6, 203.0.113.7"), ("x_forwarded_for", "6.6.6.6")],
        [("x-forwarded-for", "6.6.6.6, 203.0.113.7"), ("http-x-forwarded-for", "6.6.6.6")],
        [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"203.0.113.7")],
        [("X-Forwarded-For", ["6.6.6.6", "203.0.113.7"])],
    ],
    ids=["500 addresses", "underscores", "http prefix", "two headers", "list of values"],
)
def test_the_address_that_the_last_proxy_reports_cannot_be_forged(forged: Any) -> None:
    assert Headers(forged).forwarded_for(last=True) == "203.0.113.7"


@pytest.mark.rule("M-3")
@given(st.recursive(st.text() | st.binary() | st.none() | st.integers(), st.lists, max_leaves=8))
def test_any_header_value_is_sanitized_or_missing(value: Any) -> None:
    clean = sanitize_header(value)
    if clean is not None:
        assert 0 < len(clean) <= 1000
        assert clean == clean.strip()
        assert not any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in clean)
        json.dumps(clean)
