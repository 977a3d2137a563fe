"""The `$exception` event: its items, levels and boundaries, who may set which key, and what may be captured."""

from __future__ import annotations

import contextlib
import errno
import logging
import platform
import sys
import threading
import traceback
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.error_tracking.metadata import Metadata
from leanbase.handlers import job, lambda_handler
from tests.error_tracking.conftest import RoundTrip, raised
from tests.error_tracking.exception_format import chain, frames, functions
from tests.error_tracking.exceptions import LooksLikeAGroup, WithAttributes

# --- the event -------------------------------------------------------------------------------------------


@pytest.mark.rule("X-26", "E-13")
def test_an_exception_event_has_what_every_event_has(round_trip: RoundTrip) -> None:
    client = round_trip.client(super_properties={"release": "r1"})
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
    (event,) = round_trip.received()
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
    assert properties["$python_runtime"] == platform.python_implementation()
    assert properties["$python_version"] == platform.python_version()
    assert properties["$os"]
    assert properties["$lib"] == "leanbase-python"
    assert "$geoip_disable" not in properties
    assert "$exception_source" not in properties
    assert "$exception_fingerprint" not in properties


@pytest.mark.rule("E-2", "E-10")
def test_an_exception_event_without_an_id_takes_the_contexts_id_or_is_personless(
    round_trip: RoundTrip,
) -> None:
    client = round_trip.client()
    client.capture_exception(ValueError("x"))
    with client.new_context():
        client.identify_context("from the context")
        client.capture_exception(ValueError("x"))
    personless, identified = round_trip.received()
    assert personless["properties"]["$process_person_profile"] is False
    assert identified["distinct_id"] == "from the context"
    assert "$process_person_profile" not in identified["properties"]


@pytest.mark.rule("X-26")
def test_an_exception_event_carries_the_ids_of_the_current_opentelemetry_span(round_trip: RoundTrip) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    assert "$trace_id" not in round_trip.capture(ValueError("no span"))
    with sdk.TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        properties = round_trip.capture(ValueError("in a span"))
        expected = span.get_span_context()
    assert properties["$trace_id"] == trace.format_trace_id(expected.trace_id)
    assert properties["$span_id"] == trace.format_span_id(expected.span_id)


# --- its exceptions --------------------------------------------------------------------------------------


@pytest.mark.rule("X-9")
def test_an_exception_item_has_type_value_module_and_thread(round_trip: RoundTrip) -> None:
    item = round_trip.capture(WithAttributes())["$exception_list"][0]
    assert (item["type"], item["value"]) == ("WithAttributes", "from str")
    assert item["module"] == WithAttributes.__module__
    assert item["thread_id"] == threading.get_native_id()
    assert "module" not in round_trip.capture(ValueError("builtin"))["$exception_list"][0]

    class Local(Exception):
        pass

    assert round_trip.capture(Local())["$exception_type"].endswith("<locals>.Local")


@pytest.mark.rule("X-9")
def test_the_value_is_the_first_usable_string_of_message_detail_str_and_repr(round_trip: RoundTrip) -> None:
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
        (WithAttributes(message="from message", detail="from detail"), "from message"),
        (WithAttributes(message="", detail="from detail"), "from detail"),
        (WithAttributes(message=None), "from str"),
        (WithAttributes(message=404), "404"),
        (BrokenMessage("from str"), "from str"),
        (BrokenStr(), "<from repr>"),
        (BrokenAll(), "<broken repr>"),
        (ValueError(), ""),
    ]
    for error, expected in cases:
        assert round_trip.capture(error)["$exception_message"] == expected


@pytest.mark.rule("X-9")
def test_a_long_value_is_cut_between_characters(round_trip: RoundTrip) -> None:
    value = round_trip.capture(ValueError("ä" * 9000))["$exception_message"]
    assert value.endswith("ä...")
    assert 8192 - 4 <= len(value.encode()) <= 8192


# --- boundaries and levels -------------------------------------------------------------------------------


@pytest.mark.rule("X-21")
def test_each_boundary_states_its_level_mechanism_and_source(round_trip: RoundTrip) -> None:
    def in_a_call(client: Leanbase) -> None:
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
        in_a_call: ("error", "generic", True, None),
        in_lambda: ("error", "task", False, "aws_lambda.handler"),
        in_a_job: ("error", "task", False, "job"),
    }
    for act, (level, kind, handled, source) in expected.items():
        properties = round_trip.properties_from(act)
        mechanism = properties["$exception_list"][0]["mechanism"]
        assert properties["$exception_level"] == level
        assert (mechanism["type"], mechanism["handled"]) == (kind, handled)
        assert properties.get("$exception_source") == source


