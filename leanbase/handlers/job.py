"""The decorator for jobs: Render cron jobs, one-off jobs, scripts."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from ..client import Leanbase
from ..default import default_client
from ..delivery.scope import DeliveryScope
from .boundary import Boundary
from .callables import is_async, is_generator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, overload

    from ..delivery.scope import FlushPolicy

    Function = TypeVar("Function", bound=Callable[..., Any])


if TYPE_CHECKING:

    @overload
    def job(function: Function, /) -> Function: ...
    @overload
    def job(
        *, flush: FlushPolicy = "end", client: Leanbase | None = None, capture_exceptions: bool = True
    ) -> Callable[[Function], Function]: ...


def job(
    function: Any = None,
    /,
    *,
    flush: FlushPolicy = "end",
    client: Leanbase | None = None,
    capture_exceptions: bool = True,
) -> Any:
    """Deliver the events of a script's main function before it ends, however it ends.

    The function runs in its own context and delivery scope. Its events are sent as in `delivery_scope`, at
    the latest when the function returns, raises or calls `sys.exit`. Its result, exception and exit code do
    not change. On SIGTERM, which usually ends the process at once, the client first sends the events, within
    the platform's grace period. Then the signal has its usual effect: the program's own SIGTERM handler runs,
    if there is one. On Render, Vercel and Cloud Run the events carry tags of the platform.

    Args:
        function: The function, `async` or not, if the decorator is used without parentheses.
        flush: `"end"` sends the events together. `"each"` sends inside every capture.
        client: The client that captures the function's exceptions. Its retained events are sent as well.
            Default: the default client.
        capture_exceptions: Whether an exception that leaves the function is captured.

    Raises:
        ValueError: `flush` is neither `"end"` nor `"each"`.
        TypeError: The decorated object is not a function that runs to its end, or `client` is not a client.

    Sending blocks until the events have an outcome, at most `send_deadline` seconds. Undelivered events are
    sent once more when the interpreter exits, and only then reported as lost.

    Examples:
        >>> import leanbase
        >>> @leanbase.job
        ... def main():
        ...     leanbase.capture("import finished", distinct_id="cron")
        >>> main()
    """

    def decorate(function: Any) -> Any:
        if not callable(function):
            raise TypeError(f"job decorates a function, not {type(function).__name__}")
        if is_generator(function) or isinstance(function, type):
            raise TypeError("job decorates a function that runs to its end, not a generator or a class")
        if is_async(function):

            @wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with _Run(client or default_client, flush, capture_exceptions):
                    return await function(*args, **kwargs)
        else:

            @wraps(function)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with _Run(client or default_client, flush, capture_exceptions):
                    return function(*args, **kwargs)

        return wrapped

    DeliveryScope(flush)  # reports an invalid policy now, at decoration
    if client is not None and not isinstance(client, Leanbase):
        raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
    return decorate if function is None else decorate(function)


class _Run(Boundary):
    """One run of a job. SIGTERM may end it."""

    def __init__(self, client: Leanbase, flush: FlushPolicy, capture_exceptions: bool) -> None:
        from .termination import termination  # not needed to import leanbase

        scope = DeliveryScope(flush, last_chance="full", belongs_to_handler=True)
        super().__init__(client, scope, "JOB", capture_exceptions=capture_exceptions)
        self._termination = termination()
        self._installed = False

    def begin(self) -> None:
        from .platforms import tag_platform  # not needed to import leanbase

        tag_platform()
        self._installed = self._termination.install(self.client)

    def close(self, error: BaseException | None) -> None:
        from ..transports import _at_exit  # not needed to import leanbase

        self.scope.deadline = _at_exit.near()  # after SIGTERM, the rest of the grace period
        self.client._close_scope(self.scope)
        self._termination.wait()  # after SIGTERM, the process ends here

    def end(self) -> None:
        if self._installed:
            self._termination.uninstall()
