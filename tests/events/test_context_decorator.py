"""`@scoped` gives each call of a function a context: plain, async, generator and async generator functions."""

from __future__ import annotations

import asyncio
import inspect
import sys
import weakref
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from leanbase import scoped
from leanbase.events.contexts import get_tags, new_context, tag


@pytest.mark.rule("K-1")
def test_a_scoped_function_has_a_context_and_keeps_its_signature() -> None:
    @scoped()
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        tag("in", 1)
        assert get_tags() == {"in": 1}
        return a + b

    assert add(1, b=2) == 3
    assert get_tags() == {}
    assert add.__doc__ == "Add two numbers."
    assert list(inspect.signature(add).parameters) == ["a", "b"]


def test_scoped_works_without_parentheses() -> None:
    @scoped
    def work(value: int) -> dict[str, Any]:
        tag("in", value)
        return get_tags()

    assert work(3) == {"in": 3}
    assert get_tags() == {}


@pytest.mark.rule("K-2")
def test_the_context_of_a_scoped_coroutine_function_lasts_for_the_whole_await() -> None:
    @scoped(fresh=True)
    async def work() -> dict[str, Any]:
        tag("in", 1)
        await asyncio.sleep(0)
        return get_tags()

    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        with new_context():
            tag("out", 1)
            return await work(), get_tags()

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(main()) == ({"in": 1}, {"out": 1})


@pytest.mark.rule("K-1")
def test_the_context_of_a_scoped_generator_is_not_active_between_its_items() -> None:
    @scoped()
    def numbers() -> Generator[Any, Any, str]:
        tag("in", 1)
        with new_context():
            tag("deeper", 1)
            yield get_tags()
            yield get_tags()
        received = yield get_tags()
        try:
            yield received
        except ValueError:
            yield "caught", get_tags()
        return "the end"

    with new_context():
        tag("out", 1)
        body: Any = numbers()
        inside = {"out": 1, "in": 1, "deeper": 1}
        assert next(body) == inside
        assert get_tags() == {"out": 1}
        tag("late", 1)
        with new_context():
            tag("elsewhere", 1)
            assert next(body) == {**inside, "late": 1, "elsewhere": 1}
            assert get_tags() == {"out": 1, "late": 1, "elsewhere": 1}
        assert next(body) == {"out": 1, "in": 1, "late": 1}
        assert body.send("sent") == "sent"
        assert body.throw(ValueError()) == ("caught", {"out": 1, "in": 1, "late": 1})
        with pytest.raises(StopIteration) as stop:
            next(body)
        assert stop.value.value == "the end"
        assert get_tags() == {"out": 1, "late": 1}


def test_a_scoped_generator_is_closed_inside_its_context() -> None:
    closed: list[dict[str, Any]] = []

    @scoped()
    def numbers() -> Iterator[int]:
        tag("in", 1)
        try:
            yield 1
        finally:
            closed.append(get_tags())

    body: Any = numbers()
    next(body)
    body.close()
    assert closed == [{"in": 1}]
    assert get_tags() == {}


@pytest.mark.rule("K-1")
def test_the_context_of_a_scoped_async_generator_is_active_only_inside_it() -> None:
    closed: list[dict[str, Any]] = []

    @scoped()
    async def numbers() -> AsyncIterator[Any]:
        tag("in", 1)
        try:
            yield get_tags()
            await asyncio.sleep(0)
            try:
                yield get_tags()
            except ValueError:
                yield "caught"
        finally:
            closed.append(get_tags())

    async def main() -> None:
        with new_context():
            tag("out", 1)
            async for item in numbers():
                assert item == {"out": 1, "in": 1}
                assert get_tags() == {"out": 1}
            body: Any = numbers()
            await anext(body)
            await body.asend(None)
            assert await body.athrow(ValueError()) == "caught"
            await body.aclose()
            assert get_tags() == {"out": 1}

    asyncio.run(main())
    assert closed == [{"out": 1, "in": 1}] * 2


def test_a_scoped_generator_sends_throws_and_closes_like_a_plain_generator() -> None:
    def body() -> Generator[Any, Any, Any]:
        try:
            got = yield 1
            yield got
        except ValueError:
            yield "swallowed"
        raise KeyError

    def closes() -> Generator[Any, Any, Any]:
        try:
            yield 1
        except GeneratorExit:
            return 7

    for wrap in (lambda function: function, scoped()):
        generator = wrap(body)()
        assert (next(generator), generator.send("sent")) == (1, "sent")
        assert generator.throw(ValueError()) == "swallowed"
        with pytest.raises(KeyError) as caught:
            next(generator)
        assert caught.value.__context__ is None
        closing = wrap(closes)()
        next(closing)
        assert closing.close() == (7 if sys.version_info >= (3, 13) else None)


def test_a_suspended_scoped_generator_does_not_keep_yielded_or_sent_objects_alive() -> None:
    class Item:
        pass

    @scoped()
    def generator() -> Generator[Any, Any, None]:
        while True:
            yield Item()

    running = generator()
    next(running)
    sent = Item()
    references = [weakref.ref(running.send(sent)), weakref.ref(sent)]
    del sent
    assert [reference() for reference in references] == [None, None]


@pytest.mark.rule("K-3")
def test_a_scoped_generator_inherits_from_its_current_consumer_at_each_step() -> None:
    @scoped
    def rows() -> Iterator[dict[str, Any]]:
        tag("own", 1)
        yield get_tags()
        with new_context():
            tag("inner", 2)
            yield get_tags()
        yield get_tags()

    with new_context():
        tag("consumer", "first")
        steps = rows()
        seen = [next(steps)]
        tag("consumer", "changed")
        seen.append(next(steps))
    with new_context():
        tag("consumer", "another")
        seen.append(next(steps))
        assert get_tags() == {"consumer": "another"}
    assert seen == [
        {"consumer": "first", "own": 1},
        {"consumer": "changed", "own": 1, "inner": 2},
        {"consumer": "another", "own": 1},
    ]
