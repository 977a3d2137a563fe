"""One row for each rule of the contract's chapters on exceptions, told by what an ingestion server receives."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import dataclasses
import enum
import errno
import functools
import gc
import inspect
import itertools
import json
import os
import pickle
import sys
import threading
import time
import traceback
import types
import urllib.parse
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import exceptiongroup
import pytest

import leanbase
from leanbase import Leanbase
from leanbase.error_tracking.metadata import Metadata
from leanbase.error_tracking.redaction import REDACTED, TOO_LONG
from leanbase.handlers import job, lambda_handler
from tests.error_tracking.conftest import ROOT, Wire, raised
from tests.error_tracking.wire import chain, frames, functions

ROWS: list[Any] = []


Check = TypeVar("Check", bound=Callable[..., None])


def row(*ids: str) -> Callable[[Check], Check]:
    """Add a function to the table under the ids of the rules that it tells."""

    def add(check: Check) -> Check:
        ROWS.append(pytest.param(check, id="-".join([*ids, check.__name__])))
        return check

    return add


RULES = {
    *("6.1", "6.2", "6.3", "6.4", "6.6", "6.7", "6.8", "6.9", "6.10"),
    *(f"K-{n}" for n in range(15, 21)),
    *(f"X-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18, 19, 25, 45, 60)),
    *(f"V-{n}" for n in range(1, 14)),
}
"""X-40 to X-44 are in test_hooks.py: they are about whole processes."""


def test_every_rule_has_a_row() -> None:
    told = {part for each in ROWS for part in RULES if f"-{part}-" in f"-{each.id}-"}
    assert RULES - told == set()


# --- 4.3 exceptions in contexts -----------------------------------------------------------------------


@row("K-15")
def an_exception_leaves_with_the_tags_of_its_context_and_unchanged(wire: Wire) -> None:
    client, error = wire.client(), ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, client.new_context():
        client.tag("order", 7)
        client.identify_context("user_1")
        client.set_context_session("0198c0de-0000-7000-8000-000000000abc")
        raise error
    assert caught.value is error
    (event,) = wire.received()
    assert event["distinct_id"] == "user_1"
    assert event["properties"]["order"] == 7
    assert event["properties"]["$session_id"] == "0198c0de-0000-7000-8000-000000000abc"


@row("K-15")
def what_only_ends_a_program_is_not_captured(wire: Wire) -> None:
    client = wire.client()
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
        with pytest.raises(kind), client.new_context():
            raise kind
    assert wire.received() == []


@row("K-16")
def capturing_is_the_default_and_false_turns_it_off_for_one_context(wire: Wire) -> None:
    client = wire.client()
    for capture, events in [(None, 1), (True, 2), (False, 2)]:
        with contextlib.suppress(ValueError), client.new_context(capture_exceptions=capture):
            raise ValueError
        assert len(wire.exceptions()) == events
    with (
        contextlib.suppress(ValueError),
        client.new_context(),
        client.new_context(capture_exceptions=False),
    ):
        client.tag("inner", True)
        raise ValueError("only the outer captures")
    assert "inner" not in wire.exceptions()[2]


@row("K-16")
def a_disabled_opted_out_or_unconfigured_client_captures_nothing(wire: Wire) -> None:
    disabled, opted_out = wire.client(disabled=True), wire.client(opted_out=True)
    for client in (disabled, opted_out, leanbase):
        with contextlib.suppress(ValueError), client.new_context():
            raise ValueError
    assert wire.received() == []


@row("K-17")
def one_exception_makes_one_event_at_the_innermost_context(wire: Wire) -> None:
    client, error = wire.client(), ValueError("mine")

    @client.scoped()
    def inner() -> None:
        client.tag("where", "inner")
        raise error

    with contextlib.suppress(ValueError), client.new_context():
        client.tag("where", "outer")
        inner()
    assert client.capture_exception(error) is None
    assert [each["where"] for each in wire.exceptions()] == ["inner"]
    other = wire.client()
    assert other.capture_exception(error) is not None
    assert len(wire.exceptions()) == 2


@row("K-18")
def a_dropped_exception_may_be_captured_by_an_outer_boundary(wire: Wire) -> None:
    client = wire.client()
    client.before_send = lambda event: None if event["properties"].get("secret") else event
    with contextlib.suppress(ValueError), client.new_context(), client.new_context():
        client.tag("secret", True)
        raise ValueError("x")
    assert [each.get("secret") for each in wire.exceptions()] == [None]


@row("K-18")
def the_mark_takes_any_exception_and_is_seen_nowhere(wire: Wire) -> None:
    class Frozen(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

        def __repr__(self) -> str:
            return f"Frozen({vars(self)})"

    class Open(Exception):
        def __repr__(self) -> str:
            return f"Open({vars(self)})"

    client = wire.client()
    for error in (Frozen(), Open(), ValueError("x"), KeyError("x"), OSError(2, "x")):
        before = repr(error)
        assert client.capture_exception(error) is not None
        assert client.capture_exception(error) is None
        if type(error) is not Frozen:
            assert repr(error) == before
    assert len(wire.exceptions()) == 5


@row("K-18")
def an_exception_that_was_caused_by_a_captured_one_is_another(wire: Wire) -> None:
    client = wire.client()
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            client.capture_exception(error)
            raise ValueError("second") from error
    except ValueError as error:
        client.capture_exception(error)
    assert [each["$exception_type"] for each in wire.exceptions()] == ["KeyError", "ValueError"]


@row("K-19", "6.7")
def a_context_says_how_it_captured(wire: Wire) -> None:
    def leave(client: Leanbase) -> None:
        with contextlib.suppress(ValueError), client.new_context():
            raise ValueError

    properties = wire.sent_by(leave)
    assert properties["$exception_level"] == "error"
    assert properties["$exception_source"] == "python.context_manager"
    mechanism = properties["$exception_list"][0]["mechanism"]
    assert mechanism == {"type": "context", "handled": False, "synthetic": False, "exception_id": 0}


@row("K-20")
def capturing_changes_nothing_about_the_exception(wire: Wire) -> None:
    cause, error = KeyError("cause"), ValueError("mine", 1)
    try:
        raise error from cause
    except ValueError:
        before = (error.args, error.__traceback__, error.__cause__, error.__context__, str(error))
        wire.client().capture_exception(error)
        assert (error.args, error.__traceback__, error.__cause__, error.__context__, str(error)) == before


@row("K-20")
def a_failing_hook_does_not_mask_the_exception(wire: Wire) -> None:
    def fail(event: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("the hook's own")

    client = wire.client(before_send=fail)
    with pytest.raises(ValueError, match="mine") as caught, client.new_context():
        raise ValueError("mine")
    assert caught.value.__context__ is None
    assert wire.received() == []


@row("K-15", "K-17")
def async_functions_and_generators_capture_what_leaves_them(wire: Wire) -> None:
    client = wire.client()

    @client.scoped()
    async def coroutine() -> None:
        client.tag("kind", "coroutine")
        await asyncio.sleep(0)
        raise ValueError

    @client.scoped()
    def generator() -> Iterator[int]:
        client.tag("kind", "generator")
        yield 1
        raise ValueError

    @client.scoped()
    async def async_generator() -> Any:
        client.tag("kind", "async generator")
        yield 1
        raise ValueError

    async def consume() -> None:
        async for _ in async_generator():
            pass

    for fail in (lambda: asyncio.run(coroutine()), lambda: list(generator()), lambda: asyncio.run(consume())):
        with pytest.raises(ValueError):
            fail()
    kinds = [each["kind"] for each in wire.exceptions()]
    assert kinds == ["coroutine", "generator", "async generator"]
    for properties in wire.exceptions():
        assert not any(frame["filename"].startswith("leanbase/") for frame in frames(properties))


@row("K-15")
def the_end_of_a_generator_is_no_failure(wire: Wire) -> None:
    client = wire.client()

    @client.scoped()
    def generator() -> Any:
        try:
            yield 1
        except KeyError:
            yield 2
        return 3

    assert list(generator()) == [1]
    thrown = generator()
    next(thrown)
    assert thrown.throw(KeyError()) == 2
    closed = generator()
    next(closed)
    closed.close()
    assert wire.received() == []


# --- 6.1 the event ------------------------------------------------------------------------------------


@row("6.1")
def an_exception_event_has_what_every_event_has(wire: Wire) -> None:
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


@row("6.1")
def it_is_personless_without_an_id_and_has_the_contexts_otherwise(wire: Wire) -> None:
    client = wire.client()
    client.capture_exception(ValueError("x"))
    with client.new_context():
        client.identify_context("from the context")
        client.capture_exception(ValueError("x"))
    personless, known = wire.received()
    assert personless["properties"]["$process_person_profile"] is False
    assert known["distinct_id"] == "from the context"
    assert "$process_person_profile" not in known["properties"]


@row("6.1")
def it_names_the_span_of_opentelemetry_if_that_is_in_use(wire: Wire) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    assert "$trace_id" not in wire.capture(ValueError("no span"))
    with sdk.TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        properties = wire.capture(ValueError("in a span"))
        known = span.get_span_context()
    assert properties["$trace_id"] == trace.format_trace_id(known.trace_id)
    assert properties["$span_id"] == trace.format_span_id(known.span_id)


# --- 6.2 items ----------------------------------------------------------------------------------------


class WithMessage(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("from str")
        vars(self).update(attributes)


@row("6.2")
def an_item_says_type_value_and_module(wire: Wire) -> None:
    item = wire.capture(WithMessage())["$exception_list"][0]
    assert (item["type"], item["value"]) == ("WithMessage", "from str")
    assert item["module"] == __name__
    assert item["thread_id"] == threading.get_native_id()
    assert "module" not in wire.capture(ValueError("builtin"))["$exception_list"][0]

    class Local(Exception):
        pass

    assert wire.capture(Local())["$exception_type"].endswith("<locals>.Local")


@row("6.2")
def the_value_is_the_first_text_that_is_not_empty(wire: Wire) -> None:
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


@row("6.2")
def a_long_value_is_cut_at_a_character(wire: Wire) -> None:
    value = wire.capture(ValueError("ä" * 9000))["$exception_message"]
    assert value.endswith("ä...")
    assert 8192 - 4 <= len(value.encode()) <= 8192


# --- 6.3 stack traces ---------------------------------------------------------------------------------


@row("6.3")
def frames_go_from_the_entry_point_to_the_crash_site(wire: Wire) -> None:
    views = wire.module(
        "shop.views",
        """\
        def pay(order):
            # just above
            raise ValueError("no money")
            # just below

        def checkout(order):
            pay(order)
        """,
    )
    try:
        views.checkout(1)
    except ValueError as error:
        properties = wire.capture(error)
    assert functions(properties)[1:] == ["checkout", "pay"]
    frame = frames(properties)[-1]
    assert frame == {
        "platform": "python",
        "filename": "shop/views.py",
        "abs_path": str(wire.directory / "shop" / "views.py"),
        "function": "pay",
        "module": "shop.views",
        "lineno": 3,
        "pre_context": ["def pay(order):", "    # just above"],
        "context_line": '    raise ValueError("no money")',
        "post_context": ["    # just below", "", "def checkout(order):", "    pay(order)"],
        "in_app": False,
    }


@row("6.3")
def filenames_are_relative_to_where_the_package_is(wire: Wire) -> None:
    source = "def fail():\n    raise ValueError\n"
    cases = {
        "top_level": "top_level.py",
        "shop.sub.deep": "shop/sub/deep.py",
    }
    for name, expected in cases.items():
        with pytest.raises(ValueError) as caught:
            wire.module(name, source).fail()
        assert frames(wire.capture(caught.value))[-1]["filename"] == expected
    (wire.directory / "shop" / "__init__.py").write_text(source)
    del sys.modules["shop"]
    with pytest.raises(ValueError) as caught:
        wire.module("shop.other", "from shop import fail\n").fail()
    assert frames(wire.capture(caught.value))[-1]["filename"] == "shop/__init__.py"


@row("6.3")
def pseudo_files_and_foreign_code_keep_their_names(wire: Wire) -> None:
    for filename, module, expected in [
        ("<string>", "shop.views", "<string>"),
        ("/srv/templates/page.html", "shop.views", "/srv/templates/page.html"),
        ("/srv/shop/views.pyc", "shop.views", "shop/views.py"),
        ("", "shop.views", "<unknown>"),
    ]:
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile("1/0", filename, "exec"), {"__name__": module})
        frame = frames(wire.capture(caught.value))[-1]
        assert frame["filename"] == expected
        assert "context_line" not in frame
        assert frame["lineno"] == 1
        if filename == "<string>":
            assert frame["abs_path"] == "<string>"


@row("6.3")
def the_line_is_that_of_the_traceback_not_where_the_frame_is_now(wire: Wire) -> None:
    def fail() -> Exception:
        try:
            raise ValueError("here")
        except ValueError as error:
            _ = 1
            return error

    frame = frames(wire.capture(fail()))[-1]
    assert frame["context_line"].strip() == 'raise ValueError("here")'


@row("X-1")
def source_comes_out_of_a_zip_file(wire: Wire) -> None:
    archive = wire.directory / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped/__init__.py", "")
        file.writestr("zipped/views.py", "def fail():\n    raise ValueError('in a zip')\n")
    sys.path.insert(0, str(archive))
    try:
        import zipped.views  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(archive))
    with pytest.raises(ValueError) as caught:
        zipped.views.fail()
    frame = frames(wire.capture(caught.value))[-1]
    assert frame["context_line"] == "    raise ValueError('in a zip')"
    assert frame["filename"] == "zipped/views.py"


@row("X-1")
def source_that_changed_or_went_away_is_not_shown(wire: Wire) -> None:
    client = wire.client()
    source = "def fail():\n    raise ValueError\n"
    same, edited, removed = (wire.module(name, source) for name in ("same", "edited", "removed"))
    time.sleep(0.02)  # file times are coarser than clocks
    (wire.directory / "same.py").write_text(source)
    (wire.directory / "edited.py").write_text("import os\n" + source)
    (wire.directory / "removed.py").unlink()
    shown = []
    for module in (same, edited, removed):
        with pytest.raises(ValueError) as caught:
            module.fail()
        client.capture_exception(caught.value)
        shown.append(frames(wire.exceptions()[-1])[-1].get("context_line"))
    assert shown == ["    raise ValueError", None, None]
    for field in ("pre_context", "post_context"):
        assert field not in frames(wire.exceptions()[1])[-1]


@row("X-1")
def a_line_beyond_the_end_has_no_source(wire: Wire) -> None:
    module = wire.module("short", "def fail():\n    raise ValueError\n")
    module.fail.__code__ = module.fail.__code__.replace(co_firstlineno=500)
    with pytest.raises(ValueError) as caught:
        module.fail()
    assert "context_line" not in frames(wire.capture(caught.value))[-1]


@row("X-2")
def source_lines_keep_their_indentation_and_are_cut(wire: Wire) -> None:
    long = "ä" * 2000
    module = wire.module("wide", f"def fail():\r\n\traise ValueError  # {long}\r\n")
    with pytest.raises(ValueError) as caught:
        module.fail()
    frame = frames(wire.capture(caught.value))[-1]
    assert frame["pre_context"] == ["def fail():"]
    assert frame["context_line"].startswith("\traise ValueError  # ä")
    assert frame["context_line"].endswith("ä...")
    assert 1020 <= len(frame["context_line"].encode()) <= 1024


@row("X-3")
def frames_may_hide_themselves(wire: Wire) -> None:
    class Loud:
        def __bool__(self) -> bool:
            raise AssertionError("was asked")

    def crash() -> None:
        raise ValueError

    def hidden() -> None:
        __tracebackhide__ = True
        crash()

    def hidden_too() -> None:
        __traceback_hide__ = "yes"
        hidden()

    def hidden_without_being_asked() -> None:
        __tracebackhide__ = Loud()
        hidden_too()

    def shown() -> None:
        __tracebackhide__ = False
        hidden_without_being_asked()

    with pytest.raises(ValueError) as caught:
        shown()
    assert functions(wire.capture(caught.value))[1:] == ["shown", "crash"]


@row("X-4")
def an_existing_traceback_is_used_as_it_is(wire: Wire) -> None:
    error = raised(ValueError("x"))
    properties = wire.capture(error)
    assert functions(properties) == ["raised"]
    assert properties["$exception_list"][0]["mechanism"]["synthetic"] is False


@row("X-5")
def an_exception_that_was_never_raised_shows_the_current_stack(wire: Wire) -> None:
    error, cause = ValueError("by hand"), KeyError("never raised")
    error.__cause__ = cause
    properties = wire.capture(error)
    here = "an_exception_that_was_never_raised_shows_the_current_stack"
    assert functions(properties)[-4:] == [here, "capture", "sent_by", "<lambda>"]
    assert not any(frame.get("module", "").startswith("leanbase") for frame in frames(properties))
    first, nested = properties["$exception_list"]
    assert first["mechanism"]["synthetic"] is True
    assert nested["mechanism"]["synthetic"] is False
    assert "stacktrace" not in nested
    assert error.__traceback__ is None


@row("X-6")
def of_a_deep_traceback_the_ends_are_kept(wire: Wire) -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1)

    with pytest.raises(ValueError) as caught:
        deep(500)
    shown = frames(wire.capture(caught.value, capture_exception_code_variables=True))
    levels = [
        int(each["code_variables"]["level"]) for each in shown if "level" in each.get("code_variables", {})
    ]
    assert len(shown) == 100
    assert levels[-75:] == list(range(74, -1, -1))
    assert levels[1:24] == list(range(499, 476, -1))


@row("X-7")
def reading_frames_runs_no_code_of_the_application(wire: Wire) -> None:
    ran: list[str] = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            ran.append(f"class {name}")
            return super().__getattribute__(name)

    class Loud(metaclass=Meta):
        def __getattribute__(self, name: str) -> Any:
            ran.append(name)
            return super().__getattribute__(name)

        def __repr__(self) -> str:
            ran.append("repr")
            return "loud"

    class Namespace(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            if key.startswith("__traceback"):
                ran.append(key)
            return super().__getitem__(key)

    def fail(loud: Loud) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        exec("fail(loud)", {"__name__": "ns"}, Namespace(fail=fail, loud=Loud()))
    ran.clear()
    properties = wire.capture(caught.value)
    assert functions(properties)[-2:] == ["<module>", "fail"]
    assert ran == []


# --- 6.4 mechanism, 6.5 chains ------------------------------------------------------------------------


@row("6.4")
def mechanisms_say_what_is_known_and_nothing_else(wire: Wire) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        first, second = wire.capture(error)["$exception_list"]
    assert first["mechanism"] == {"type": "generic", "handled": True, "synthetic": False, "exception_id": 0}
    assert second["mechanism"] == {
        "type": "chained", "source": "cause", "synthetic": False, "exception_id": 1, "parent_id": 0,
    }  # fmt: skip


@row("X-15")
def causes_beat_contexts_and_none_contributes_nothing(wire: Wire) -> None:
    def with_context() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer")  # noqa: B904

    def with_cause() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer") from OSError("cause")

    def from_none() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer") from None

    expected = {
        with_context: [("outer", None, None), ("'context'", "context", 0)],
        with_cause: [("outer", None, None), ("cause", "cause", 0)],
        from_none: [("outer", None, None)],
    }
    for fail, links in expected.items():
        with pytest.raises(ValueError) as caught:
            fail()
        assert chain(wire.capture(caught.value)) == links


class LooksLikeAGroup(Exception):
    """As the backport's: an exception with a sequence of exceptions."""

    def __init__(self, message: str, exceptions: Any) -> None:
        super().__init__(message)
        self.exceptions = exceptions