@pytest.mark.rule("X-21", "K-17")
def test_a_lambda_handler_captures_an_exception_once_unless_capturing_is_off(round_trip: RoundTrip) -> None:
    client = round_trip.client()

    @lambda_handler(client=client)
    def handler(event: Any, context: Any) -> None:
        client.capture("before", distinct_id="u")
        with client.new_context():
            raise ValueError

    @lambda_handler(client=client, capture_exceptions=False)
    def handler_without_capturing(event: Any, context: Any) -> None:
        client.capture("before", distinct_id="u")
        raise ValueError

    for decorated in (handler, handler_without_capturing):
        with contextlib.suppress(ValueError):
            decorated({}, None)
    found = [(event["request"], event["event"]) for event in round_trip.received()]
    assert found == [(1, "before"), (1, "$exception"), (2, "before")]
    assert round_trip.exceptions()[0]["$exception_source"] == "python.context_manager"


@pytest.mark.rule("X-25", "X-21")
def test_valid_fields_of_an_override_win_and_invalid_fields_are_ignored(round_trip: RoundTrip) -> None:
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
    properties = round_trip.properties_from(
        lambda c: c.report_exception(raised(ValueError()), override, native, boundary)
    )
    assert properties["$exception_level"] == "fatal"
    assert properties["$exception_source"] == "shop.middleware"
    assert properties["$exception_list"][0]["mechanism"] == {
        "type": "middleware", "handled": True, "synthetic": False, "exception_id": 0,
        "meta": {"errno": {"number": errno.ENOENT}},
    }  # fmt: skip


@pytest.mark.rule("X-22")
def test_names_and_numbers_of_levels_are_translated(round_trip: RoundTrip) -> None:
    cases: dict[Any, str] = {
        "fatal": "fatal", "Critical": "fatal", "ALERT": "fatal", "emergency": "fatal", "error": "error",
        "warning": "warning", "warn": "warning", "notice": "info", "info": "info", "trace": "debug",
        "debug": "debug", "log": "log", 50: "fatal", 70: "fatal", 40: "error", 45: "error", 30: "warning",
        20: "info", 10: "debug", 0: "debug", "loud": "error", "": "error", 2.5: "error", True: "error",
        None: "error",
    }  # fmt: skip
    client = round_trip.client()
    for level, expected in cases.items():
        client.capture_exception(ValueError(), level=level)
        assert round_trip.exceptions()[-1]["$exception_level"] == expected


# --- who may set which key -------------------------------------------------------------------------------


@pytest.mark.rule("X-23")
def test_the_application_cannot_set_keys_that_the_sdk_or_the_server_derives(round_trip: RoundTrip) -> None:
    reserved = {
        "$exception_list": [], "$exception_type": "x", "$exception_message": "x", "$exception_level": "info",
        "$exception_source": "x", "$debug_images": [], "$exception_handled": True, "$exception_types": [],
        "$exception_values": [], "$exception_sources": [], "$exception_functions": [],
        "$exception_fingerprint_version": 1, "$exception_fingerprint_record": [], "$exception_issue_id": "x",
        "$exception_release": "x", "$cymbal_errors": [],
    }  # fmt: skip
    passed = {"$issue_name": "n", "$issue_description": "d", "$exception_steps": [1], "$release_id": "r"}
    client = round_trip.client(super_properties=reserved)
    with client.new_context():
        for name, value in reserved.items():
            client.tag(name, value)
        client.capture_exception(ValueError("mine"), properties={**reserved, **passed})
    (properties,) = round_trip.exceptions()
    assert properties["$exception_message"] == "mine"
    assert properties["$exception_level"] == "error"
    assert set(properties) & set(reserved) == {
        "$exception_list", "$exception_type", "$exception_message", "$exception_level",
    }  # fmt: skip
    assert {name: properties[name] for name in passed} == passed


@pytest.mark.rule("X-23")
def test_a_fingerprint_is_sent_if_it_is_a_string_or_a_list_of_strings(round_trip: RoundTrip) -> None:
    client = round_trip.client()
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
        assert round_trip.exceptions()[-1].get("$exception_fingerprint") == expected


def test_an_exception_event_from_capture_keeps_the_applications_own_keys(round_trip: RoundTrip) -> None:
    own = {"$exception_list": "mine", "$exception_handled": True, "$exception_fingerprint": 7}
    round_trip.client().capture("$exception", distinct_id="u", properties=own)
    properties = round_trip.server.store.events()[0]["properties"]
    assert {name: properties[name] for name in own} == own


# --- what may be captured --------------------------------------------------------------------------------


@pytest.mark.rule("X-24")
def test_without_an_exception_nothing_is_captured(round_trip: RoundTrip) -> None:
    client = round_trip.client()
    assert client.capture_exception() is None
    assert client.capture_exception((None, None, None)) is None
    assert round_trip.received() == []


@pytest.mark.rule("X-24")
def test_the_exception_that_is_being_handled_is_the_default(round_trip: RoundTrip) -> None:
    try:
        raise ValueError("handled")
    except ValueError:
        assert round_trip.capture()["$exception_message"] == "handled"
        assert round_trip.capture(None)["$exception_list"][0]["mechanism"]["synthetic"] is False


