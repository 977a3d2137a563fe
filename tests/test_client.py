"""The public calls of a client: the events they send, hooks, opting out, switches, and that no call raises."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.transports import MemoryTransport
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.programs import run_program
from tests.support.threads import run_in_threads
from tests.support.transports import RaisingTransport


def only_event(memory: MemoryTransport) -> dict[str, Any]:
    assert len(memory.events) == 1
    return memory.events[0]


# --- event calls ------------------------------------------------------------------------------------


@pytest.mark.rule("E-1", "E-2", "E-3", "E-4", "G-3")
def test_capture_sends_all_its_arguments(client: Leanbase, memory: MemoryTransport) -> None:
    uuid = "0198c0de-0000-7000-8000-000000000abc"
    returned = client.capture(
        "e",
        distinct_id="u",
        properties={"a": 1},
        timestamp="2026-01-02T03:04:05Z",
        uuid=uuid,
        groups={"company": "acme"},
        disable_geoip=False,
    )
    event = only_event(memory)
    assert (event["event"], event["distinct_id"], event["properties"]["a"]) == ("e", "u", 1)
    assert returned == event["uuid"] == uuid
    assert event["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert event["properties"]["$groups"] == {"company": "acme"}
    assert "$geoip_disable" not in event["properties"]


def test_capture_adds_nothing_to_a_page_view(client: Leanbase, memory: MemoryTransport) -> None:
    client.capture("$pageview", distinct_id="u", properties={"$current_url": "https://example.com/a"})
    client.capture("$pageview", distinct_id="u")
    first, second = memory.events
    assert first["properties"]["$current_url"] == "https://example.com/a"
    assert "$current_url" not in second["properties"]


@pytest.mark.rule("C-10", "C-11")
@pytest.mark.parametrize("call", ["set", "set_once"])
def test_the_persons_object_has_exactly_the_callers_keys(
    call: str, client: Leanbase, memory: MemoryTransport
) -> None:
    with client.new_context():
        client.tag("t", 1)
        client.identify_context("ctx")
        client.set_context_session("s-1")
        getattr(client, call)(properties={"plan": "pro"})
    event = only_event(memory)
    assert event["event"] == f"${call}"
    assert event["distinct_id"] == "ctx"
    assert event["properties"][f"${call}"] == {"plan": "pro"}
    assert event["properties"]["t"] == 1
    assert event["properties"]["$session_id"] == "s-1"
    assert "$python_version" not in event["properties"]


@pytest.mark.rule("C-12")
@pytest.mark.parametrize("call", ["set", "set_once"])
def test_set_without_an_id_or_properties_sends_nothing(
    call: str, client: Leanbase, memory: MemoryTransport
) -> None:
    method = getattr(client, call)
    assert method(properties={"a": 1}) is None
    assert method(distinct_id="u") is None
    assert method(distinct_id="u", properties={}) is None
    assert method(distinct_id="u", properties=["not a mapping"]) is None
    assert memory.events == []
    assert client.stats()["dropped"] == {"invalid": 4}


@pytest.mark.rule("C-15", "C-16")
def test_identify_sends_set_and_set_once_and_leaves_the_context_alone(
    client: Leanbase, memory: MemoryTransport
) -> None:
    with client.new_context():
        client.identify("u", {"name": "N"}, set_once={"since": 1})
        client.identify("u")
        assert client.get_distinct_id() is None
    first, second = (event["properties"] for event in memory.events)
    assert first["$set"] == {"name": "N"}
    assert first["$set_once"] == {"since": 1}
    assert "$set" not in second
    assert "$set_once" not in second
    assert "$anon_distinct_id" not in first


@pytest.mark.rule("C-17")
@pytest.mark.parametrize("missing", [None, "", " "])
def test_identify_needs_an_explicit_id(missing: Any, client: Leanbase, memory: MemoryTransport) -> None:
    with client.new_context():
        client.identify_context("ctx")
        assert client.identify(missing, {"a": 1}) is None
    assert memory.events == []


@pytest.mark.rule("C-18")
def test_a_captured_identify_event_is_sent_as_it_is_given(client: Leanbase, memory: MemoryTransport) -> None:
    properties = {"$set": {"plan": "pro"}, "$anon_distinct_id": "a", "other": 1}
    client.capture("$identify", distinct_id="u", properties=properties)
    event = only_event(memory)
    assert (event["event"], event["distinct_id"]) == ("$identify", "u")
    assert event["properties"].items() >= properties.items()
    assert "$set_once" not in event["properties"]


@pytest.mark.rule("C-30")
@pytest.mark.parametrize(
    ("call", "positional"),
    [("capture", ["event"]), ("capture_exception", ["exception"]), ("set", []), ("set_once", [])],
)
def test_most_arguments_of_event_calls_are_keyword_only(call: str, positional: list[str]) -> None:
    for place in (leanbase, Leanbase("k", transport="memory")):
        parameters = inspect.signature(getattr(place, call)).parameters.values()
        assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == positional


@pytest.mark.rule("C-20", "C-22", "C-23")
def test_alias_sends_both_ids_without_tags(client: Leanbase, memory: MemoryTransport) -> None:
    with client.new_context():
        client.tag("t", 1)
        client.identify_context("ctx")
        client.set_context_session("s-1")
        client.alias("anon", "user")
        client.alias("anon")
        client.alias(0, "user")
    first, second, third = memory.events
    assert first["event"] == "$create_alias"
    assert first["distinct_id"] == first["properties"]["distinct_id"] == "anon"
    assert first["properties"]["alias"] == "user"
    assert first["properties"]["$session_id"] == "s-1"
    assert "t" not in first["properties"]
    assert "$context_tags" not in first["properties"]
    assert second["properties"]["alias"] == "ctx"
    assert third["distinct_id"] == "0"


@pytest.mark.rule("C-21", "C-22")
def test_alias_needs_both_ids(client: Leanbase, memory: MemoryTransport) -> None:
    assert client.alias("", "user") is None
    assert client.alias("anon") is None
    assert memory.events == []


@pytest.mark.rule("C-25", "C-27", "C-28")
def test_group_identify_sends_type_key_and_properties_without_tags(
    client: Leanbase, memory: MemoryTransport
) -> None:
    client.group_identify("company", "acme", {"name": "Acme"})
    client.group_identify("company", 0)
    client.group_identify("company", "acme", distinct_id="u")
    with client.new_context():
        client.tag("t", 1)
        client.identify_context("ctx")
        client.group_identify("company", ("a", 1))
    first, second, third, fourth = memory.events
    assert first["event"] == "$groupidentify"
    assert first["distinct_id"] == "$company_acme"
    group = {name: first["properties"][name] for name in ("$group_type", "$group_key", "$group_set")}
    assert group == {"$group_type": "company", "$group_key": "acme", "$group_set": {"name": "Acme"}}
    assert "$process_person_profile" not in first["properties"]
    assert second["properties"]["$group_key"] == 0
    assert second["properties"]["$group_set"] == {}
    assert third["distinct_id"] == "u"
    assert fourth["distinct_id"] == "ctx"
    assert fourth["properties"]["$group_key"] == "('a', 1)"
    assert "t" not in fourth["properties"]


@pytest.mark.rule("C-26")
@pytest.mark.parametrize(("kind", "key"), [("", "k"), (None, "k"), ("t", ""), ("t", None)])
def test_group_identify_needs_a_type_and_a_key(
    kind: Any, key: Any, client: Leanbase, memory: MemoryTransport
) -> None:
    assert client.group_identify(kind, key) is None
    assert memory.events == []


# --- opting out, disabled, debug, send --------------------------------------------------------------


@pytest.mark.rule("C-35", "C-36", "C-37")
def test_while_opted_out_nothing_is_captured_and_no_hook_runs(
    client: Leanbase, memory: MemoryTransport
) -> None:
    """Events that a scope had collected before are still delivered."""
    seen: list[object] = []
    client.before_send = lambda event: seen.append(event) or event
    with client.delivery_scope():
        client.capture("before", distinct_id="u")
        client.opt_out()
        assert client.is_opted_out()
        assert client.capture("while", distinct_id="u") is None
        assert client.set(distinct_id="u", properties={"a": 1}) is None
    client.opt_in()
    client.capture("after", distinct_id="u")
    assert not client.is_opted_out()
    assert [event["event"] for event in memory.events] == ["before", "after"]
    assert len(seen) == 2


@pytest.mark.rule("C-35")
def test_opting_out_and_in_takes_effect_in_other_threads_at_once(
    client: Leanbase, memory: MemoryTransport
) -> None:
    for name, switch in (("out", client.opt_out), ("in", client.opt_in)):
        run_in_threads(switch)
        client.capture(name, distinct_id="u")
    assert [event["event"] for event in memory.events] == ["in"]


@pytest.mark.rule("C-35")
def test_a_client_can_start_opted_out(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory, opted_out=True)
    assert client.capture("e", distinct_id="u") is None
    assert client.is_opted_out()


@pytest.mark.rule("C-40")
def test_a_disabled_client_sends_nothing_until_it_is_enabled_again(server: FaultServer) -> None:
    client = Leanbase("k", server.url)
    with client.delivery_scope():
        client.capture("pending", distinct_id="u")
        client.disabled = True
        assert client.capture("while", distinct_id="u") is None
    assert server.requests == []
    assert client.stats()["retained"] == 1
    client.flush()
    assert server.requests == []
    client.disabled = False
    client.capture("after", distinct_id="u")
    assert [event["event"] for event in server.events] == ["pending", "after"]
    assert balanced(client)
    assert client.is_opted_out() is False


@pytest.mark.rule("C-41")
def test_debug_changes_only_the_log_level(client: Leanbase, memory: MemoryTransport) -> None:
    logger = logging.getLogger("leanbase")
    client.debug = True
    assert client.debug
    assert logger.level == logging.DEBUG
    client.debug = False
    assert logger.level == logging.WARNING
    assert memory.events == []


@pytest.mark.rule("C-42")
def test_send_false_admits_events_and_transmits_none(server: FaultServer) -> None:
    hooked: list[object] = []
    client = Leanbase("k", server.url, send=False, before_send=lambda event: hooked.append(1) or event)
    assert client.capture("e", distinct_id="u") is not None
    assert client.flush()
    assert hooked == [1]
    assert server.requests == []
    assert client.stats()["dropped"] == {"send_off": 1}


@pytest.mark.rule("C-40")
def test_flush_of_a_disabled_client_returns_a_receipt_with_the_pending_events(server: FaultServer) -> None:
    server.script(Behaviour(status=500))
    client = Leanbase("k", server.url, max_retries=0)
    client.capture("e", distinct_id="u")
    client.disabled = True
    receipt = client.flush()
    assert not receipt
    assert receipt.retained == 1


def test_debug_logs_that_sending_is_paused(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    server.always(Behaviour(status=500))
    client = Leanbase("phc_k", server.url, max_retries=0, debug=True)
    for _ in range(4):
        client.capture("e", distinct_id="u")
    assert re.search(r"sending is paused for another \d+ s; events are retained", caplog.text)


# --- before_send ------------------------------------------------------------------------------------


@pytest.mark.rule("H-1", "H-3", "H-6")
def test_hooks_run_in_order_and_may_change_everything(client: Leanbase, memory: MemoryTransport) -> None:
    def rename(event: dict[str, Any]) -> dict[str, Any]:
        event["event"] = "renamed"
        return event

    def see(event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "properties": {"seen": event["event"], "odd": {1, 2}}}

    client.before_send = [rename, "not a function", see]
    client.capture("e", distinct_id="u")
    assert only_event(memory)["event"] == "renamed"
    assert only_event(memory)["properties"] == {"seen": "renamed", "odd": [1, 2]}


@pytest.mark.rule("H-2")
def test_a_hook_receives_the_finished_event(client: Leanbase) -> None:
    seen: list[dict[str, Any]] = []
    client.before_send = lambda event: seen.append(event)
    client.capture("e", distinct_id="u", properties={"at": object, "n": float("nan")})
    assert set(seen[0]) == {"event", "distinct_id", "uuid", "timestamp", "properties"}
    assert seen[0]["properties"]["at"] == "object"
    assert seen[0]["properties"]["n"] is None
    assert seen[0]["properties"]["$lib"] == "leanbase-python"


def raising_hook(event: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("secret 4711")


@pytest.mark.rule("H-4", "H-5", "H-6")
@pytest.mark.parametrize(
    ("hook", "is_warned_about", "reason"),
    [
        (lambda event: None, False, "before_send"),
        (raising_hook, True, "before_send"),
        (lambda event: "a string", True, "before_send"),
        (lambda event: {**event, "properties": []}, True, "invalid"),
        (lambda event: {**event, "event": ""}, True, "invalid"),
        (lambda event: {**event, "distinct_id": None}, True, "invalid"),
    ],
    ids=["None", "raises", "string", "properties", "event", "distinct_id"],
)
def test_an_event_is_dropped_if_a_hook_returns_none_or_fails(
    hook: Any,
    is_warned_about: bool,
    reason: str,
    client: Leanbase,
    memory: MemoryTransport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The failed hook may have been a privacy filter, so neither version of the event may be sent."""
    later_calls: list[object] = []
    client.before_send = (hook, lambda event: later_calls.append(event) or event)
    returned = client.capture("e", distinct_id="u", properties={"p": "secret 4711"})
    assert returned is None
    assert memory.events == []
    assert client.stats()["dropped"] == {reason: 1}
    assert bool(later_calls) == (reason != "before_send")
    levels = [record.levelno for record in caplog.records]
    assert levels == ([logging.WARNING] if is_warned_about else [])
    assert "4711" not in caplog.text