@row("X-15", "X-16")
def members_of_a_group_follow_it_each_with_its_own_cause(wire: Wire) -> None:
    # From Python 3.11 on, exceptiongroup's is the built-in one.
    for group in (LooksLikeAGroup, exceptiongroup.ExceptionGroup):
        first, second = ValueError("first"), TypeError("second")
        first.__cause__ = KeyError("cause of the first")
        error = group("several", [first, second])
        error.__cause__ = OSError("cause of all")
        properties = wire.capture(error)
        assert [(source, parent) for _, source, parent in chain(properties)] == [
            (None, None), ("cause", 0), ("member", 0), ("cause", 2), ("member", 0),
        ]  # fmt: skip
        assert properties["$exception_list"][0]["mechanism"]["is_exception_group"] is True
        assert [item["type"] for item in properties["$exception_list"]][1:] == [
            "OSError", "ValueError", "KeyError", "TypeError",
        ]  # fmt: skip


@row("X-15")
def what_only_looks_a_little_like_a_group_is_none(wire: Wire) -> None:
    for held in ("text", [1, 2], [ValueError(), 3], {"a": ValueError()}, None, ValueError):
        assert len(wire.capture(LooksLikeAGroup("no group", held))["$exception_list"]) == 1


@row("X-17")
def cycles_end_and_nothing_appears_twice(wire: Wire) -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert [each[0] for each in chain(wire.capture(a))] == ["a", "b"]
    shared = KeyError("shared")
    group = LooksLikeAGroup("group", [shared, shared])
    group.__cause__ = shared
    assert len(wire.capture(group)["$exception_list"]) == 2
    own = ValueError("own")
    own.__context__ = own
    assert len(wire.capture(own)["$exception_list"]) == 1


