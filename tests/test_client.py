"""Public calls: what each puts on the wire, hooks, opting out, switches, and that none raises."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.transports import BaseTransport, MemoryTransport
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer


def only(memory: MemoryTransport) -> dict[str, Any]:
    assert len(memory.events) == 1
    return memory.events[0]


# --- 3.2 - 3.6: the calls ---------------------------------------------------------------------------


def test_3_2_capture_takes_everything_by_position(client: Leanbase, memory: MemoryTransport) -> None:
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
    event = only(memory)
    assert returned == event["uuid"] == uuid
    assert event["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert event["properties"]["$groups"] == {"company": "acme"}
    assert "$geoip_disable" not in event["properties"]


def test_3_2_a_page_view_is_an_ordinary_event(client: Leanbase, memory: MemoryTransport) -> None:
    client.capture("$pageview", distinct_id="u", properties={"$current_url": "https://example.com/a"})
    client.capture("$pageview", distinct_id="u")
    first, second = memory.events
    assert first["properties"]["$current_url"] == "https://example.com/a"
    assert "$current_url" not in second["properties"]


@pytest.mark.rule("C-10", "C-11")
@pytest.mark.parametrize("call", ["set", "set_once"])
def test_person_properties_hold_the_callers_keys_alone(
    call: str, client: Leanbase, memory: MemoryTransport
) -> None:
    with client.new_context():
        client.tag("t", 1)
        client.identify_context("ctx")
        client.set_context_session("s-1")
        getattr(client, call)(properties={"plan": "pro"})
    event = only(memory)
    assert event["event"] == f"${call}"
    assert event["distinct_id"] == "ctx"
    assert event["properties"][f"${call}"] == {"plan": "pro"}
    assert event["properties"]["t"] == 1
    assert event["properties"]["$session_id"] == "s-1"
    assert "$python_version" not in event["properties"]


@pytest.mark.rule("C-12")
@pytest.mark.parametrize("call", ["set", "set_once"])
def test_without_an_id_or_properties_nothing_is_sent(
    call: str, client: Leanbase, memory: MemoryTransport
) -> None:
    method = getattr(client, call)
    assert method(properties={"a": 1}) is None
    assert method(distinct_id="u") is None
    assert method(distinct_id="u", properties={}) is None
    assert method(distinct_id="u", properties=["no mapping"]) is None
    assert memory.events == []
    assert client.stats()["dropped"] == {"invalid": 4}


@pytest.mark.rule("C-15", "C-16")
def test_identify(client: Leanbase, memory: MemoryTransport) -> None:
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
def test_identify_needs_its_own_id(missing: Any, client: Leanbase, memory: MemoryTransport) -> None:
    with client.new_context():
        client.identify_context("ctx")
        assert client.identify(missing, {"a": 1}) is None
    assert memory.events == []


@pytest.mark.rule("C-20", "C-22", "C-23")
def test_alias(client: Leanbase, memory: MemoryTransport) -> None:
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
def test_group_identify(client: Leanbase, memory: MemoryTransport) -> None:
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
def test_a_group_needs_type_and_key(kind: Any, key: Any, client: Leanbase, memory: MemoryTransport) -> None:
    assert client.group_identify(kind, key) is None
    assert memory.events == []


# --- 3.9, 3.10: switches ----------------------------------------------------------------------------


@pytest.mark.rule("C-35", "C-38")
def test_opting_out(client: Leanbase, memory: MemoryTransport) -> None:
    """While opted out nothing is captured and no hook runs; what was collected before still goes out."""
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
def test_opted_out_can_be_the_initial_state(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory, opted_out=True)
    assert client.capture("e", distinct_id="u") is None
    assert client.is_opted_out()


@pytest.mark.rule("C-40")
def test_disabled_stops_everything_and_resumes(server: FaultServer) -> None:
    """Captured before, disabled, enabled again: what waited is sent then and not before."""
    client = Leanbase("k", server.url)
    with client.delivery_scope():
        client.capture("waiting", distinct_id="u")
        client.disabled = True
        assert client.capture("while", distinct_id="u") is None
    assert server.requests == []
    assert client.stats()["retained"] == 1
    client.flush()
    assert server.requests == []
    client.disabled = False
    client.capture("after", distinct_id="u")
    assert [event["event"] for event in server.events] == ["waiting", "after"]
    assert balanced(client)
    assert client.is_opted_out() is False


@pytest.mark.rule("C-41")
def test_debug_changes_the_log_level_alone(client: Leanbase, memory: MemoryTransport) -> None:
    logger = logging.getLogger("leanbase")
    client.debug = True
    assert client.debug
    assert logger.level == logging.DEBUG
    client.debug = False
    assert logger.level == logging.WARNING
    assert memory.events == []


@pytest.mark.rule("C-42")
def test_send_false_admits_and_transmits_nothing(server: FaultServer) -> None:
    hooked: list[object] = []
    client = Leanbase("k", server.url, send=False, before_send=lambda event: hooked.append(1) or event)
    assert client.capture("e", distinct_id="u") is not None
    assert client.flush()
    assert hooked == [1]
    assert server.requests == []
    assert client.stats()["dropped"] == {"send_off": 1}


# --- 3.12: before_send ------------------------------------------------------------------------------


@pytest.mark.rule("H-1", "H-3")
def test_hooks_run_in_order_and_may_change_everything(client: Leanbase, memory: MemoryTransport) -> None:
    def rename(event: dict[str, Any]) -> dict[str, Any]:
        event["event"] = "renamed"
        return event

    def see(event: dict[str, Any]) -> dict[str, Any]:
        return {**event, "properties": {"seen": event["event"], "odd": {1, 2}}}

    client.before_send = [rename, "no function", see]
    client.capture("e", distinct_id="u")
    assert only(memory)["event"] == "renamed"
    assert only(memory)["properties"] == {"seen": "renamed", "odd": [1, 2]}


@pytest.mark.rule("H-2")
def test_the_hook_sees_the_finished_event(client: Leanbase) -> None:
    seen: list[dict[str, Any]] = []
    client.before_send = lambda event: seen.append(event)
    client.capture("e", distinct_id="u", properties={"at": object, "n": float("nan")})
    assert set(seen[0]) == {"event", "distinct_id", "uuid", "timestamp", "properties"}
    assert seen[0]["properties"]["at"] == "object"
    assert seen[0]["properties"]["n"] is None
    assert seen[0]["properties"]["$lib"] == "leanbase-python"


def raising(event: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("secret 4711")


@pytest.mark.rule("H-4", "H-5", "H-6")
@pytest.mark.parametrize(
    ("hook", "warned", "reason"),
    [
        (lambda event: None, False, "before_send"),
        (raising, True, "before_send"),
        (lambda event: "text", True, "before_send"),
        (lambda event: {**event, "properties": []}, True, "invalid"),
        (lambda event: {**event, "event": ""}, True, "invalid"),
        (lambda event: {**event, "distinct_id": None}, True, "invalid"),
    ],
)
def test_a_hook_that_drops_or_fails_sends_nothing(
    hook: Any,
    warned: bool,
    reason: str,
    client: Leanbase,
    memory: MemoryTransport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The failed hook may have been a privacy filter, so neither version of the event may leave."""
    never: list[object] = []
    client.before_send = (hook, lambda event: never.append(event) or event)
    returned = client.capture("e", distinct_id="u", properties={"p": "secret 4711"})
    assert returned is None
    assert memory.events == []
    assert client.stats()["dropped"] == {reason: 1}
    assert bool(caplog.records) == warned
    assert "4711" not in caplog.text