@pytest.mark.rule("H-6")
def test_an_invalid_uuid_or_timestamp_of_a_hook_is_replaced(
    client: Leanbase, memory: MemoryTransport
) -> None:
    client.before_send = lambda event: {**event, "uuid": None, "timestamp": "never", "distinct_id": 7}
    returned = client.capture("e", distinct_id="u")
    event = only_event(memory)
    assert returned == event["uuid"]
    assert event["timestamp"].endswith("+00:00")
    assert event["distinct_id"] == "7"


@pytest.mark.rule("H-6", "G-3")
def test_the_call_returns_a_uuid_that_a_hook_has_changed(client: Leanbase, memory: MemoryTransport) -> None:
    uuid = "0198c0de-0000-7000-8000-000000000abc"
    client.before_send = lambda event: {**event, "uuid": uuid}
    assert client.capture("e", distinct_id="u") == uuid == only_event(memory)["uuid"]


@pytest.mark.rule("H-8")
def test_on_error_receives_only_what_the_hook_returned(server: FaultServer) -> None:
    reported: list[Any] = []
    server.always(Behaviour(status=400))
    client = Leanbase(
        "k", server.url,
        before_send=lambda event: {**event, "properties": {"clean": True}},
        on_error=lambda error, events: reported.append(events),
    )  # fmt: skip
    client.capture("e", distinct_id="u", properties={"secret": 1})
    assert [event["properties"] for event in reported[0]] == [{"clean": True}]