@row("X-18")
def long_chains_are_cut_after_fifty(wire: Wire) -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 10_000):
        outer = ValueError(number)
        outer.__context__ = error
        error = outer
    values = [item["value"] for item in wire.capture(error)["$exception_list"]]
    assert values == [str(number) for number in range(9_999, 9_949, -1)]
    many = LooksLikeAGroup("many", [ValueError(number) for number in range(10_000)])
    assert len(wire.capture(many)["$exception_list"]) == 50
    while error.__context__ is not None:  # a chain this long is not freed without recursion
        error = error.__context__


@row("X-19")
def each_exception_has_its_own_frames(wire: Wire) -> None:
    def inner() -> None:
        raise KeyError

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError from error

    with pytest.raises(ValueError) as caught:
        outer()
    properties = wire.capture(caught.value)
    assert functions(properties)[-1] == "outer"
    assert functions(properties, 1) == ["outer", "inner"]


# --- 6.6 in_app -------------------------------------------------------------------------------------


@row("6.6")
def the_first_rule_that_applies_decides_what_is_in_app(wire: Wire) -> None:
    project = wire.directory / "project"
    cases = {
        ("lib.own", "/opt/site-packages/lib/own.py"): True,  # in in_app_modules
        ("lib.own.deeper", "<string>"): True,
        ("lib.owner", "/opt/site-packages/lib/owner.py"): False,
        ("shop", "<string>"): False,
        ("shop", ""): False,
        ("dep", str(project / ".venv" / "site-packages" / "dep.py")): False,
        ("dep", str(project / "dist-packages" / "dep.py")): False,
        ("dep", "C:\\project\\site-packages\\dep.py"): False,
        ("shop", str(project / "site-packages.py")): True,
        ("json.decoder", json.decoder.__file__): False,
        ("shop", str(project / "shop.py")): True,
        ("shop", str(wire.directory / "project2" / "shop.py")): False,
        ("runtime", "/var/runtime/bootstrap.py"): False,
    }
    client = wire.client(project_root=str(project), in_app_modules=["lib.own"])
    for (module, filename), expected in cases.items():
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile("1/0", filename, "exec"), {"__name__": module})
        client.capture_exception(caught.value)
        assert frames(wire.exceptions()[-1])[-1]["in_app"] is expected, (module, filename)


