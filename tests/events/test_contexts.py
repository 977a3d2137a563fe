"""Contexts: how values are inherited, and that threads, tasks and generators do not see each other's."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
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
from tests.support.forking import run_in_forked_child
from tests.support.threads import run_in_threads, start_thread


@pytest.mark.rule("K-1")
def test_a_context_inherits_and_overrides_without_changing_the_context_around_it() -> None:
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
def test_a_fresh_context_inherits_nothing_and_neither_do_contexts_inside_it() -> None:
    with new_context():
        tag("a", 1)
        identify_context("u")
        with new_context(fresh=True), new_context():
            assert get_tags() == {}
            assert get_context_distinct_id() is None


@pytest.mark.rule("K-3", "K-6")
def test_values_are_read_at_capture_time_from_the_callers_copy(
    client: Leanbase, memory: MemoryTransport
) -> None:
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
def test_tasks_under_gather_do_not_see_each_others_identity(setter: Callable[[str], None]) -> None:
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
            seen = list(await asyncio.gather(*map(work, "abc")))
            return seen, read(), get_tags()

    seen_in_tasks, seen_outside, tags_outside = asyncio.run(main())
    assert seen_in_tasks == [(name, name, {"by": name}) for name in "abc"]
    assert (seen_outside, tags_outside) == (None, {})


@pytest.mark.rule("K-6")
def test_threads_with_a_copied_context_do_not_see_each_others_identity() -> None:
    all_identified = threading.Barrier(3, timeout=10)
    seen: list[tuple[str, str | None]] = []

    def work(name: str) -> None:
        identify_context(name)
        all_identified.wait()
        seen.append((name, get_context_distinct_id()))

    with new_context():
        run_in_threads(*(partial(contextvars.copy_context().run, work, name) for name in "abc"))
        assert get_context_distinct_id() is None
    assert sorted(seen) == [(name, name) for name in "abc"]


@pytest.mark.rule("K-6")
def test_a_task_sees_only_changes_made_before_it_was_created() -> None:
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
def test_the_context_of_an_abandoned_async_generator_is_not_active_afterwards() -> None:
    async def rows() -> AsyncIterator[int]:
        with new_context():
            identify_context("ann")
            yield 1
            yield 2

    async def main() -> str | None:
        async for _ in rows():
            break
        await asyncio.sleep(0.05)  # time for the event loop to close the generator
        return get_context_distinct_id()

    assert asyncio.run(main()) is None


@pytest.mark.rule("K-5")
def test_a_new_thread_has_no_context_unless_it_is_copied() -> None:
    seen: list[dict[str, Any]] = []
    with new_context():
        tag("a", 1)
        copied = contextvars.copy_context()
        for target in (lambda: seen.append(get_tags()), lambda: copied.run(lambda: seen.append(get_tags()))):
            run_in_threads(target)
    assert seen == [{}, {"a": 1}]


@pytest.mark.rule("K-6")
def test_tasks_inherit_the_context_around_them_and_do_not_see_each_others_tags() -> None:
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
def test_a_background_task_keeps_the_context_in_which_it_was_created() -> None:
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
def test_contexts_left_out_of_order_do_not_raise_and_never_become_active_again() -> None:
    outer, inner = new_context(), new_context()
    outer.__enter__()
    tag("outer", 1)
    inner.__enter__()
    tag("inner", 1)
    outer.__exit__(None, None, None)
    assert get_tags() == {"outer": 1, "inner": 1}
    inner.__exit__(None, None, None)
    assert get_tags() == {}
    inner.__exit__(None, None, None)  # a second exit has no effect
    new_context().__exit__(None, None, None)  # and neither has one without an enter


@pytest.mark.rule("K-8")
def test_a_context_may_be_left_in_another_thread() -> None:
    context = new_context()
    context.__enter__()
    tag("a", 1)
    run_in_threads(lambda: context.__exit__(None, None, None))
    assert get_tags() == {}
    with new_context():
        tag("b", 1)
        assert get_tags() == {"b": 1}
    assert get_tags() == {}


@pytest.mark.rule("K-9", "E-2")
def test_events_carry_the_identity_session_and_tags_of_their_context(
    client: Leanbase, memory: MemoryTransport
) -> None:
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


@pytest.mark.rule("K-10")
def test_setters_outside_a_context_and_empty_values_have_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
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


@pytest.mark.rule("K-1", "K-2")
@given(
    st.lists(st.tuples(st.sampled_from(["enter", "fresh", "exit", "tag"]), st.integers(0, 5)), max_size=40)
)
def test_any_nesting_of_contexts_behaves_like_a_stack_of_dicts(steps: list[tuple[str, int]]) -> None:
    model: list[tuple[bool, dict[str, int]]] = []
    open_contexts: list[new_context] = []
    for action, number in steps:
        if action in ("enter", "fresh"):
            open_contexts.append(new_context(fresh=action == "fresh"))
            open_contexts[-1].__enter__()
            model.append((action == "fresh", {}))
        elif action == "exit" and model:
            open_contexts.pop().__exit__(None, None, None)
            model.pop()
        elif action == "tag":
            tag(str(number), number)
            if model:
                model[-1][1][str(number)] = number
        expected: dict[str, int] = {}
        for fresh, tags in model:
            expected = {**({} if fresh else expected), **tags}
        assert get_tags() == expected
    while open_contexts:
        open_contexts.pop().__exit__(None, None, None)
    assert get_tags() == {}


@pytest.mark.rule("K-8")
@given(st.permutations(range(6)))
def test_no_context_is_active_after_exits_in_any_order(order: list[int]) -> None:
    entered = [new_context() for _ in range(6)]
    for context in entered:
        context.__enter__()
    for index in order:
        entered[index].__exit__(None, None, None)
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


@pytest.mark.rule("E-11")
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
def test_an_id_of_an_unusual_type_is_used_as_its_str_with_a_warning(
    value: object, kind: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    contexts._warn_of_id.cache_clear()
    assert contexts.coerce_id(value) == str(value)
    is_warned_about = f"an id should be a string, a number or a UUID, not {kind}" in caplog.text
    assert is_warned_about == (kind is not None)
    assert bool(caplog.text) == is_warned_about


def test_a_thread_that_needs_a_lookup_waits_while_another_thread_makes_it() -> None:
    lookup_has_begun = threading.Event()

    def find() -> contexts.Found:
        lookup_has_begun.set()
        time.sleep(0.1)
        assert contexts.get_tags() == {}  # during the lookup its result is empty
        return contexts.Found("user_1", tags={"plan": "pro"})

    with contexts.new_context(fresh=True, lookup=contexts.Lookup(find)):
        other = start_thread(contextvars.copy_context().run, contexts.get_tags)
        lookup_has_begun.wait()
        assert contexts.get_context_distinct_id() == "user_1"
        assert contexts.get_tags() == {"plan": "pro"}
        other.join()


@pytest.mark.rule("K-10")
def test_a_setter_outside_a_context_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    contexts._warned_outside.clear()
    for _ in range(2):
        tag("plan", "pro")
        identify_context("user_1")
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.partition("()")[0] for message in warnings] == ["tag", "identify_context"]
    assert all("new_context()" in message for message in warnings)


@pytest.mark.rule("K-4")
def test_all_clients_share_the_active_context_and_client_chooses_who_captures_exceptions(
    client: Leanbase, memory: MemoryTransport
) -> None:
    other_memory = MemoryTransport()
    other = Leanbase("phc_other", transport=other_memory)
    with pytest.raises(ValueError), client.new_context(client=other):
        client.identify_context("ann")
        client.capture("from the client")
        other.capture("from the other client")
        raise ValueError
    assert [event["event"] for event in memory.events] == ["from the client"]
    assert [event["event"] for event in other_memory.events] == ["from the other client", "$exception"]
    assert {event["distinct_id"] for event in memory.events + other_memory.events} == {"ann"}


@pytest.mark.rule("K-7")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_without_a_context() -> None:
    def use_contexts() -> None:
        assert get_tags() == {}
        assert get_context_distinct_id() is None
        with new_context():
            tag("child", 1)
            assert get_tags() == {"child": 1}
        assert get_tags() == {}

    with new_context():
        tag("parent", 1)
        identify_context("ann")
        run_in_forked_child(use_contexts)
        assert get_tags() == {"parent": 1}
