"""The decorator form of `new_context`, for every kind of function."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from leanbase.contexts import Scope, active, innermost, new_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar, overload

    P = ParamSpec("P")
    R = TypeVar("R")


if TYPE_CHECKING:

    @overload
    def scoped(fresh: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def scoped(fresh: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def scoped(fresh: Any = False) -> Any:
    """Run a function in a context of its own; the decorator form of `new_context`.

    For plain, `async`, generator and async generator functions. A generator's context is active
    while its body runs and hidden from whoever consumes its items. Put it innermost, next to `def`.

    Args:
        fresh: As for `new_context`.

    Example:
        >>> from leanbase.contexts import get_tags, tag
        >>> @scoped()
        ... def handle(order):
        ...     tag("order", order)
        ...     return get_tags()
        >>> handle("o-1"), get_tags()
        ({'order': 'o-1'}, {})
    """
    if callable(fresh):  # used without parentheses
        return _in_scope(fresh, False)
    return lambda function: _in_scope(function, bool(fresh))


def _in_scope(function: Callable[..., Any], fresh: bool) -> Callable[..., Any]:
    from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction  # slow to import

    if iscoroutinefunction(function):
        return _scoped_coroutine(function, fresh)
    if isgeneratorfunction(function):
        return _scoped_generator(function, fresh)
    if isasyncgenfunction(function):
        return _scoped_async_generator(function, fresh)

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with new_context(fresh):
            return function(*args, **kwargs)

    return plain


def _scoped_coroutine(function: Callable[..., Any], fresh: bool) -> Callable[..., Any]:
    @wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        with new_context(fresh):
            return await function(*args, **kwargs)

    return coroutine


def _scoped_generator(function: Callable[..., Any], fresh: bool) -> Callable[..., Any]:
    @wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Any:
        body = function(*args, **kwargs)
        inside = _Intermittent(fresh)
        try:
            with inside:
                item = next(body)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside:
                        body.close()
                    raise
                except BaseException as error:
                    with inside:
                        item = body.throw(error)
                else:
                    with inside:
                        item = body.send(sent)
        except StopIteration as stop:
            return stop.value

    return generator


def _scoped_async_generator(function: Callable[..., Any], fresh: bool) -> Callable[..., Any]:
    @wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> Any:
        body = function(*args, **kwargs)
        inside = _Intermittent(fresh)
        try:
            with inside:
                item = await anext(body)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    with inside:
                        await body.aclose()
                    raise
                except BaseException as error:
                    with inside:
                        item = await body.athrow(error)
                else:
                    with inside:
                        item = await body.asend(sent)
        except StopAsyncIteration:
            return

    return async_generator


class _Intermittent:
    """A context entered for each step of a generator and left between the steps.

    Contexts that the body itself has open across a `yield` are hidden and come back with it.
    """

    def __init__(self, fresh: bool) -> None:
        self._fresh = fresh
        self._inner: Scope | None = None
        self._outer: Scope | None = None

    def __enter__(self) -> None:
        self._outer = innermost.get()
        if self._inner is None:
            self._inner = Scope(active(), self._fresh)
        innermost.set(self._inner)

    def __exit__(self, *exc_info: object) -> None:
        self._inner = innermost.get()
        innermost.set(self._outer)