@row("6.6")
def the_project_is_the_working_directory_of_the_clients_creation(wire: Wire) -> None:
    os.chdir(wire.directory)
    try:
        client = wire.client(project_root=None)
    finally:
        os.chdir(ROOT)
    module = wire.module("own", "def fail():\n    raise ValueError\n")
    with pytest.raises(ValueError) as caught:
        module.fail()
    client.capture_exception(caught.value)
    assert [frame["in_app"] for frame in frames(wire.exceptions()[-1])] == [False, True]


# --- 6.7 boundaries, 6.8 levels -------------------------------------------------------------------------


@row("6.7")
def each_boundary_says_what_it_is(wire: Wire) -> None:
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


@row("6.7")
def handlers_capture_once_with_their_events_and_only_if_asked(wire: Wire) -> None:
    client = wire.client()

    @lambda_handler(client=client)
    def handler(event: Any, context: Any) -> None:
        client.capture("before", "u")
        with client.new_context():
            raise ValueError

    @lambda_handler(client=client, capture_exceptions=False)
    def quiet(event: Any, context: Any) -> None:
        client.capture("before", "u")
        raise ValueError

    for each in (handler, quiet):
        with contextlib.suppress(ValueError):
            each({}, None)
    found = [(event["request"], event["event"]) for event in wire.received()]
    assert found == [(1, "before"), (1, "$exception"), (2, "before")]
    assert wire.exceptions()[0]["$exception_source"] == "python.context_manager"


