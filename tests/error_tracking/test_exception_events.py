"""The event, its items and boundaries, who may set what, and all kinds of input (6.1, 6.2, 6.7 to 6.10, 6.12, 6.13)."""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
import traceback
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.error_tracking.metadata import Metadata
from leanbase.handlers import job, lambda_handler
from tests.error_tracking.conftest import Wire, raised
from tests.error_tracking.exceptions import LooksLikeAGroup, WithMessage
from tests.error_tracking.wire import chain, frames, functions

# --- 6.1 the event ---------------------------------------------------------------------------------------


@pytest.mark.rule("X-26")
def test_an_exception_event_has_what_every_event_has(wire: Wire) -> None:
    client = wire.client(super_properties={"release": "r1"})
    with client.new_context():
        client.tag("plan", "pro")
        uuid = client.capture_exception(
            ValueError("x"),
            distinct_id="u",
            properties={"$release_id": "r", "handled": "plain"},
            groups={"company": "acme"},
            disable_geoip=False,
            timestamp="2026-01-02T03:04:05Z",
            uuid="0198c0de-0000-7000-8000-000000000abc",
        )
    (event,) = wire.received()
    assert (event["uuid"], event["distinct_id"], event["timestamp"]) == (
        uuid, "u", "2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    properties = event["properties"]
    assert properties["$release_id"] == "r"
    assert properties["handled"] == "plain"
    assert properties["release"] == "r1"
    assert properties["plan"] == "pro"
    assert properties["$context_tags"] == ["plan"]
    assert properties["$groups"] == {"company": "acme"}
    assert properties["$python_runtime"] == sys.implementation.name.replace("cpython", "CPython")
    assert "$geoip_disable" not in properties
    assert "$exception_source" not in properties
    assert "$exception_fingerprint" not in properties


@pytest.mark.rule("X-26")
def test_it_is_personless_without_an_id_and_has_the_contexts_otherwise(wire: Wire) -> None:
    client = wire.client()
    client.capture_exception(ValueError("x"))
    with client.new_context():
        client.identify_context("from the context")
        client.capture_exception(ValueError("x"))
    personless, known = wire.received()
    assert personless["properties"]["$process_person_profile"] is False
    assert known["distinct_id"] == "from the context"
    assert "$process_person_profile" not in known["properties"]


@pytest.mark.rule("X-26")
def test_it_names_the_span_of_opentelemetry_if_that_is_in_use(wire: Wire) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    assert "$trace_id" not in wire.capture(ValueError("no span"))
    with sdk.TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        properties = wire.capture(ValueError("in a span"))
        known = span.get_span_context()
    assert properties["$trace_id"] == trace.format_trace_id(known.trace_id)
    assert properties["$span_id"] == trace.format_span_id(known.span_id)


# --- 6.2 items -------------------------------------------------------------------------------------------


@pytest.mark.rule("X-9")
def test_an_item_says_type_value_and_module(wire: Wire) -> None:
    item = wire.capture(WithMessage())["$exception_list"][0]
    assert (item["type"], item["value"]) == ("WithMessage", "from str")
    assert item["module"] == WithMessage.__module__
    assert item["thread_id"] == threading.get_native_id()
    assert "module" not in wire.capture(ValueError("builtin"))["$exception_list"][0]

    class Local(Exception):
        pass

    assert wire.capture(Local())["$exception_type"].endswith("<locals>.Local")


@pytest.mark.rule("X-9")
def test_the_value_is_the_first_text_that_is_not_empty(wire: Wire) -> None:
    class BrokenStr(Exception):
        def __str__(self) -> str:
            raise RuntimeError

        def __repr__(self) -> str:
            return "<from repr>"

    class BrokenAll(BrokenStr):
        def __repr__(self) -> str:
            raise RuntimeError

    class BrokenMessage(Exception):
        @property
        def message(self) -> str:
            raise RuntimeError

    cases = [
        (WithMessage(message="from message", detail="from detail"), "from message"),
        (WithMessage(message="", detail="from detail"), "from detail"),
        (WithMessage(message=None), "from str"),
        (WithMessage(message=404), "404"),
        (BrokenMessage("from str"), "from str"),
        (BrokenStr(), "<from repr>"),
        (BrokenAll(), "<broken repr>"),
        (ValueError(), ""),
    ]
    for error, expected in cases:
        assert wire.capture(error)["$exception_message"] == expected


@pytest.mark.rule("X-9")
def test_a_long_value_is_cut_at_a_character(wire: Wire) -> None:
    value = wire.capture(ValueError("ä" * 9000))["$exception_message"]
    assert value.endswith("ä...")
    assert 8192 - 4 <= len(value.encode()) <= 8192


# --- 6.7 boundaries, 6.8 levels --------------------------------------------------------------------------


@pytest.mark.rule("X-21")
def test_each_boundary_says_what_it_is(wire: Wire) -> None:
    def by_hand(client: Leanbase) -> None:
        client.capture_exception(ValueError())

    def in_lambda(client: Leanbase) -> None:
        @lambda_handler(client=client)
        def handler(event: Any, context: Any) -> None:
            raise ValueError

        with contextlib.suppress(ValueError):
            handler({}, None)

    def in_a_job(client: Leanbase) -> None:
        @job(client=client)
        def main() -> None:
            raise ValueError

        with contextlib.suppress(ValueError):
            main()

    expected = {
        by_hand: ("error", "generic", True, None),
        in_lambda: ("error", "task", False, "aws_lambda.handler"),
        in_a_job: ("error", "task", False, "job"),
    }
    for act, (level, kind, handled, source) in expected.items():
        properties = wire.sent_by(act)
        mechanism = properties["$exception_list"][0]["mechanism"]
        assert properties["$exception_level"] == level
        assert (mechanism["type"], mechanism["handled"]) == (kind, handled)
        assert properties.get("$exception_source") == source


@pytest.mark.rule("X-21")
def test_handlers_capture_once_with_their_events_and_only_if_asked(wire: Wire) -> None:
    client = wire.client()

    @lambda_handler(client=client)
    def handler(event: Any, context: Any) -> None:
        client.capture("before", distinct_id="u")
        with client.new_context():
            raise ValueError

    @lambda_handler(client=client, capture_exceptions=False)
    def quiet(event: Any, context: Any) -> None:
        client.capture("before", distinct_id="u")
        raise ValueError

    for each in (handler, quiet):
        with contextlib.suppress(ValueError):
            each({}, None)
    found = [(event["request"], event["event"]) for event in wire.received()]
    assert found == [(1, "before"), (1, "$exception"), (2, "before")]
    assert wire.exceptions()[0]["$exception_source"] == "python.context_manager"


@pytest.mark.rule("X-25", "X-21")
def test_an_integration_overrides_field_by_field(wire: Wire) -> None:
    boundary = Metadata("error", {"type": "middleware", "handled": False}, "shop.middleware")
    override = Metadata(
        level="no such level",
        source="",
        mechanism={
            "handled": True,
            "type": "",
            "synthetic": None,
            "exception_id": -1,
            "parent_id": 3,
            "source": "cause",
            "meta": {"errno": {"number": errno.ENOENT}},
        },
    )
    native = Metadata(level="critical")
    properties = wire.sent_by(lambda c: c.report_exception(raised(ValueError()), override, native, boundary))
    assert properties["$exception_level"] == "fatal"
    assert properties["$exception_source"] == "shop.middleware"
    assert properties["$exception_list"][0]["mechanism"] == {
        "type": "middleware", "handled": True, "synthetic": False, "exception_id": 0,
        "meta": {"errno": {"number": errno.ENOENT}},
    }  # fmt: skip


@pytest.mark.rule("X-22")
def test_levels_have_many_names(wire: Wire) -> None:
    cases: dict[Any, str] = {
        "fatal": "fatal", "Critical": "fatal", "ALERT": "fatal", "emergency": "fatal", "error": "error",
        "warning": "warning", "warn": "warning", "notice": "info", "info": "info", "trace": "debug",
        "debug": "debug", "log": "log", 50: "fatal", 70: "fatal", 40: "error", 45: "error", 30: "warning",
        20: "info", 10: "debug", 0: "debug", "loud": "error", "": "error", 2.5: "error", True: "error",
        None: "error",
    }  # fmt: skip
    client = wire.client()
    for level, expected in cases.items():
        client.capture_exception(ValueError(), level=level)
        assert wire.exceptions()[-1]["$exception_level"] == expected


# --- 6.9 who may set what --------------------------------------------------------------------------------


@pytest.mark.rule("X-23")
def test_the_application_cannot_set_what_is_the_sdks_or_the_processors(wire: Wire) -> None:
    reserved = {
        "$exception_list": [], "$exception_type": "x", "$exception_message": "x", "$exception_level": "info",
        "$exception_source": "x", "$debug_images": [], "$exception_handled": True, "$exception_types": [],
        "$exception_values": [], "$exception_sources": [], "$exception_functions": [],
        "$exception_fingerprint_version": 1, "$exception_fingerprint_record": [], "$exception_issue_id": "x",
        "$exception_release": "x", "$cymbal_errors": [],
    }  # fmt: skip
    passed = {"$issue_name": "n", "$issue_description": "d", "$exception_steps": [1], "$release_id": "r"}
    client = wire.client(super_properties=reserved)
    with client.new_context():
        for name, value in reserved.items():
            client.tag(name, value)
        client.capture_exception(ValueError("mine"), properties={**reserved, **passed})
    (properties,) = wire.exceptions()
    assert properties["$exception_message"] == "mine"
    assert properties["$exception_level"] == "error"
    assert set(properties) & set(reserved) == {
        "$exception_list", "$exception_type", "$exception_message", "$exception_level",
    }  # fmt: skip
    assert {name: properties[name] for name in passed} == passed


@pytest.mark.rule("X-23")
def test_fingerprints_are_texts(wire: Wire) -> None:
    client = wire.client()
    cases: list[tuple[Any, Any, str | None]] = [
        ("mine", "property", "mine"),
        (None, "property", "property"),
        (["a", "b"], None, "a-b"),
        (None, ("a", "b"), "a-b"),
        (7, "property", "property"),
        ("", None, None),
        ([], {"a": 1}, None),
        (["a", 1], None, None),
    ]
    for argument, own, expected in cases:
        client.capture_exception(
            ValueError(), properties={"$exception_fingerprint": own}, fingerprint=argument
        )
        assert wire.exceptions()[-1].get("$exception_fingerprint") == expected


@pytest.mark.rule("X-23")
def test_an_application_that_captures_the_event_itself_gets_what_it_sent(wire: Wire) -> None:
    own = {"$exception_list": "mine", "$exception_handled": True, "$exception_fingerprint": 7}
    wire.client().capture("$exception", distinct_id="u", properties=own)
    properties = wire.server.store.events()[0]["properties"]
    assert {name: properties[name] for name in own} == own


# --- 6.10 inputs -----------------------------------------------------------------------------------------


@pytest.mark.rule("X-24")
def test_nothing_is_captured_when_there_is_nothing(wire: Wire) -> None:
    client = wire.client()
    assert client.capture_exception() is None
    assert client.capture_exception((None, None, None)) is None
    assert wire.received() == []


@pytest.mark.rule("X-24")
def test_the_exception_being_handled_is_the_default(wire: Wire) -> None:
    try:
        raise ValueError("handled")
    except ValueError:
        assert wire.capture()["$exception_message"] == "handled"
        assert wire.capture(None)["$exception_list"][0]["mechanism"]["synthetic"] is False


@pytest.mark.rule("X-24")
def test_exc_info_is_the_value_with_that_traceback(wire: Wire) -> None:
    other = raised(KeyError())
    error = ValueError("value")
    properties = wire.capture((ValueError, error, other.__traceback__))
    assert (properties["$exception_type"], functions(properties)) == ("ValueError", ["raised"])
    assert error.__traceback__ is None
    try:
        raise TypeError("all three")
    except TypeError:
        assert wire.capture(sys.exc_info())["$exception_message"] == "all three"


@pytest.mark.rule("X-24")
def test_things_that_are_no_exceptions_are_made_to_look_like_one(wire: Wire) -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    cases: list[tuple[object, str, str]] = [
        (ValueError, "ValueError", ""),
        ("a message", "Error", "a message"),
        (Thing(), f"{Thing.__qualname__}", "a thing"),
        (Broken(), f"{Broken.__qualname__}", "<broken repr>"),
        (42, "int", "42"),
        ((1, 2, 3), "tuple", "(1, 2, 3)"),
        ({}, "dict", "{}"),
    ]
    for subject, kind, value in cases:
        properties = wire.capture(subject)
        assert (properties["$exception_type"], properties["$exception_message"]) == (kind, value)
        assert properties["$exception_list"][0]["mechanism"]["synthetic"] is True
        assert functions(properties)[-1] == "<lambda>"


@pytest.mark.rule("X-24")
def test_a_traceback_exception_keeps_type_text_frames_and_chain(wire: Wire) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise WithMessage() from error
    except WithMessage as error:
        summary = traceback.TracebackException.from_exception(error)
    properties = wire.capture(summary)
    assert chain(properties) == [("from str", None, None), ("'inner'", "cause", 0)]
    first = properties["$exception_list"][0]
    assert (first["type"], first["module"]) == ("WithMessage", WithMessage.__module__)
    assert first["mechanism"]["synthetic"] is False
    assert frames(properties)[-1]["context_line"] == "raise WithMessage() from error"
    assert frames(properties)[-1]["in_app"] is True


TEXT = """Traceback (most recent call last):
  File "/srv/shop/views.py", line 40, in checkout
    pay(order)
  File "/etc/passwd", line 1, in pay
shop.errors.CheckoutError: no money
"""


@pytest.mark.rule("X-24")
def test_the_text_of_a_traceback_is_read_and_no_file_for_it(wire: Wire) -> None:
    class Report:
        name = "NameOfReport"
        msg = "from msg"
        stacktrace = TEXT

    cases: list[tuple[object, str, str]] = [
        ({"traceback": TEXT}, "CheckoutError", "no money"),
        ({"stack": TEXT, "message": "given"}, "CheckoutError", "given"),
        ({"stack": TEXT, "type": "Given", "value": "given"}, "Given", "given"),
        (Report(), "NameOfReport", "from msg"),
    ]
    for subject, kind, value in cases:
        properties = wire.capture(subject)
        assert (properties["$exception_type"], properties["$exception_message"]) == (kind, value)
        assert properties["$exception_list"][0]["mechanism"]["synthetic"] is True
        first, second = frames(properties)
        assert (first["filename"], first["lineno"], first["function"]) == (
            "/srv/shop/views.py",
            40,
            "checkout",
        )
        assert first["context_line"] == "pay(order)"
        assert "context_line" not in second
    only_message = wire.capture({"message": "no stack", "name": "E"})
    assert (only_message["$exception_type"], only_message["$exception_message"]) == ("E", "no stack")
    assert functions(only_message)[-1] == "<lambda>"


# --- 6.12, 6.13 ------------------------------------------------------------------------------------------


@pytest.mark.rule("X-45")
def test_captured_exceptions_may_be_logged(wire: Wire) -> None:
    import logging

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logging.getLogger("leanbase").addHandler(handler)
    error = raised(ValueError("mine"))
    wire.capture(error)
    assert records == []
    wire.capture(error, log_captured_exceptions=True)
    assert [(each.levelname, each.exc_info and each.exc_info[1]) for each in records] == [("ERROR", error)]


def what_is_left(properties: dict[str, Any]) -> list[bool]:
    """Which of the things that the ladder takes away are still there, in its order."""
    items = range(len(properties["$exception_list"]))
    shown = [frame for item in items for frame in frames(properties, item)]
    return [
        any("code_variables" in frame for frame in shown),
        any("context_line" in frame for frame in shown if not frame["in_app"]),
        any("context_line" in frame for frame in shown if frame["in_app"]),
        max(len(frames(properties, item)) for item in items) > 30,
        max(len(item["value"]) for item in properties["$exception_list"]) > 1024,
        len(items) > 5,
    ]


@pytest.mark.rule("X-60")
@pytest.mark.slow
def test_an_event_that_is_too_large_loses_what_matters_least_first(wire: Wire) -> None:
    def deep(level: int, payload: str) -> None:
        if level == 0:
            raise ValueError("m" * 7000)
        module.call(deep, level - 1, payload)

    module = wire.module("big", "def call(f, *a):\n    f(*a)\n" + f"# {'x' * 300}\n" * 3)
    errors: list[BaseException] = []
    for _ in range(7):
        with pytest.raises(ValueError) as caught:
            deep(20, "p " * 400)
        errors.append(caught.value)
    client = wire.client(capture_exception_code_variables=True)
    seen = []
    for ballast in range(500_000, 932_000, 9_000):
        before = len(wire.server.store.events())
        client.capture_exception(LooksLikeAGroup("g", errors), properties={"ballast": "b" * ballast})
        for event in wire.server.store.events(after=before):
            assert len(event["properties"]["ballast"]) == ballast
            left = what_is_left(event["properties"])
            if left not in seen:
                seen.append(left)
    assert seen == [[False] * gone + [True] * (6 - gone) for gone in range(7)]
    assert client.stats()["dropped"]["too_large"] >= 1
    assert len(wire.exceptions()) == client.stats()["delivered"]
