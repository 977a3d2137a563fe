"""The decorator form of `new_context`, for every kind of function."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from ..interrupts import raise_interrupt
from .contexts import Context, Layer, active, call_in_context, innermost, new_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar

    from .contexts import OnException

    P = ParamSpec("P")
    R = TypeVar("R")


def scoped(function: Callable[P, R], fresh: bool, on_exception: OnException | None = None) -> Callable[P, R]:
    """Wrap a function so that each call runs in its own context.

    It accepts plain, `async`, generator and async generator functions. The context of a generator is active
    only while its body runs, and hidden from the code that consumes its items.

    Examples:
        >>> from leanbase.events.contexts import get_tags, tag
        >>> def handle(order):
        ...     tag("order", order)
        ...     return get_tags()
        >>> scoped(handle, fresh=False)("o-1"), get_tags()
        ({'order': 'o-1'}, {})
    """
    from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction  # slow to import

    decorate: Callable[..., Any] = _plain
    if iscoroutinefunction(function):
        decorate = _coroutine
    elif isgeneratorfunction(function):
        decorate = _generator
    elif isasyncgenfunction(function):
        decorate = _async_generator
    wrapped: Callable[P, R] = decorate(function, fresh, on_exception)
    return wrapped


def _plain(function: Callable[..., Any], fresh: bool, on_exception: OnException | None) -> Callable[..., Any]:
    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with new_context(fresh, on_exception):
            return function(*args, **kwargs)

    return plain


def _coroutine(
    function: Callable[..., Any], fresh: bool, on_exception: OnException | None
) -> Callable[..., Any]:
    @wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with new_context(fresh, on_exception):
            return await function(*args, **kwargs)

    return coroutine


def _generator(
    function: Callable[..., Any], fresh: bool, on_exception: OnException | None
) -> Callable[..., Any]:
    @wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        body = function(*args, **kwargs)
        inside = _Intermittent(fresh, on_exception)
        step, argument = body.send, None
        try:
            while True:
                with inside:
                    inside.item = step(argument)
                argument = None
                try:
                    argument = yield inside.take()
                    step = body.send
                except BaseException as error:  # also the GeneratorExit of close()
                    step, argument = body.throw, error
        except StopIteration as stop:
            return stop.value

    return generator


def _async_generator(
    function: Callable[..., Any], fresh: bool, on_exception: OnException | None
) -> Callable[..., Any]:
    @wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        body = function(*args, **kwargs)
        inside = _Intermittent(fresh, on_exception)
        step, argument = body.asend, None
        try:
            while True:
                with inside:
                    inside.item = await step(argument)
                argument = None
                try:
                    argument = yield inside.take()
                    step = body.asend
                except BaseException as error:  # also the GeneratorExit of close()
                    step, argument = body.athrow, error
        except StopAsyncIteration:
            return

    return async_generator


class _Intermittent:
    """A context that is entered for each step of a generator and left between the steps.

    So are the contexts that the body has open across a `yield`.
    """

    def __init__(self, fresh: bool, on_exception: OnException | None) -> None:
        self.item: Any = None
        self._on_exception = on_exception
        self._layer = Layer()
        # The generator's own context, then the contexts that its body has open.
        self._contexts = [Context(None, fresh, self._layer)]
        self._outer: Context | None = None

    def take(self) -> Any:
        """Return the yielded item, and forget it so that only the consumer keeps it alive."""
        item, self.item = self.item, None
        return item

    def __enter__(self) -> None:
        self._outer = innermost.get()
        context = active()
        for each in self._contexts:
            # Set the parent at each step: the consumer or its context may have changed.
            context = each.replaced(parent=context)
        innermost.set(context)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: object
    ) -> None:
        context = innermost.get()
        contexts: list[Context] = []
        while context is not None:
            contexts.insert(0, context)
            if context.layer is self._layer:
                self._contexts = contexts
                break
            context = context.parent
        try:
            if self._on_exception is not None and _is_failure(exc_type):
                call_in_context(context or self._contexts[0], self._on_exception, exc)
        except RecursionError:
            pass  # at the recursion limit not even the logger can be called
        except Exception as error:
            raise_interrupt(error)
        finally:
            innermost.set(self._outer)


def _is_failure(exc_type: type[BaseException] | None) -> bool:
    # A body that ends normally also raises an exception, which is not a failure.
    ended = (StopIteration, StopAsyncIteration)
    return exc_type is not None and issubclass(exc_type, Exception) and not issubclass(exc_type, ended)