@row("X-25", "6.7")
def an_integration_overrides_field_by_field(wire: Wire) -> None:
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


@row("6.8")
def levels_have_many_names(wire: Wire) -> None:
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


# --- 6.9 who may set what -------------------------------------------------------------------------------


@row("6.9")
def the_application_cannot_set_what_is_the_sdks_or_the_processors(wire: Wire) -> None:
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


@row("6.9")
def fingerprints_are_texts(wire: Wire) -> None:
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


@row("6.9")
def an_application_that_captures_the_event_itself_gets_what_it_sent(wire: Wire) -> None:
    own = {"$exception_list": "mine", "$exception_handled": True, "$exception_fingerprint": 7}
    wire.client().capture("$exception", "u", own)
    properties = wire.server.store.events()[0]["properties"]
    assert {name: properties[name] for name in own} == own


# --- 6.10 inputs ----------------------------------------------------------------------------------------


@row("6.10")
def nothing_is_captured_when_there_is_nothing(wire: Wire) -> None:
    client = wire.client()
    assert client.capture_exception() is None
    assert client.capture_exception((None, None, None)) is None
    assert wire.received() == []


@row("6.10")
def the_exception_being_handled_is_the_default(wire: Wire) -> None:
    try:
        raise ValueError("handled")
    except ValueError:
        assert wire.capture()["$exception_message"] == "handled"
        assert wire.capture(None)["$exception_list"][0]["mechanism"]["synthetic"] is False


@row("6.10")
def exc_info_is_the_value_with_that_traceback(wire: Wire) -> None:
    other = raised(KeyError())
    error = ValueError("value")
    properties = wire.capture((ValueError, error, other.__traceback__))
    assert (properties["$exception_type"], functions(properties)) == ("ValueError", ["raised"])
    assert error.__traceback__ is None
    try:
        raise TypeError("all three")
    except TypeError:
        assert wire.capture(sys.exc_info())["$exception_message"] == "all three"


@row("6.10")
def things_that_are_no_exceptions_are_made_to_look_like_one(wire: Wire) -> None:
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


@row("6.10")
def a_traceback_exception_keeps_type_text_frames_and_chain(wire: Wire) -> None:
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
    assert (first["type"], first["module"]) == ("WithMessage", __name__)
    assert first["mechanism"]["synthetic"] is False
    assert frames(properties)[-1]["context_line"] == "raise WithMessage() from error"
    assert frames(properties)[-1]["in_app"] is True


TEXT = """Traceback (most recent call last):
  File "/srv/shop/views.py", line 40, in checkout
    pay(order)
  File "/etc/passwd", line 1, in pay
shop.errors.CheckoutError: no money
"""


@row("6.10")
def the_text_of_a_traceback_is_read_and_no_file_for_it(wire: Wire) -> None:
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


# --- 6.11 code variables --------------------------------------------------------------------------------


def variables(wire: Wire, _options: Any = None, /, **local: Any) -> Any:
    """The code variables of a frame with these locals."""
    names = ", ".join(local)
    namespace: dict[str, Any] = {"__name__": "own"}
    source = f"def fail({names}):\n    raise ValueError\n"
    exec(compile(source, str(ROOT / "own.py"), "exec"), namespace)
    with pytest.raises(ValueError) as caught:
        namespace["fail"](**local)
    properties = wire.capture(caught.value, capture_exception_code_variables=True, **(_options or {}))
    return frames(properties)[-1].get("code_variables")


@row("V-1")
def the_budget_goes_to_the_crash_site_first(wire: Wire) -> None:
    def deep(level: int, text: str) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1, text)

    assert "code_variables" not in frames(wire.capture(raised(ValueError())))[-1]
    with pytest.raises(ValueError) as caught:
        deep(30, "a word " * 100)
    shown = frames(wire.capture(caught.value, capture_exception_code_variables=True))
    with_variables = [frame["code_variables"] for frame in shown if "code_variables" in frame]
    rendered = sum(len(str(value)) for each in with_variables for value in each.values())
    assert 9 * 1024 < rendered <= 10 * 1024
    assert [each["level"] for each in reversed(with_variables)][:14] == list(range(14))
    assert "code_variables" not in shown[1]


@row("V-1")
def only_the_applications_own_frames_have_variables(wire: Wire) -> None:
    with pytest.raises(ValueError) as caught:
        json.loads("not json")
    for frame in frames(wire.capture(caught.value, capture_exception_code_variables=True)):
        assert ("code_variables" in frame) == frame["in_app"]


@row("V-2")
def scalars_come_first_each_part_by_name(wire: Wire) -> None:
    shown = variables(wire, b=[1], a={}, z=1, y="s", x=None, w=True, v=1.5)
    assert list(shown) == ["v", "w", "x", "y", "z", "a", "b"]


@row("V-3")
def names_decide_before_values_are_read(wire: Wire) -> None:
    class Loud:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("was read")

    assert variables(wire, __hidden=1, password=Loud(), visible=1) == {"visible": 1, "password": REDACTED}
    options = {"code_variables_ignore_patterns": ["^skip"], "code_variables_mask_patterns": ["^mine$"]}
    shown = variables(wire, options, skip_me=1, mine=1, password="now visible")
    assert shown == {"mine": REDACTED, "password": "now visible"}


@row("V-4")
def numbers_stay_numbers_and_the_rest_becomes_text(wire: Wire) -> None:
    shown = variables(
        wire,
        none=None, true=True, false=False, one=1, half=0.5, nan=float("nan"), inf=float("-inf"),
        text="text", huge=2**70, list_=[1, None, True, "x"], long="y z " * 500,
    )  # fmt: skip
    assert shown["none"] == "None"
    assert (shown["true"], shown["false"]) == ("True", "False")
    assert (shown["one"], shown["half"]) == (1, 0.5)
    assert (shown["nan"], shown["inf"]) == ("nan", "-inf")
    assert shown["text"] == "text"
    assert shown["huge"] == str(2**70)
    assert shown["list_"] == '[1, null, true, "x"]'
    assert len(shown["long"]) == 1024
    assert shown["long"].endswith("...")


