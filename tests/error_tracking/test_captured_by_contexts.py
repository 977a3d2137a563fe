"""Exceptions in contexts (4.3), and what an exception may not do to its captors."""

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
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.error_tracking.metadata import Metadata
from tests.error_tracking.conftest import Wire
from tests.error_tracking.exceptions import Text, WithMessage
from tests.error_tracking.wire import frames

# --- 4.3 exceptions in contexts --------------------------------------------------------------------------


@pytest.mark.rule("K-15")
def test_an_exception_leaves_with_the_tags_of_its_context_and_unchanged(wire: Wire) -> None:
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


@pytest.mark.rule("K-15")
def test_what_only_ends_a_program_is_not_captured(wire: Wire) -> None:
    client = wire.client()
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
        with pytest.raises(kind), client.new_context():
            raise kind
    assert wire.received() == []


@pytest.mark.rule("K-16")
def test_capturing_is_the_default_and_false_turns_it_off_for_one_context(wire: Wire) -> None:
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


@pytest.mark.rule("K-16")
def test_a_disabled_opted_out_or_unconfigured_client_captures_nothing(wire: Wire) -> None:
    disabled, opted_out = wire.client(disabled=True), wire.client(opted_out=True)
    for client in (disabled, opted_out, leanbase):
        with contextlib.suppress(ValueError), client.new_context():
            raise ValueError
    assert wire.received() == []


@pytest.mark.rule("K-17")
def test_one_exception_makes_one_event_at_the_innermost_context(wire: Wire) -> None:
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


@pytest.mark.rule("K-18")
def test_a_dropped_exception_may_be_captured_by_an_outer_boundary(wire: Wire) -> None:
    client = wire.client()
    client.before_send = lambda event: None if event["properties"].get("secret") else event
    with contextlib.suppress(ValueError), client.new_context(), client.new_context():
        client.tag("secret", True)
        raise ValueError("x")
    assert [each.get("secret") for each in wire.exceptions()] == [None]


@pytest.mark.rule("K-18")
def test_the_mark_takes_any_exception_and_is_seen_nowhere(wire: Wire) -> None:
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


@pytest.mark.rule("K-18")
def test_an_exception_that_was_caused_by_a_captured_one_is_another(wire: Wire) -> None:
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


@pytest.mark.rule("K-19", "X-21")
def test_a_context_says_how_it_captured(wire: Wire) -> None:
    def leave(client: Leanbase) -> None:
        with contextlib.suppress(ValueError), client.new_context():
            raise ValueError

    properties = wire.sent_by(leave)
    assert properties["$exception_level"] == "error"
    assert properties["$exception_source"] == "python.context_manager"
    mechanism = properties["$exception_list"][0]["mechanism"]
    assert mechanism == {"type": "context", "handled": False, "synthetic": False, "exception_id": 0}


@pytest.mark.rule("K-20")
def test_capturing_changes_nothing_about_the_exception(wire: Wire) -> None:
    cause, error = KeyError("cause"), ValueError("mine", 1)
    try:
        raise error from cause
    except ValueError:
        before = (error.args, error.__traceback__, error.__cause__, error.__context__, str(error))
        wire.client().capture_exception(error)
        assert (error.args, error.__traceback__, error.__cause__, error.__context__, str(error)) == before


@pytest.mark.rule("K-20")
def test_a_failing_hook_does_not_mask_the_exception(wire: Wire) -> None:
    def fail(event: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("the hook's own")

    client = wire.client(before_send=fail)
    with pytest.raises(ValueError, match="mine") as caught, client.new_context():
        raise ValueError("mine")
    assert caught.value.__context__ is None
    assert wire.received() == []


@pytest.mark.rule("K-15", "K-17")
def test_async_functions_and_generators_capture_what_leaves_them(wire: Wire) -> None:
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


@pytest.mark.rule("K-15")
def test_the_end_of_a_generator_is_no_failure(wire: Wire) -> None:
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


# --- what an exception may not do ------------------------------------------------------------------------


@pytest.mark.rule("K-20", "X-24")
def test_an_exceptions_own_text_cannot_end_anything(wire: Wire) -> None:
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


@pytest.mark.rule("K-20")
def test_at_the_recursion_limit_the_exception_is_still_the_same(wire: Wire) -> None:
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
    # With no frame left not even `close()` can run; the connection is then closed by being freed.
    warnings.simplefilter("ignore", ResourceWarning)
    for level in range(sys.getrecursionlimit() - here - 60, sys.getrecursionlimit() - here + 5):
        try:
            deep(level)
        except (Mine, RecursionError) as error:
            came_in_its_place = type(error) is RecursionError and type(error.__context__) is Mine
            seen.add(type(error))
        assert not came_in_its_place
        assert client.get_tags() == {}
    assert Mine in seen


@pytest.mark.rule("X-25")
def test_metadata_that_makes_no_sense_costs_nothing(wire: Wire) -> None:
    boundary = Metadata("error", {"type": "task", "handled": False})
    for mechanism in ("x", ["a"], 5):
        wrong: Any = Metadata(mechanism=mechanism)  # type: ignore[arg-type]
        properties = wire.sent_by(lambda c, w=wrong: c.report_exception(ValueError(), w, boundary))  # type: ignore[misc]
        assert properties["$exception_list"][0]["mechanism"]["type"] == "task"


@pytest.mark.rule("X-1")
def test_source_is_never_that_of_another_file_of_the_name(wire: Wire) -> None:
    (wire.directory / "relative.py").write_text("1 / 1\n")
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", "relative.py", "exec"), {"__name__": "relative"})
    assert "context_line" not in frames(wire.capture(caught.value))[-1]


@pytest.mark.rule("K-17")
def test_threads_that_capture_the_same_exception_make_one_event(wire: Wire) -> None:
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


@pytest.mark.rule("K-18")
def test_the_mark_survives_neither_copies_nor_json(wire: Wire) -> None:
    client, error = wire.client(), ValueError("x")
    assert client.capture_exception(error) is not None
    json.dumps(vars(error))
    assert client.capture_exception(copy.copy(error)) is not None
    assert client.capture_exception(pickle.loads(pickle.dumps(error))) is not None
    assert client.capture_exception(error) is None