@pytest.mark.rule("H-6")
def test_uuid_and_timestamp_are_repaired(client: Leanbase, memory: MemoryTransport) -> None:
    client.before_send = lambda event: {**event, "uuid": None, "timestamp": "never", "distinct_id": 7}
    returned = client.capture("e", distinct_id="u")
    event = only(memory)
    assert returned == event["uuid"]
    assert event["timestamp"].endswith("+00:00")
    assert event["distinct_id"] == "7"


@pytest.mark.rule("H-6")
def test_a_changed_uuid_is_what_the_call_returns(client: Leanbase, memory: MemoryTransport) -> None:
    uuid = "0198c0de-0000-7000-8000-000000000abc"
    client.before_send = lambda event: {**event, "uuid": uuid}
    assert client.capture("e", distinct_id="u") == uuid == only(memory)["uuid"]


@pytest.mark.rule("H-8")
def test_on_error_sees_the_hooked_event_alone(server: FaultServer) -> None:
    heard: list[Any] = []
    server.always(Behaviour(status=400))
    client = Leanbase(
        "k", server.url,
        before_send=lambda event: {**event, "properties": {"clean": True}},
        on_error=lambda error, events: heard.append(events),
    )  # fmt: skip
    client.capture("e", distinct_id="u", properties={"secret": 1})
    assert [event["properties"] for event in heard[0]] == [{"clean": True}]