@row("V-5")
def patterns_are_searched_and_broken_ones_skipped(wire: Wire) -> None:
    options = {"code_variables_mask_patterns": ["(", "(?i)CARD", r"^pin\d$"]}
    shown = variables(wire, options, my_card=1, pin1=1, pins=1)
    assert shown == {"my_card": REDACTED, "pin1": REDACTED, "pins": 1}


MASKED = [
    "password", "user_password", "PASSWORD", "secret", "client_secret", "passwd", "pwd", "api_key", "apikey",
    "auth", "auth_header", "authorization", "authentication", "authenticated", "oauth", "credentials",
    "privatekey", "private_key", "token", "access_token", "aws_access_key_id", "db_pass", "sk_live", "x1sk_",
    "jwt", "connection_string", "connectionstring", "conn_str", "connstr", "dsn", "sentry_dsn",
]  # fmt: skip
UNMASKED = ["task_id", "disk_usage", "author", "authors", "risk_level", "compass", "order", "user_id", "skin"]


@row("V-6")
def the_default_masks_know_names_of_secrets(wire: Wire) -> None:
    shown = variables(wire, **dict.fromkeys(MASKED, 7), **dict.fromkeys(UNMASKED, 7))
    assert {name for name, value in shown.items() if value == REDACTED} == set(MASKED)
    assert {name for name, value in shown.items() if value == 7} == set(UNMASKED)


@dataclasses.dataclass
class Account:
    user: str
    password: str


class Slotted:
    __slots__ = ("token", "unset", "visible")

    def __init__(self) -> None:
        self.token = "hunter2"
        self.visible = 1


Login = collections.namedtuple("Login", ["user", "pwd"])


@row("V-7")
def masks_reach_values_keys_and_fields_at_any_depth(wire: Wire) -> None:
    shown = variables(
        wire,
        text="password=hunter2",
        nested={"a": [{"api_key": "hunter2", "user": "jo"}]},
        account=Account("jo", "hunter2"),
        login=Login("jo", "hunter2"),
        slotted=Slotted(),
        deep=[{"b": Account("jo", "hunter2")}],
    )
    assert shown["text"] == REDACTED
    assert json.loads(shown["nested"]) == {"a": [{"api_key": REDACTED, "user": "jo"}]}
    assert json.loads(shown["login"]) == {"user": "jo", "pwd": REDACTED}
    assert json.loads(shown["slotted"]) == {
        "__class__": f"{__name__}.Slotted", "token": REDACTED, "visible": 1,
    }  # fmt: skip
    assert "hunter2" not in str(shown)


@row("V-8")
def objects_are_shown_by_what_they_hold(wire: Wire) -> None:
    class Order:
        token_store = "class attribute"

        def __init__(self) -> None:
            self.number = 7

        @property
        def password(self) -> str:
            raise AssertionError("was evaluated")

        @property
        def total(self) -> int:
            raise AssertionError("was evaluated")

        def __repr__(self) -> str:
            raise AssertionError("was called")

    shown = variables(wire, order=Order(), account=Account("jo", "hunter2"))
    order = json.loads(shown["order"])
    assert order.pop("__class__").endswith("<locals>.Order")
    assert order == {"number": 7, "password": REDACTED, "token_store": REDACTED}
    assert json.loads(shown["account"])["__class__"] == f"{__name__}.Account"


@row("V-8")
def leaves_are_shown_by_their_repr(wire: Wire) -> None:
    import datetime as dt
    import uuid

    class BrokenRepr(dt.date):
        def __repr__(self) -> str:
            raise RuntimeError

    class TellsAll(dt.date):
        def __repr__(self) -> str:
            return "TellsAll(password=hunter2)"

    class Endless(dt.date):
        def __repr__(self) -> str:
            return "x" * 5000

    number = uuid.UUID(int=7)
    shown = variables(
        wire, day=dt.date(2026, 1, 2), broken=BrokenRepr(2026, 1, 2), telling=TellsAll(2026, 1, 2),
        endless=Endless(2026, 1, 2), number=number, path=Path("/srv/shop"), cls=Account, module=json,
        data=b"bytes", raw=b"\xff", error=KeyError("k"),
    )  # fmt: skip
    assert shown["day"] == "datetime.date(2026, 1, 2)"
    assert shown["broken"].endswith("BrokenRepr>")
    assert shown["telling"] == shown["endless"] == REDACTED
    assert str(number) in shown["number"]
    assert "/srv/shop" in shown["path"]
    assert shown["cls"] == f"<class {__name__}.Account>"
    assert shown["module"] == "<module json>"
    assert (shown["data"], shown["raw"]) == ("bytes", "b'\\xff'")
    assert json.loads(shown["error"]) == {"__class__": "KeyError", "args": ["k"]}


@row("V-9")
def bounds_fail_closed(wire: Wire) -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    deep: list[Any] = ["bottom"]
    for _ in range(20):
        deep = [deep]
    shown = variables(
        wire,
        text="a b" * 700,
        entries=list(range(51)),
        keys={str(n): n for n in range(51)},
        long_key={"k " * 1100: 1},
        nodes=[[0] * 40] * 40,
        deep=deep,
        cycle=cycle,
        fifty=list(range(50)),
    )
    assert shown["text"] == TOO_LONG
    assert shown["entries"] == shown["keys"] == shown["nodes"] == TOO_LONG
    assert shown["long_key"] == json.dumps({TOO_LONG: TOO_LONG})
    assert shown["deep"] == "[" * 12 + json.dumps(TOO_LONG) + "]" * 12
    assert shown["cycle"] == '[1, "<circular ref>"]'
    assert shown["fifty"] == json.dumps(list(range(50)))


@row("V-10")
def the_constants_are_those_that_people_search_for(wire: Wire) -> None:
    shown = variables(wire, password=1, long="a b" * 700)
    assert shown["password"] == "$$_leanbase_redacted_based_on_masking_rules_$$"
    assert shown["long"] == "$$_leanbase_value_too_long_$$"


