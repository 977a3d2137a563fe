"""Contexts capture the exceptions that leave them, once for each client, and never change or hide them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.error_tracking.metadata import Metadata
from tests.error_tracking.conftest import RoundTrip
from tests.error_tracking.exception_format import frames
from tests.error_tracking.exceptions import HostileStr, WithAttributes
from tests.support.threads import run_in_threads


@pytest.mark.rule("K-15")
def test_an_exception_that_leaves_a_context_is_captured_with_it_and_raised_unchanged(
    round_trip: RoundTrip,
) -> None:
    client, error = round_trip.client(), ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, client.new_context():
        client.tag("order", 7)
        client.identify_context("user_1")
        client.set_context_session("0198c0de-0000-7000-8000-000000000abc")
        raise error
    assert caught.value is error
    (event,) = round_trip.received()
    assert event["distinct_id"] == "user_1"
    assert event["properties"]["order"] == 7
    assert event["properties"]["$session_id"] == "0198c0de-0000-7000-8000-000000000abc"


@pytest.mark.rule("K-15")
def test_interrupts_exits_and_cancellations_are_not_captured(round_trip: RoundTrip) -> None:
    client = round_trip.client()
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
        with pytest.raises(kind), client.new_context():
            raise kind
    assert round_trip.received() == []


@pytest.mark.rule("K-16")
def test_contexts_capture_by_default_and_false_turns_it_off_for_one_context(round_trip: RoundTrip) -> None:
    client = round_trip.client()
    for capture, events in [(None, 1), (True, 2), (False, 2)]:
        with contextlib.suppress(ValueError), client.new_context(capture_exceptions=capture):
            raise ValueError
        assert len(round_trip.exceptions()) == events
    with (
        contextlib.suppress(ValueError),
        client.new_context(),
        client.new_context(capture_exceptions=False),
    ):
        client.tag("inner", True)
        raise ValueError("only the outer captures")
    assert "inner" not in round_trip.exceptions()[2]


@pytest.mark.rule("C-36", "C-40")
def test_a_disabled_opted_out_or_unconfigured_client_captures_nothing(round_trip: RoundTrip) -> None:
    disabled, opted_out = round_trip.client(disabled=True), round_trip.client(opted_out=True)
    for client in (disabled, opted_out, leanbase):
        with contextlib.suppress(ValueError), client.new_context():
            raise ValueError
    assert round_trip.received() == []


@pytest.mark.rule("K-17")
def test_an_exception_makes_one_event_for_each_client_in_the_innermost_context(round_trip: RoundTrip) -> None:
    client, error = round_trip.client(), ValueError("mine")

    @client.scoped()
    def inner() -> None:
        client.tag("where", "inner")
        raise error

    with contextlib.suppress(ValueError), client.new_context():
        client.tag("where", "outer")
        inner()
    assert client.capture_exception(error) is None
    assert [each["where"] for each in round_trip.exceptions()] == ["inner"]
    other = round_trip.client()
    assert other.capture_exception(error) is not None
    assert len(round_trip.exceptions()) == 2


@pytest.mark.rule("K-18")
def test_an_exception_whose_event_was_dropped_is_captured_by_the_outer_context(round_trip: RoundTrip) -> None:
    client = round_trip.client()
    client.before_send = lambda event: None if event["properties"].get("secret") else event
    with contextlib.suppress(ValueError), client.new_context(), client.new_context():
        client.tag("secret", True)
        raise ValueError("x")
    assert [each.get("secret") for each in round_trip.exceptions()] == [None]


@pytest.mark.rule("K-18")
def test_any_exception_can_be_marked_as_captured_and_its_repr_does_not_show_it(round_trip: RoundTrip) -> None:
    class Frozen(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

        def __repr__(self) -> str:
            return f"Frozen({vars(self)})"

    class Open(Exception):
        def __repr__(self) -> str:
            return f"Open({vars(self)})"

    client = round_trip.client()
    for error in (Frozen(), Open(), ValueError("x"), KeyError("x"), OSError(2, "x")):
        before = repr(error)
        assert client.capture_exception(error) is not None
        assert client.capture_exception(error) is None
        if type(error) is not Frozen:
            assert repr(error) == before
    assert len(round_trip.exceptions()) == 5


@pytest.mark.rule("K-17")
def test_an_exception_with_a_captured_cause_is_captured_too(round_trip: RoundTrip) -> None:
    client = round_trip.client()
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            client.capture_exception(error)
            raise ValueError("second") from error
    except ValueError as error:
        client.capture_exception(error)
    assert [each["$exception_type"] for each in round_trip.exceptions()] == ["KeyError", "ValueError"]


@pytest.mark.rule("K-19", "X-21")
def test_an_exception_captured_by_a_context_states_level_mechanism_and_source(round_trip: RoundTrip) -> None:
    def leave(client: Leanbase) -> None:
        with contextlib.suppress(ValueError), client.new_context():
            raise ValueError

    properties = round_trip.properties_from(leave)
    assert properties["$exception_level"] == "error"
    assert properties["$exception_source"] == "python.context_manager"
    mechanism = properties["$exception_list"][0]["mechanism"]
    assert mechanism == {"type": "context", "handled": False, "synthetic": False, "exception_id": 0}


@pytest.mark.rule("K-20")
def test_capturing_does_not_change_the_exception(round_trip: RoundTrip) -> None:
    cause, error = KeyError("cause"), ValueError("mine", 1)

    def state() -> tuple[object, ...]:
        return error.args, error.__traceback__, error.__cause__, error.__context__, str(error), repr(error)

    try:
        raise error from cause
    except ValueError:
        before = state()
        assert round_trip.client().capture_exception(error)
        assert state() == before


@pytest.mark.rule("K-20")
def test_a_failing_before_send_hook_does_not_hide_the_exception(round_trip: RoundTrip) -> None:
    def fail(event: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("the hook's own exception")

    client = round_trip.client(before_send=fail)
    with pytest.raises(ValueError, match="mine") as caught, client.new_context():
        raise ValueError("mine")
    assert caught.value.__context__ is None
    assert round_trip.received() == []


@pytest.mark.rule("K-15", "K-17")
def test_scoped_async_functions_and_generators_capture_exceptions_that_leave_them(
    round_trip: RoundTrip,
) -> None:
    client = round_trip.client()

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
    kinds = [each["kind"] for each in round_trip.exceptions()]
    assert kinds == ["coroutine", "generator", "async generator"]
    for properties in round_trip.exceptions():
        assert not any(frame["filename"].startswith("leanbase/") for frame in frames(properties))


@pytest.mark.rule("K-15")
def test_the_regular_end_of_a_generator_is_not_captured(round_trip: RoundTrip) -> None:
    client = round_trip.client()

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
    assert round_trip.received() == []


@pytest.mark.rule("K-20", "X-24")
def test_methods_of_an_exception_that_exit_or_lie_do_no_harm(round_trip: RoundTrip) -> None:
    class Exits(Exception):
        def __str__(self) -> str:
            sys.exit(3)

    class HasHostileStr(Exception):
        def __str__(self) -> str:
            return HostileStr("its message")

    client = round_trip.client()
    with pytest.raises(Exits), client.new_context():
        raise Exits("mine")
    assert round_trip.exceptions()[0]["$exception_message"].startswith("Exits(")
    assert round_trip.capture(HasHostileStr())["$exception_message"] == "its message"

    class Lying:
        @property
        def __class__(self) -> Any:
            raise RuntimeError

        @__class__.setter
        def __class__(self, value: object) -> None: ...

    assert "Lying object" in round_trip.capture(Lying())["$exception_message"]


@pytest.mark.rule("K-20")
def test_at_the_recursion_limit_a_context_still_ends_and_does_not_replace_the_exception(
    round_trip: RoundTrip,
) -> None:
    class Mine(Exception):
        pass

    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        else:
            with client.new_context():
                client.tag("left", "behind")
                raise Mine

    client, seen = round_trip.client(), set()
    here = len(traceback.extract_stack())
    # At the limit not even `close()` can be called. The connection is closed when it is freed, with this warning.
    warnings.simplefilter("ignore", ResourceWarning)
    for level in range(sys.getrecursionlimit() - here - 60, sys.getrecursionlimit() - here + 5):
        try:
            deep(level)
        except (Mine, RecursionError) as error:
            has_replaced_it = type(error) is RecursionError and type(error.__context__) is Mine
            seen.add(type(error))
        assert not has_replaced_it
        assert client.get_tags() == {}
    assert Mine in seen


@pytest.mark.rule("X-25")
def test_an_override_with_an_invalid_mechanism_is_ignored(round_trip: RoundTrip) -> None:
    boundary = Metadata("error", {"type": "task", "handled": False})
    for mechanism in ("x", ["a"], 5):
        override: Any = Metadata(mechanism=mechanism)  # type: ignore[arg-type]
        properties = round_trip.properties_from(
            lambda client, override=override: client.report_exception(ValueError(), override, boundary)  # type: ignore[misc]
        )
        assert properties["$exception_list"][0]["mechanism"]["type"] == "task"


@pytest.mark.slow
@pytest.mark.rule("K-17")
def test_threads_that_capture_the_same_exception_make_one_event_for_each_client(
    round_trip: RoundTrip,
) -> None:
    client, other = round_trip.client(), round_trip.client()
    for error in (kind() for kind in [ValueError, WithAttributes] * 20):
        barrier = threading.Barrier(4)

        def capture(by: Leanbase, error: Exception = error, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            by.capture_exception(error)

        run_in_threads(*(partial(capture, each) for each in (client, client, other, other)))
    assert (client.stats()["captured"], other.stats()["captured"]) == (40, 40)


@pytest.mark.rule("K-18")
def test_copies_of_a_captured_exception_are_captured_and_its_attributes_stay_json(
    round_trip: RoundTrip,
) -> None:
    client, error = round_trip.client(), ValueError("x")
    assert client.capture_exception(error) is not None
    json.dumps(vars(error))
    assert client.capture_exception(copy.copy(error)) is not None
    assert client.capture_exception(pickle.loads(pickle.dumps(error))) is not None
    assert client.capture_exception(error) is None