@pytest.mark.rule("H-2")
def test_a_hook_runs_once_for_each_kind_of_event_in_the_capturing_thread(client: Leanbase) -> None:
    seen: list[tuple[str, int]] = []
    client.before_send = lambda event: seen.append((event["event"], threading.get_ident())) or event
    client.capture("e", distinct_id="u")
    client.capture_exception(ValueError("x"), distinct_id="u")
    client.set(distinct_id="u", properties={"a": 1})
    client.set_once(distinct_id="u", properties={"a": 1})
    client.identify("u")
    client.alias("a", "u")
    client.group_identify("company", "acme")
    names = ["e", "$exception", "$set", "$set_once", "$identify", "$create_alias", "$groupidentify"]
    assert seen == [(name, threading.get_ident()) for name in names]


@pytest.mark.rule("H-4")
def test_the_first_event_that_a_hook_drops_is_logged_at_info(
    client: Leanbase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client.before_send = lambda event: None
    for _ in range(3):
        client.capture("e", distinct_id="u")
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "before_send" in caplog.text


def test_a_hook_that_drops_every_event_is_warned_about(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    def forgets(event: Any) -> Any:
        event["properties"]["seen"] = True

    client = Leanbase("k", transport=memory, before_send=forgets)
    for _ in range(150):
        client.capture("e", distinct_id="u")
    message = "before_send dropped each of the first 100 events"
    assert [each.levelname for each in caplog.records if message in each.message] == ["WARNING"]
    caplog.clear()
    client = Leanbase(
        "k", transport=memory, before_send=lambda event: event if event["event"] == "first" else None
    )
    client.capture("first", distinct_id="u")
    for _ in range(150):
        client.capture("e", distinct_id="u")
    assert message not in caplog.text


@pytest.mark.rule("H-5")
def test_the_warning_about_a_failing_hook_names_its_place(
    client: Leanbase, caplog: pytest.LogCaptureFixture
) -> None:
    client.before_send = raising_hook
    client.capture("e", distinct_id="u")
    assert "RuntimeError at" in caplog.text
    assert "test_client.py:" in caplog.text


@pytest.mark.rule("H-9")
def test_keys_that_a_hook_adds_at_the_top_level_are_not_sent(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    client.before_send = lambda event: {**event, "tenant": "acme"}
    for _ in range(2):
        client.capture("e", distinct_id="u")
    assert set(memory.events[0]) == {"event", "distinct_id", "uuid", "timestamp", "properties"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.rule("H-7")
def test_a_hook_may_replace_the_properties_of_an_exception_event(
    client: Leanbase, memory: MemoryTransport
) -> None:
    client.before_send = lambda event: {**event, "properties": {"$exception_list": "replaced"}}
    client.capture_exception(ValueError("x"), distinct_id="u")
    assert only_event(memory)["properties"] == {"$exception_list": "replaced"}


@pytest.mark.rule("H-9")
def test_a_hook_can_capture_with_another_client(client: Leanbase, memory: MemoryTransport) -> None:
    other_memory = MemoryTransport()
    other = Leanbase("k", transport=other_memory)
    client.before_send = lambda event: other.capture("seen", distinct_id="u") and event
    client.capture("e", distinct_id="u")
    assert [event["event"] for event in other_memory.events + memory.events] == ["seen", "e"]


def test_a_hook_cannot_capture_with_its_own_client(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """The new event would pass through the same hook, without end."""
    client.before_send = lambda event: client.capture("inner", distinct_id="u") or event
    assert client.capture("outer", distinct_id="u") is not None
    assert [event["event"] for event in memory.events] == ["outer"]
    assert "cannot capture with its own client" in caplog.text
    assert balanced(client)


# --- the maximum size of an event -------------------------------------------------------------------


@pytest.mark.rule("W-20", "G-6")
def test_the_log_about_an_oversized_event_has_its_name_and_size_and_no_value(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.capture("big one", distinct_id="u", properties={"p": "s3cret" * 200_000}) is None
    assert client.stats()["dropped"] == {"too_large": 1}
    assert "big one" in caplog.text
    assert "1200" in caplog.text
    assert "s3cret" not in caplog.text
    assert client.capture("small one", distinct_id="u") is not None


# --- no call raises, and no log shows a secret ------------------------------------------------------


class RaisesAlways:
    """An argument whose every method raises."""

    def __str__(self) -> str:
        raise RuntimeError("a broken argument")

    __repr__ = __bool__ = __eq__ = __len__ = __iter__ = __str__  # type: ignore[assignment]

    def __hash__(self) -> int:
        raise RuntimeError("a broken argument")


@pytest.mark.rule("G-1", "G-8")
@pytest.mark.parametrize("debug", [False, True])
def test_no_call_raises_whatever_its_arguments_do(debug: bool) -> None:
    client = Leanbase("k", transport=RaisingTransport(), debug=debug, on_error=raising_hook)  # type: ignore[arg-type]
    odd: Any = RaisesAlways()
    client.capture(
        odd, distinct_id=odd, properties=odd, timestamp=odd, uuid=odd, groups=odd, disable_geoip=odd
    )
    client.capture(
        "e",
        distinct_id=odd,
        properties={"a": odd},
        timestamp=odd,
        uuid=odd,
        groups={"g": odd},
        disable_geoip=odd,
    )
    client.set(distinct_id=odd, properties=odd)
    client.set_once(distinct_id="u", properties={"a": odd}, timestamp=odd, uuid=odd)
    client.identify(odd, odd, set_once={"a": odd})
    client.alias(odd, odd)
    client.group_identify(odd, odd, odd)
    with client.new_context():
        client.tag(odd, odd)
        client.tag("t", odd)
        client.identify_context(odd)
        client.set_context_session(odd)
        client.set_context_device_id(odd)
        client.capture("e")
    client.flush(odd)
    client.before_send = odd
    client.capture("e", distinct_id="u")
    client.shutdown(odd)
    assert balanced(client)


@pytest.mark.rule("G-1")
def test_a_call_that_does_not_fit_the_signature_raises_type_error() -> None:
    client = Leanbase("k", transport="memory")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        client.capture("e", distinct="u")  # type: ignore[call-arg]


@pytest.mark.rule("G-1", "G-6")
def test_an_event_is_retained_if_the_transport_raises(caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("k", transport=RaisingTransport())
    assert client.capture("e", distinct_id="u", properties={"p": "s3cret"}) is not None
    assert client.stats()["retained"] == 1
    assert "s3cret" not in caplog.text


@pytest.mark.rule("G-6")
def test_neither_logs_nor_reprs_show_the_key(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.stop()
    client = Leanbase("phc_very_secret", server.url, max_retries=0, debug=True)
    client.capture("e", distinct_id="u", properties={"p": "s3cret"})
    shown = caplog.text + repr(client) + repr(client.flush()) + repr(client._current().outbox)
    assert "very_secret" not in shown
    assert "s3cret" not in "".join(each.message for each in caplog.records if each.levelno > logging.DEBUG)


def test_debug_logs_each_event_with_its_secrets_redacted(caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("phc_k", transport=MemoryTransport(), debug=True)
    properties = {"total": 42, "password": "s3cret", "headers": [{"Authorization": "s3cret"}], "plan": "pro"}
    client.capture("order created", distinct_id="user_1", properties=properties)
    (shown,) = [each.message for each in caplog.records if "order created" in each.message]
    assert all(part in shown for part in ("'user_1'", "'total': 42", "'plan': 'pro'"))
    assert "s3cret" not in shown


def test_debug_prints_each_line_once_if_logging_is_configured_later() -> None:
    done = run_program("tests.programs.debug_logging")
    assert done.returncode == 0, done.stderr
    assert "captured 'first'" in done.stderr
    assert "captured 'second'" in done.stdout
    assert "captured 'second'" not in done.stderr


@pytest.mark.rule("C-1")
def test_arguments_of_the_wrong_type_are_left_out_with_a_warning(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    client.capture("e", distinct_id="u", groups=["acme"])  # type: ignore[arg-type]
    client.identify("u", ["not a mapping"])  # type: ignore[arg-type]
    assert "$groups" not in memory.events[0]["properties"]
    assert "$set" not in memory.events[1]["properties"]
    assert len(caplog.records) == 2


@pytest.mark.rule("G-1")
def test_a_call_that_fails_inside_the_client_returns_a_false_receipt(
    client: Leanbase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanbase.delivery.outbox.Outbox.flush", lambda *args, **options: 1 / 0)
    receipt = client.flush()
    assert not receipt
    assert (receipt.retained, receipt.dropped, repr(receipt)) == (0, {}, "<Receipt unknown>")


@pytest.mark.rule("G-1")
def test_a_disabled_client_also_raises_type_error_for_a_wrong_call() -> None:
    """Otherwise tests with `disabled=True` would not find a mistake that raises in production."""
    client = Leanbase("k", transport="memory", disabled=True)
    with pytest.raises(TypeError, match=r"capture\(\) .*user_id"):
        client.capture("e", user_id="u")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="event"):
        client.capture()  # type: ignore[call-arg]


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.rule("C-45")
@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("write_key", "is not an option: use api_key"),
        ("max_queue", "is not an option: use max_queue_size"),
        ("timeout_seconds", "is not an option: use timeout"),
        ("upload_size", "is not an option: use flush_at"),
        ("thread", "sync_mode=False"),
        ("flush_att", "did you mean 'flush_at'"),
    ],
)
def test_an_option_of_another_sdk_is_refused_with_a_hint(option: str, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        Leanbase("k", "http://127.0.0.1:9", **{option: "phx_0815"})  # type: ignore[arg-type]
    assert option in str(caught.value)
    assert hint in str(caught.value)
    assert "phx_0815" not in str(caught.value)
    assert option == "flush_att" or "did you mean" not in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since 3.11")
def test_the_error_about_an_argument_of_another_sdk_has_a_note(client: Leanbase) -> None:
    with pytest.raises(TypeError) as caught:
        client.capture("e", user_id="u")  # type: ignore[call-arg]
    assert caught.value.__notes__ == ["user_id is called distinct_id here"]


@pytest.mark.rule("O-4")
def test_all_options_can_be_read_but_only_some_can_be_set(memory: MemoryTransport) -> None:
    client = Leanbase("phc_k", transport=memory, flush_at=7)
    assert (client.flush_at, client.max_retries, client.api_key) == (7, 3, "phc_k")
    for name in ("super_properties", "send", "flush_at"):
        with pytest.raises(AttributeError, match=f"{name} cannot be set on a client: create another client"):
            setattr(client, name, 1)
    with pytest.raises(AttributeError, match="there is no such option"):
        client.flush_att = 5
    client.disabled, client.debug, client.before_send = False, False, None
    assert not hasattr(client, "flush_att")


@pytest.mark.parametrize("options", [{"fallback": "spool"}, {"transport": "spool"}])
@pytest.mark.rule("G-1")
def test_a_spool_directory_that_cannot_be_used_costs_no_event(
    options: Any, server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file" / "spool", tmp_path):
        tmp_path.chmod(0o755)
        client = Leanbase("k", server.url, spool_directory=str(directory), **options)
        assert client.capture("e", distinct_id="u")
    assert len(server.events) == 2
    messages = [each for each in caplog.records if "spool_directory" in each.message]
    assert [each.levelname for each in messages] == ["ERROR", "ERROR"]


# --- shutdown ---------------------------------------------------------------------------------------


@pytest.mark.rule("Q-40", "Q-41", "Q-42")
def test_a_client_admits_nothing_after_shutdown(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    client.capture("e", distinct_id="u")
    assert client.shutdown()
    assert client.capture("late", distinct_id="u") is None
    assert "was shut down" in caplog.text
    assert client.shutdown()
    assert client.stats() == {
        "captured": 2, "delivered": 1, "handed_off": 0, "spooled": 0, "retained": 0, "dropped": {"shutdown": 1},
    }  # fmt: skip


@pytest.mark.rule("Q-40")
def test_shutdown_inside_a_scope_sends_its_events(client: Leanbase, memory: MemoryTransport) -> None:
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        assert memory.events == []
        assert client.shutdown().delivered == 1
    assert len(memory.events) == 1


@pytest.mark.rule("Q-43")
def test_shutdown_inside_a_scope_asks_an_unavailable_server_once(server: FaultServer) -> None:
    server.always(Behaviour(status=500))
    client = Leanbase("k", server.url, max_retries=0)
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        assert client.shutdown().dropped == {"shutdown": 1}
    assert len(server.requests) == 1
    assert balanced(client)


@pytest.mark.rule("C-40")
def test_shutdown_while_disabled_makes_no_request(server: FaultServer) -> None:
    server.script(Behaviour(status=500))
    client = Leanbase("k", server.url, max_retries=0)
    client.capture("e", distinct_id="u")
    client.disabled = True
    assert client.shutdown().dropped == {"shutdown": 1}
    assert len(server.requests) == 1
    assert balanced(client)


@pytest.mark.rule("Q-32")
def test_flush_inside_a_scope_ends_at_its_timeout(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = Leanbase("k", server.url, max_retries=0, send_deadline=5)
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        started = time.monotonic()
        assert not client.flush(timeout=0.3)
        assert time.monotonic() - started < 1
        assert len(server.requests) == 1
        server.always(Behaviour())


@pytest.mark.rule("Q-40")
def test_a_client_used_as_a_context_manager_shuts_down_at_the_end(memory: MemoryTransport) -> None:
    with Leanbase("k", transport=memory) as client, client.delivery_scope():
        client.capture("e", distinct_id="u")
    assert len(memory.events) == 1
    assert client.capture("late", distinct_id="u") is None


def test_disconnect_without_a_timeout_sends_pending_events(memory: MemoryTransport) -> None:
    client = Leanbase("phc_test", transport=memory, sync_mode=False)
    client.capture("buffered", distinct_id="u")
    assert client.disconnect(timeout=None)
    assert len(memory.events) == 1
    client.shutdown()


# --- configuration errors ---------------------------------------------------------------------------


@pytest.mark.rule("G-1")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "leanbase.example.com"}, "http"),
        ({"host": "ftp://x"}, "http"),
        ({"host": "http://"}, "http"),
        ({"host": "https://user:pw@example.com"}, "credentials"),
        ({"host": "http://x", "transport": "carrier-pigeon"}, "carrier-pigeon"),
        ({"host": "http://x", "transport": 3}, "int"),
        ({"host": "http://x", "transport": "no.such.module:Thing"}, "no.such.module"),
        ({"host": "http://x", "transport": "json:JSONDecoder"}, "not a subclass of BaseTransport"),
        ({"transport": "memory", "fallback": "carrier-pigeon"}, "carrier-pigeon"),
        ({"transport": "memory", "fallback": 3}, "fallback must be"),
        ({"host": 3}, "host must be a string"),
    ],
)
def test_an_option_that_can_never_work_raises_config_error(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Leanbase("k", **options)
    assert "pw" not in str(caught.value)


@pytest.mark.rule("G-1", "W-1", "C-38")
@pytest.mark.parametrize(
    "options", [{"host": "https://x.example"}, {"api_key": "k"}, {"api_key": " ", "host": "https://x"}]
)
def test_a_client_without_a_key_or_host_is_disabled_and_logs_one_error(
    options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = Leanbase(**options)
    assert client.disabled
    assert client.is_opted_out()
    for _ in range(3):
        assert client.capture("e", distinct_id="u") is None
    client.disabled = False
    assert client.disabled
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "LEANBASE_" in caplog.text


def test_a_memory_transport_needs_no_key(memory: MemoryTransport) -> None:
    assert Leanbase(transport=memory).capture("e", distinct_id="u") is not None


def test_an_unknown_option_raises_type_error_with_a_hint() -> None:
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        Leanbase("k", "https://x", timeuot=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="by keyword"):
        Leanbase("k", "https://x", 3)  # type: ignore[arg-type, call-arg]


def test_client_is_another_name_of_leanbase() -> None:
    assert leanbase.Client is leanbase.Leanbase