@row("V-11")
def credentials_in_urls_go_and_the_rest_stays(wire: Wire) -> None:
    cases = {
        "postgres://jo:hunter2@db:5432/shop": f"postgres://{REDACTED}@db:5432/shop",
        "redis://:hunter2@cache/0": f"redis://{REDACTED}@cache/0",
        "two a://u:p@h and b+c://u:p@h/x": f"two a://{REDACTED}@h and b+c://{REDACTED}@h/x",
        "https://u:p@ss@h/": f"https://{REDACTED}@h/",
        "ssh://git@github.com/x": "ssh://git@github.com/x",
        "http://localhost:8000/a@b": "http://localhost:8000/a@b",
        "mailto:jo@example.com": "mailto:jo@example.com",
        "host:80 at jo@h": "host:80 at jo@h",
    }
    shown = variables(wire, **{f"v{n}": text for n, text in enumerate(cases)})
    assert [shown[f"v{n}"] for n in range(len(cases))] == list(cases.values())
    off = variables(wire, {"code_variables_mask_url_credentials": False}, url="a://u:p@h")
    assert off == {"url": "a://u:p@h"}
    started = time.process_time()
    variables(wire, text="a" * 2000, urls="://" * 600, ats="://" + "@" * 2000, colons="://" + ":" * 2000)
    assert time.process_time() - started < 5


@row("V-12")
def what_looks_like_a_secret_is_one(wire: Wire) -> None:
    secret = "".join(["Kx9", "fQ2z_", "Lm7R-", "pT4wV"])
    assert variables(wire, opaque=secret) == {"opaque": REDACTED}
    off = variables(wire, {"code_variables_detect_secrets": False}, opaque=secret)
    assert off == {"opaque": secret}


@row("V-13")
def failing_variables_do_not_cost_the_event(wire: Wire) -> None:
    class Hostile(dict[str, Any]):
        def __len__(self) -> int:
            raise RuntimeError

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError

        def __class_getitem__(cls, item: Any) -> Any:
            raise RuntimeError

    class HostileMeta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError

    class WithHostileMeta(metaclass=HostileMeta):
        pass

    shown = variables(wire, hostile=Hostile(a=1), meta=WithHostileMeta(), fine=1)
    assert shown["fine"] == 1
    assert json.loads(shown["hostile"]) == {"a": 1}


@row("V-3", "V-11", "V-12")
def contexts_override_the_client(wire: Wire) -> None:
    client = wire.client()

    def capture() -> dict[str, Any]:
        url, mine, skipped, opaque = "a://u:p@h", 1, 1, "Kx9fQ2z_Lm7R-" + "pT4wV"
        client.capture_exception(raised_here(url, mine, skipped, opaque))
        found: dict[str, Any] = frames(wire.exceptions()[-1])[-1].get("code_variables", {})
        return found

    assert capture() == {}
    with client.new_context():
        client.set_capture_exception_code_variables_context(True)
        client.set_code_variables_mask_patterns_context(["^mine$"])
        client.set_code_variables_ignore_patterns_context(["^skipped$", "^__"])
        with client.new_context():
            client.set_code_variables_mask_url_credentials_context(False)
            client.set_code_variables_detect_secrets_context(False)
            shown = capture()
            assert shown["url"] == "a://u:p@h"
            assert shown["mine"] == REDACTED
            assert shown["opaque"].startswith("Kx9")
            assert "skipped" not in shown
        assert capture()["opaque"] == REDACTED
        with client.new_context(fresh=True):
            assert capture() == {}


def raised_here(url: str, mine: int, skipped: int, opaque: str) -> Exception:
    try:
        raise ValueError
    except ValueError as error:
        return error


class Setting(str, enum.Enum):
    PASSWORD = "db-password-setting"


class Plain(enum.Enum):
    TOKEN = 1
    COLOR = 2


class Text(str):
    """A subclass with opinions."""

    def __contains__(self, item: object) -> bool:
        raise RuntimeError

    def encode(self, *args: Any) -> bytes:
        raise RuntimeError


@row("V-7")
def keys_of_any_kind_are_names(wire: Wire) -> None:
    shown = variables(
        wire,
        by_bytes={b"password": "hunter2"},
        by_member={Setting.PASSWORD: "hunter2"},
        by_plain_member={Plain.TOKEN: "hunter2", Plain.COLOR: "red"},
        by_subclass={Text("password"): "hunter2"},
        by_tuple={("password", 1): "hunter2"},
        pairs=[("Authorization", "hunter2"), (b"authorization", b"hunter2"), ("host", "example.com")],
        items={"password": "hunter2", "user": "jo"}.items(),
        netloc=urllib.parse.urlsplit("postgres://jo:hunter2@db/x"),
        fine={1: "one", None: "none", 2.5: "half", (1, 2): "both"},
    )
    assert "hunter2" not in str(shown)
    assert json.loads(shown["by_bytes"]) == {"password": REDACTED}
    assert json.loads(shown["by_plain_member"]) == {"Plain.TOKEN": REDACTED, "Plain.COLOR": "red"}
    assert json.loads(shown["pairs"])[2] == ["host", "example.com"]
    assert json.loads(shown["netloc"])["netloc"] == f"{REDACTED}@db"
    assert json.loads(shown["fine"]) == {"1": "one", "None": "none", "2.5": "half", "(1, 2)": "both"}


@row("V-8")
def no_code_of_the_application_runs_for_its_variables(wire: Wire) -> None:
    ran: list[str] = []

    class Loud:
        def __repr__(self) -> str:
            ran.append("repr")
            return "loud"

        @property
        def __class__(self) -> Any:
            ran.append("__class__")
            return int

        @__class__.setter
        def __class__(self, value: object) -> None: ...

    class LoudBytes(bytes):
        def __len__(self) -> int:
            ran.append("len")
            return 1

        def __bytes__(self) -> bytes:
            ran.append("bytes")
            return b""

    class LoudMeta(type):
        def __eq__(cls, other: object) -> bool:
            ran.append("eq")
            return True

        def __hash__(cls) -> int:
            ran.append("hash")
            return 1

    class OfLoudMeta(metaclass=LoudMeta):
        attribute_token = Loud()

    loud = Loud()
    shown = variables(
        wire, proxy=types.MappingProxyType({"k": loud}), values={"k": loud}.values(), part=slice(loud),
        repeated=itertools.repeat(loud), partial=functools.partial(print, loud), data=LoudBytes(b"data"),
        of_meta=OfLoudMeta(), method=loud.__repr__, member=Plain.COLOR, plain=object(),
    )  # fmt: skip
    assert ran == []
    assert shown["proxy"] == "<mappingproxy>"
    assert shown["values"] == "<dict_values>"
    assert shown["data"] == "data"
    assert shown["member"] == "Plain.COLOR"
    assert shown["plain"].startswith("<object object at ")


