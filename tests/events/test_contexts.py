"""Contexts: inheritance, isolation between threads, tasks and generators (K-1 to K-9)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanbase import Leanbase
from leanbase.events import contexts
from leanbase.events.contexts import (
    get_context_device_id,
    get_context_distinct_id,
    get_context_session_id,
    get_tags,
    identify_context,
    new_context,
    set_context_device_id,
    set_context_session,
    tag,
)
from leanbase.transports import MemoryTransport


@pytest.mark.rule("K-1")
def test_a_scope_inherits_and_overrides_without_touching_its_parent() -> None:
    with new_context():
        tag("a", 1)
        tag("b", 1)
        identify_context("outer")
        set_context_session("s")
        set_context_device_id("d")
        with new_context():
            tag("b", 2)
            identify_context("inner")
            assert get_tags() == {"a": 1, "b": 2}
            assert (get_context_distinct_id(), get_context_session_id()) == ("inner", "s")
            assert get_context_device_id() == "d"
        assert get_tags() == {"a": 1, "b": 1}
        assert get_context_distinct_id() == "outer"
    assert get_tags() == {}
    assert get_context_distinct_id() is None


@pytest.mark.rule("K-2")
def test_a_fresh_scope_inherits_nothing_not_even_from_grandparents() -> None:
    with new_context():
        tag("a", 1)
        identify_context("u")
        with new_context(fresh=True), new_context():
            assert get_tags() == {}
            assert get_context_distinct_id() is None


@pytest.mark.rule("K-3")
def test_values_are_resolved_at_capture_time(client: Leanbase, memory: MemoryTransport) -> None:
    """Of the calling task or thread: what it inherited when it started, and what it has set since."""
    with new_context():
        tag("before", 1)
        copy = contextvars.copy_context()
        tag("after", 2)
        copy.run(tag, "of the copy", 3)
        copy.run(client.capture, "in the copy", distinct_id="u")
        client.capture("here", distinct_id="u")
    tags = [event["properties"]["$context_tags"] for event in memory.events]
    assert tags == [["before", "of the copy"], ["after", "before"]]


@pytest.mark.rule("K-6")
@pytest.mark.parametrize("setter", [identify_context, set_context_session, set_context_device_id])
def test_tasks_that_carry_a_copy_do_not_change_one_another(setter: Callable[[str], None]) -> None:
    """A batch under gather() never mixes persons."""
    read = {
        identify_context: get_context_distinct_id,
        set_context_session: get_context_session_id,
        set_context_device_id: get_context_device_id,
    }[setter]

    async def work(name: str) -> tuple[str, Any, dict[str, Any]]:
        setter(name)
        tag("by", name)
        await asyncio.sleep(0.01)
        return name, read(), get_tags()

    async def main() -> tuple[list[Any], Any, dict[str, Any]]:
        with new_context():
            done = list(await asyncio.gather(*map(work, "abc")))
            return done, read(), get_tags()

    done, left, tags = asyncio.run(main())
    assert done == [(name, name, {"by": name}) for name in "abc"]
    assert (left, tags) == (None, {})


@pytest.mark.rule("K-6")
def test_threads_that_carry_a_copy_do_not_change_one_another() -> None:
    together = threading.Barrier(3, timeout=10)
    seen: list[tuple[str, str | None]] = []

    def work(name: str) -> None:
        identify_context(name)
        together.wait()
        seen.append((name, get_context_distinct_id()))

    with new_context():
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(work, name)) for name in "abc"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert get_context_distinct_id() is None
    assert sorted(seen) == [(name, name) for name in "abc"]


@pytest.mark.rule("K-6")
def test_what_starts_after_a_change_sees_it() -> None:
    async def child() -> dict[str, Any]:
        return get_tags()

    async def main() -> list[dict[str, Any]]:
        with new_context():
            first = asyncio.create_task(child())
            tag("a", 1)
            second = asyncio.create_task(child())
            return [await first, await second]

    assert asyncio.run(main()) == [{}, {"a": 1}]


@pytest.mark.rule("K-8")
def test_an_async_generator_that_is_left_early_leaves_its_context_with_nobody() -> None:
    async def rows() -> AsyncIterator[int]:
        with new_context():
            identify_context("ann")
            yield 1
            yield 2

    async def main() -> str | None:
        async for _ in rows():
            break
        await asyncio.sleep(0.05)  # by now the event loop has closed the generator
        return get_context_distinct_id()

    assert asyncio.run(main()) is None


@pytest.mark.rule("K-5")
def test_a_new_thread_has_no_context_unless_it_is_copied() -> None:
    seen: list[dict[str, Any]] = []
    with new_context():
        tag("a", 1)
        copied = contextvars.copy_context()
        for target in (lambda: seen.append(get_tags()), lambda: copied.run(lambda: seen.append(get_tags()))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [{}, {"a": 1}]


@pytest.mark.rule("K-6")
def test_tasks_inherit_and_do_not_see_each_other() -> None:
    async def request(name: str) -> dict[str, Any]:
        with new_context():
            tag("request", name)
            await asyncio.sleep(0.01)
            return get_tags()

    async def main() -> list[dict[str, Any]]:
        with new_context():
            tag("app", 1)
            return list(await asyncio.gather(request("a"), request("b")))

    assert asyncio.run(main()) == [{"app": 1, "request": "a"}, {"app": 1, "request": "b"}]


@pytest.mark.rule("K-6")
def test_a_background_task_keeps_the_scope_it_was_created_in() -> None:
    async def background() -> list[dict[str, Any]]:
        await asyncio.sleep(0.01)
        before = get_tags()
        with new_context():
            tag("inner", 1)
        return [before, get_tags()]

    async def main() -> list[dict[str, Any]]:
        with new_context():
            tag("request", 1)
            task = asyncio.create_task(background())
        return await task

    assert asyncio.run(main()) == [{"request": 1}, {"request": 1}]


@pytest.mark.rule("K-8")
def test_scopes_left_out_of_order_do_not_raise_and_do_not_come_back() -> None:
    outer, inner = new_context(), new_context()
    outer.__enter__()
    tag("outer", 1)
    inner.__enter__()
    tag("inner", 1)
    outer.__exit__(None, None, None)
    assert get_tags() == {"outer": 1, "inner": 1}
    inner.__exit__(None, None, None)
    assert get_tags() == {}
    inner.__exit__(None, None, None)
    new_context().__exit__(None, None, None)


@pytest.mark.rule("K-8")
def test_a_scope_left_in_another_thread_does_not_raise() -> None:
    scope = new_context()
    scope.__enter__()
    tag("a", 1)
    thread = threading.Thread(target=lambda: scope.__exit__(None, None, None))
    thread.start()
    thread.join()
    assert get_tags() == {}
    with new_context():
        tag("b", 1)
        assert get_tags() == {"b": 1}
    assert get_tags() == {}


@pytest.mark.rule("K-9")
def test_what_a_context_holds_reaches_the_event(client: Leanbase, memory: MemoryTransport) -> None:
    session = "0198c0de-0000-7000-8000-000000000abc"
    with client.new_context():
        client.tag("b", {1})
        client.tag("a", 1)
        client.identify_context("u")
        client.set_context_session(session)
        client.capture("e")
        client.capture("e", distinct_id="explicit")
    with client.new_context():
        client.capture("e", distinct_id="u")
    client.capture("e", distinct_id="u")
    first, second, third, fourth = memory.events
    assert first["distinct_id"] == "u"
    assert first["properties"]["$context_tags"] == ["a", "b"]
    assert first["properties"]["b"] == [1]
    assert first["properties"]["$session_id"] == session
    assert "$process_person_profile" not in first["properties"]
    assert second["distinct_id"] == "explicit"
    assert third["properties"]["$context_tags"] == []
    assert "$context_tags" not in fourth["properties"]


def test_setters_outside_a_context_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    tag("a", 1)
    identify_context("u")
    set_context_session("s")
    set_context_device_id("d")
    assert get_tags() == {}
    assert len(caplog.records) == 4
    with new_context():
        identify_context("  ")
        tag("", 1)
        assert get_context_distinct_id() is None
        assert get_tags() == {}


# --- hypothesis: any sequence of enters and exits ---------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "fresh", "exit", "tag"]), st.integers(0, 5)), max_size=40)
)
def test_any_nesting_reads_like_a_stack_of_dicts(steps: list[tuple[str, int]]) -> None:
    """Properly nested scopes behave like a stack; at the end nothing is left."""
    model: list[tuple[bool, dict[str, int]]] = []
    open_scopes: list[new_context] = []
    for action, number in steps:
        if action in ("enter", "fresh"):
            open_scopes.append(new_context(fresh=action == "fresh"))
            open_scopes[-1].__enter__()
            model.append((action == "fresh", {}))
        elif action == "exit" and model:
            open_scopes.pop().__exit__(None, None, None)
            model.pop()
        elif action == "tag":
            tag(str(number), number)
            if model:
                model[-1][1][str(number)] = number
        expected: dict[str, int] = {}
        for fresh, tags in model:
            expected = {**({} if fresh else expected), **tags}
        assert get_tags() == expected
    while open_scopes:
        open_scopes.pop().__exit__(None, None, None)
    assert get_tags() == {}


@given(st.permutations(range(6)))
def test_any_order_of_leaving_ends_outside(order: list[int]) -> None:
    """However entangled the exits are, afterwards no context is active."""
    scopes = [new_context() for _ in range(6)]
    for scope in scopes:
        scope.__enter__()
    for index in order:
        scopes[index].__exit__(None, None, None)
    tag("leaked", 1)
    assert get_tags() == {}


def test_one_context_object_can_be_entered_again() -> None:
    again = new_context()
    with again:
        tag("outer", 1)
        with again:
            tag("inner", 1)
            assert get_tags() == {"outer": 1, "inner": 1}
        assert get_tags() == {"outer": 1}
    assert get_tags() == {}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"id": 1}, "dict"),
        (True, "bool"),
        (["u"], "list"),
        ("u", None),
        (7, None),
        (7.5, None),
        (UUID(int=7), None),
    ],
)
def test_an_id_of_an_odd_type_is_told_of(
    value: object, kind: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    contexts._warn_of_id.cache_clear()
    assert contexts.coerce_id(value) == str(value)
    told = f"an id should be a string, a number or a UUID, not {kind}" in caplog.text
    assert told == (kind is not None)
    assert bool(caplog.text) == told


def test_who_asks_while_another_thread_looks_up_waits_for_it() -> None:
    looking = threading.Event()

    def find() -> contexts.Found:
        looking.set()
        time.sleep(0.1)
        assert contexts.get_tags() == {}  # inside it nothing is known
        return contexts.Found("user_1", tags={"plan": "pro"})

    with contexts.new_context(fresh=True, lookup=contexts.Lookup(find)):
        here = contextvars.copy_context()
        other = threading.Thread(target=here.run, args=(contexts.get_tags,))
        other.start()
        looking.wait()
        assert contexts.get_context_distinct_id() == "user_1"
        assert contexts.get_tags() == {"plan": "pro"}
        other.join()


def test_a_setter_outside_a_context_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    contexts._warned_outside.clear()
    for _ in range(2):
        tag("plan", "pro")
        identify_context("user_1")
    said = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert [text.partition("()")[0] for text in said] == ["tag", "identify_context"]
    assert all("new_context()" in text for text in said)