# --- W-20 -------------------------------------------------------------------------------------------


@pytest.mark.rule("W-20")
def test_an_oversized_event_is_dropped_by_name_and_size(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.capture("big one", distinct_id="u", properties={"p": "s3cret" * 200_000}) is None
    assert client.stats()["dropped"] == {"too_large": 1}
    assert "big one" in caplog.text
    assert "1200" in caplog.text
    assert "s3cret" not in caplog.text
    assert client.capture("small one", distinct_id="u") is not None


# --- G-1, G-6: nothing raises, nothing leaks --------------------------------------------------------


class Awkward:
    """An argument that fails at whatever is done with it."""

    def __str__(self) -> str:
        raise RuntimeError("awkward")

    __repr__ = __bool__ = __eq__ = __len__ = __iter__ = __str__  # type: ignore[assignment]

    def __hash__(self) -> int:
        raise RuntimeError("awkward")


class RaisingTransport(BaseTransport):
    def send(self, events: Any, *, deadline: Any) -> Any:
        raise RuntimeError("broken transport")


@pytest.mark.rule("G-1")
@pytest.mark.parametrize("debug", [False, True])
def test_no_call_raises_on_any_argument(debug: bool) -> None:
    client = Leanbase("k", transport=RaisingTransport(), debug=debug, on_error=raising)  # type: ignore[arg-type]
    odd: Any = Awkward()
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
def test_only_pythons_own_type_error_passes() -> None:
    client = Leanbase("k", transport="memory")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        client.capture("e", distinct="u")  # type: ignore[call-arg]


@pytest.mark.rule("G-1")
def test_an_event_survives_a_transport_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("k", transport=RaisingTransport())
    assert client.capture("e", distinct_id="u", properties={"p": "s3cret"}) is not None
    assert client.stats()["retained"] == 1
    assert "s3cret" not in caplog.text


@pytest.mark.rule("G-6")
def test_logs_and_repr_hold_no_key(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.stop()
    client = Leanbase("phc_very_secret", server.url, max_retries=0, debug=True)
    client.capture("e", distinct_id="u", properties={"p": "s3cret"})
    shown = caplog.text + repr(client) + repr(client.flush()) + repr(client._current().outbox)
    assert "very_secret" not in shown
    assert "s3cret" not in "".join(each.message for each in caplog.records if each.levelno > logging.DEBUG)


def test_debug_shows_each_event_without_the_secrets_in_it(caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("phc_k", transport=MemoryTransport(), debug=True)
    properties = {"total": 42, "password": "s3cret", "headers": [{"Authorization": "s3cret"}], "plan": "pro"}
    client.capture("order created", distinct_id="user_1", properties=properties)
    (shown,) = [each.message for each in caplog.records if "order created" in each.message]
    assert all(part in shown for part in ("'user_1'", "'total': 42", "'plan': 'pro'"))
    assert "s3cret" not in shown


def test_each_line_is_printed_once_when_logging_is_configured_later() -> None:
    program = """
import logging, sys
from leanbase import Leanbase
client = Leanbase("k", "http://127.0.0.1:9", max_retries=0, debug=True)
client.capture("first", distinct_id="u")
logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stdout)
client.capture("second", distinct_id="u")
client.opt_out()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "captured 'first'" in done.stderr
    assert "captured 'second'" in done.stdout
    assert "captured 'second'" not in done.stderr


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("personal_api_key", "nothing here needs that secret"),
        ("write_key", "is called api_key here"),
        ("max_queue", "is called max_queue_size here"),
        ("timeout_seconds", "is called timeout here"),
        ("upload_size", "is called flush_at here"),
        ("thread", "sync_mode=False"),
        ("poll_interval", "nothing is polled"),
        ("flush_att", "did you mean 'flush_at'"),
    ],
)
def test_an_option_of_another_sdk_is_told_of_by_name(option: str, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        Leanbase("k", "http://127.0.0.1:9", **{option: "phx_0815"})  # type: ignore[arg-type]
    assert option in str(caught.value)
    assert said in str(caught.value)
    assert "phx_0815" not in str(caught.value)
    assert option == "flush_att" or "did you mean" not in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since 3.11")
def test_an_argument_of_another_sdk_is_told_of_in_a_note(client: Leanbase) -> None:
    with pytest.raises(TypeError) as caught:
        client.capture("e", user_id="u")  # type: ignore[call-arg]
    assert caught.value.__notes__ == ["user_id is called distinct_id here"]


def test_options_can_be_read_and_those_that_cannot_change_not_set(memory: MemoryTransport) -> None:
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
def test_a_spool_that_the_machine_does_not_give_costs_nothing_but_itself(
    options: Any, server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file" / "spool", tmp_path):
        tmp_path.chmod(0o755)
        client = Leanbase("k", server.url, spool_directory=str(directory), **options)
        assert client.capture("e", distinct_id="u")
    assert len(server.events) == 2
    said = [each for each in caplog.records if "spool_directory" in each.message]
    assert [each.levelname for each in said] == ["ERROR", "ERROR"]


# --- shutdown ---------------------------------------------------------------------------------------


@pytest.mark.rule("Q-40", "Q-42")
def test_a_client_is_closed_for_good(
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
def test_shutdown_inside_a_scope_sends_what_it_collected(client: Leanbase, memory: MemoryTransport) -> None:
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        assert memory.events == []
        assert client.shutdown().delivered == 1
    assert len(memory.events) == 1


@pytest.mark.rule("Q-43")
def test_shutdown_inside_a_scope_tries_a_dead_endpoint_once(server: FaultServer) -> None:
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
def test_flush_keeps_to_its_timeout_inside_a_scope(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = Leanbase("k", server.url, max_retries=0, send_deadline=5)
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
        started = time.monotonic()
        assert not client.flush(timeout=0.3)
        assert time.monotonic() - started < 1
        assert len(server.requests) == 1
        server.always(Behaviour())


# --- configuration errors ---------------------------------------------------------------------------


@pytest.mark.rule("G-1")
@pytest.mark.parametrize(
    ("options", "says"),
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
def test_what_can_never_work_is_found_at_the_start(options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Leanbase("k", **options)
    assert "pw" not in str(caught.value)


@pytest.mark.rule("G-1")
@pytest.mark.parametrize(
    "options", [{"host": "https://x.example"}, {"api_key": "k"}, {"api_key": " ", "host": "https://x"}]
)
def test_a_missing_key_or_host_disables_and_says_so_once(
    options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = Leanbase(**options)
    assert client.disabled
    for _ in range(3):
        assert client.capture("e", distinct_id="u") is None
    client.disabled = False
    assert client.disabled
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "LEANBASE_" in caplog.text


def test_a_transport_that_needs_no_endpoint_needs_no_key(memory: MemoryTransport) -> None:
    assert Leanbase(transport=memory).capture("e", distinct_id="u") is not None


def test_an_unknown_option_is_a_type_error_with_a_hint() -> None:
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        Leanbase("k", "https://x", timeuot=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="by keyword"):
        Leanbase("k", "https://x", 3)  # type: ignore[arg-type, call-arg]


def test_client_is_an_alias() -> None:
    assert leanbase.Client is leanbase.Leanbase


@pytest.mark.rule("G-1")
def test_a_call_that_does_not_fit_fails_the_same_when_disabled() -> None:
    """Otherwise the mistake passes every test with `disabled=True` and shows in production."""
    client = Leanbase("k", transport="memory", disabled=True)
    with pytest.raises(TypeError, match=r"capture\(\) .*user_id"):
        client.capture("e", user_id="u")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="event"):
        client.capture()  # type: ignore[call-arg]


@pytest.mark.rule("H-2")
def test_a_capture_inside_before_send_is_refused(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """It would go through the same hook again, without end."""
    client.before_send = lambda event: client.capture("inner", distinct_id="u") or event
    assert client.capture("outer", distinct_id="u") is not None
    assert [event["event"] for event in memory.events] == ["outer"]
    assert "cannot capture with its own client" in caplog.text
    assert balanced(client)


@pytest.mark.rule("H-5")
def test_a_failing_hook_is_named_by_its_place(client: Leanbase, caplog: pytest.LogCaptureFixture) -> None:
    client.before_send = raising
    client.capture("e", distinct_id="u")
    assert "RuntimeError at" in caplog.text
    assert "test_client.py:" in caplog.text


def test_a_client_can_be_used_as_a_context_manager(memory: MemoryTransport) -> None:
    with Leanbase("k", transport=memory) as client, client.delivery_scope():
        client.capture("e", distinct_id="u")
    assert len(memory.events) == 1
    assert client.capture("late", distinct_id="u") is None


def test_arguments_of_the_wrong_kind_are_left_out_with_a_warning(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    client.capture("e", distinct_id="u", groups=["acme"])  # type: ignore[arg-type]
    client.identify("u", ["no mapping"])  # type: ignore[arg-type]
    assert "$groups" not in memory.events[0]["properties"]
    assert "$set" not in memory.events[1]["properties"]
    assert len(caplog.records) == 2


def test_a_disabled_client_says_that_something_waits(server: FaultServer) -> None:
    server.script(Behaviour(status=500))
    client = Leanbase("k", server.url, max_retries=0)
    client.capture("e", distinct_id="u")
    client.disabled = True
    receipt = client.flush()
    assert not receipt
    assert receipt.retained == 1


def test_a_hook_that_lets_nothing_pass_is_told_of(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    def forgets(event: Any) -> Any:
        event["properties"]["seen"] = True

    client = Leanbase("k", transport=memory, before_send=forgets)
    for _ in range(150):
        client.capture("e", distinct_id="u")
    said = "before_send dropped each of the first 100 events"
    assert [each.levelname for each in caplog.records if said in each.message] == ["WARNING"]
    caplog.clear()
    client = Leanbase(
        "k", transport=memory, before_send=lambda event: event if event["event"] == "first" else None
    )
    client.capture("first", distinct_id="u")
    for _ in range(150):
        client.capture("e", distinct_id="u")
    assert said not in caplog.text


def test_debug_says_that_sends_pause(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    server.always(Behaviour(status=500))
    client = Leanbase("phc_k", server.url, max_retries=0, debug=True)
    for _ in range(4):
        client.capture("e", distinct_id="u")
    assert re.search(r"sending is paused for another \d+ s; events are retained", caplog.text)


def test_a_call_that_fails_inside_the_client_returns_a_false_receipt(
    client: Leanbase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanbase.delivery.outbox.Outbox.flush", lambda *args, **options: 1 / 0)
    receipt = client.flush()
    assert not receipt
    assert (receipt.retained, receipt.dropped, repr(receipt)) == (0, {}, "<Receipt unknown>")


def test_disconnect_without_a_limit_sends_what_is_retained(memory: MemoryTransport) -> None:
    client = Leanbase("phc_test", transport=memory, sync_mode=False)
    client.capture("buffered", distinct_id="u")
    assert client.disconnect(timeout=None)
    assert len(memory.events) == 1
    client.shutdown()