@row("V-5")
def patterns_that_cannot_work_leave_those_that_do(wire: Wire) -> None:
    for patterns in (42, {"a": 1}, ["["], [None], "["):
        options = {"code_variables_mask_patterns": patterns}
        assert variables(wire, options, password="hunter2") == {"password": REDACTED}, patterns
    assert variables(wire, {"code_variables_mask_patterns": []}, password="shown") == {"password": "shown"}
    client = wire.client(capture_exception_code_variables=True, code_variables_mask_patterns=["^mine$"])
    with client.new_context():
        client.set_code_variables_mask_patterns_context(each for each in ["x"])  # type: ignore[arg-type]
        client.capture_exception(raised_here("u", 1, 1, "o"))
    assert frames(wire.exceptions()[-1])[-1]["code_variables"]["mine"] == REDACTED


@row("V-6")
def where_a_secret_or_the_program_is_is_no_secret(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/srv/shop/current")
    monkeypatch.setenv("DB_PASSWORD_FILE", "/run/secrets/password-of-db")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent.4711/socket")
    for path in ("/srv/shop/current/x", "/tmp/agent.4711/socket"):
        assert wire.capture(f"no file {path} here")["$exception_message"] == f"no file {path} here"


@row("V-9")
def the_work_for_one_event_is_bounded(wire: Wire) -> None:
    looked_at = 0

    class Counted(str):
        def __new__(cls) -> Counted:
            return str.__new__(cls, "words " * 300)

    def deep(level: int, values: list[Any]) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1, values)

    with pytest.raises(ValueError) as caught:
        deep(60, [[Counted() for _ in range(40)] for _ in range(40)])
    shown = frames(wire.capture(caught.value, capture_exception_code_variables=True))
    looked_at = sum("code_variables" in frame for frame in shown)
    assert 1 <= looked_at < 10
    assert variables(wire, huge=dict.fromkeys(range(1_000_000))) == {"huge": TOO_LONG}


@row("V-13")
def variables_are_not_kept_alive(wire: Wire) -> None:
    class Big:
        pass

    def work() -> weakref.ref[Big]:
        big = Big()
        try:
            raise ValueError
        except ValueError as error:
            client.capture_exception(error)
        reference = weakref.ref(big)
        del big
        return reference if reference() is None else pytest.fail("still alive")

    def keeps_its_own_locals() -> dict[str, Any]:
        number = 7
        before = locals()
        try:
            raise ValueError
        except ValueError as error:
            client.capture_exception(error)
        return before

    client = wire.client(capture_exception_code_variables=True)
    gc.disable()
    try:
        assert work()() is None
    finally:
        gc.enable()
    assert keeps_its_own_locals()["number"] == 7


# --- what an exception may not do ------------------------------------------------------------------------


@row("K-20", "6.10")
def an_exceptions_own_text_cannot_end_anything(wire: Wire) -> None:
    class Exits(Exception):
        def __str__(self) -> str:
            sys.exit(3)

    class Opinions(Exception):
        def __str__(self) -> str:
            return Text("its text")

    client = wire.client()
    with pytest.raises(Exits), client.new_context():
        raise Exits("mine")
    assert wire.exceptions()[0]["$exception_message"].startswith("Exits(")
    assert wire.capture(Opinions())["$exception_message"] == "its text"

    class Lying:
        @property
        def __class__(self) -> Any:
            raise RuntimeError

        @__class__.setter
        def __class__(self, value: object) -> None: ...

    assert "Lying object" in wire.capture(Lying())["$exception_message"]


@row("K-20")
def at_the_recursion_limit_the_exception_is_still_the_same(wire: Wire) -> None:
    class Mine(Exception):
        pass

    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        else:
            with client.new_context():
                client.tag("left", "behind")
                raise Mine

    client, seen = wire.client(), set()
    here = len(traceback.extract_stack())
    for level in range(sys.getrecursionlimit() - here - 60, sys.getrecursionlimit() - here + 5):
        try:
            deep(level)
        except (Mine, RecursionError) as error:
            came_in_its_place = type(error) is RecursionError and type(error.__context__) is Mine
            seen.add(type(error))
        assert not came_in_its_place
        assert client.get_tags() == {}
    assert Mine in seen


@row("X-25")
def metadata_that_makes_no_sense_costs_nothing(wire: Wire) -> None:
    boundary = Metadata("error", {"type": "task", "handled": False})
    for mechanism in ("x", ["a"], 5):
        wrong: Any = Metadata(mechanism=mechanism)  # type: ignore[arg-type]
        properties = wire.sent_by(lambda c, w=wrong: c.report_exception(ValueError(), w, boundary))  # type: ignore[misc]
        assert properties["$exception_list"][0]["mechanism"]["type"] == "task"


@row("X-1")
def source_is_never_that_of_another_file_of_the_name(wire: Wire) -> None:
    (wire.directory / "relative.py").write_text("1 / 1\n")
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", "relative.py", "exec"), {"__name__": "relative"})
    assert "context_line" not in frames(wire.capture(caught.value))[-1]


@row("K-17")
def threads_that_capture_the_same_exception_make_one_event(wire: Wire) -> None:
    client, other = wire.client(), wire.client()
    for error in (kind() for kind in [ValueError, WithMessage] * 20):
        barrier = threading.Barrier(4)

        def capture(by: Leanbase, error: Exception = error, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            by.capture_exception(error)

        threads = [threading.Thread(target=capture, args=(each,)) for each in (client, client, other, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (client.stats()["captured"], other.stats()["captured"]) == (40, 40)


@row("K-18")
def the_mark_survives_neither_copies_nor_json(wire: Wire) -> None:
    client, error = wire.client(), ValueError("x")
    assert client.capture_exception(error) is not None
    json.dumps(vars(error))
    assert client.capture_exception(copy.copy(error)) is not None
    assert client.capture_exception(pickle.loads(pickle.dumps(error))) is not None
    assert client.capture_exception(error) is None


# --- 6.12, 6.13 -----------------------------------------------------------------------------------------


@row("X-45")
def captured_exceptions_may_be_logged(wire: Wire) -> None:
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


@row("X-60")
def an_event_that_is_too_large_loses_what_matters_least_first(wire: Wire) -> None:
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


@pytest.mark.parametrize("check", ROWS)
def test_rule(check: Callable[..., None], wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    if "monkeypatch" in inspect.signature(check).parameters:
        check(wire, monkeypatch)
    else:
        check(wire)