@pytest.mark.rule("X-24")
def test_an_exc_info_tuple_is_its_exception_with_its_traceback(round_trip: RoundTrip) -> None:
    other = raised(KeyError())
    error = ValueError("value")
    properties = round_trip.capture((ValueError, error, other.__traceback__))
    assert (properties["$exception_type"], functions(properties)) == ("ValueError", ["raised"])
    assert error.__traceback__ is None
    try:
        raise TypeError("all three")
    except TypeError:
        assert round_trip.capture(sys.exc_info())["$exception_message"] == "all three"


@pytest.mark.rule("X-24")
def test_classes_strings_and_other_objects_become_synthetic_exceptions(round_trip: RoundTrip) -> None:
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
        properties = round_trip.capture(subject)
        assert (properties["$exception_type"], properties["$exception_message"]) == (kind, value)
        assert properties["$exception_list"][0]["mechanism"]["synthetic"] is True
        assert functions(properties)[-1] == "<lambda>"


@pytest.mark.rule("X-24")
def test_a_traceback_exception_keeps_its_type_message_frames_and_chain(round_trip: RoundTrip) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise WithAttributes() from error
    except WithAttributes as error:
        summary = traceback.TracebackException.from_exception(error)
    properties = round_trip.capture(summary)
    assert chain(properties) == [("from str", None, None), ("'inner'", "cause", 0)]
    first = properties["$exception_list"][0]
    assert (first["type"], first["module"]) == ("WithAttributes", WithAttributes.__module__)
    assert first["mechanism"]["synthetic"] is False
    assert frames(properties)[-1]["context_line"] == "raise WithAttributes() from error"
    assert frames(properties)[-1]["in_app"] is True


FORMATTED_TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/views.py", line 40, in checkout
    pay(order)
  File "/etc/passwd", line 1, in pay
shop.errors.CheckoutError: no money
"""


@pytest.mark.rule("X-24")
def test_a_formatted_traceback_is_parsed_without_reading_the_files_it_names(round_trip: RoundTrip) -> None:
    class Report:
        name = "NameOfReport"
        msg = "from msg"
        stacktrace = FORMATTED_TRACEBACK

    cases: list[tuple[object, str, str]] = [
        ({"traceback": FORMATTED_TRACEBACK}, "CheckoutError", "no money"),
        ({"stack": FORMATTED_TRACEBACK, "message": "given"}, "CheckoutError", "given"),
        ({"stack": FORMATTED_TRACEBACK, "type": "Given", "value": "given"}, "Given", "given"),
        (Report(), "NameOfReport", "from msg"),
    ]
    for subject, kind, value in cases:
        properties = round_trip.capture(subject)
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
    only_message = round_trip.capture({"message": "no stack", "name": "E"})
    assert (only_message["$exception_type"], only_message["$exception_message"]) == ("E", "no stack")
    assert functions(only_message)[-1] == "<lambda>"


# --- logging and size ------------------------------------------------------------------------------------


@pytest.mark.rule("X-45")
def test_captured_exceptions_are_logged_if_the_option_is_set(round_trip: RoundTrip) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logging.getLogger("leanbase").addHandler(handler)
    error = raised(ValueError("mine"))
    round_trip.capture(error)
    assert records == []
    round_trip.capture(error, log_captured_exceptions=True)
    assert [(each.levelname, each.exc_info and each.exc_info[1]) for each in records] == [("ERROR", error)]


def remaining_details(properties: dict[str, Any]) -> list[bool]:
    """Return whether each detail that a too large event may lose is still there, in the order of its loss."""
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


@pytest.mark.rule("X-60", "W-20")
@pytest.mark.slow
def test_a_too_large_event_is_shortened_in_the_documented_order(round_trip: RoundTrip) -> None:
    def deep(level: int, payload: str) -> None:
        if level == 0:
            raise ValueError("m" * 7000)
        module.call(deep, level - 1, payload)

    module = round_trip.write_and_import("big", "def call(f, *a):\n    f(*a)\n" + f"# {'x' * 300}\n" * 3)
    errors: list[BaseException] = []
    for _ in range(7):
        with pytest.raises(ValueError) as caught:
            deep(20, "p " * 400)
        errors.append(caught.value)
    client = round_trip.client(capture_exception_code_variables=True)
    stages = []
    for ballast in range(500_000, 932_000, 9_000):  # small steps: each stage is for a narrow range of sizes
        before = len(round_trip.server.store.events())
        client.capture_exception(LooksLikeAGroup("g", errors), properties={"ballast": "b" * ballast})
        for event in round_trip.server.store.events(after=before):
            assert len(event["properties"]["ballast"]) == ballast
            remaining = remaining_details(event["properties"])
            if remaining not in stages:
                stages.append(remaining)
    assert stages == [[False] * lost + [True] * (6 - lost) for lost in range(7)]
    assert client.stats()["dropped"]["too_large"] >= 1
    assert len(round_trip.exceptions()) == client.stats()["delivered"]
