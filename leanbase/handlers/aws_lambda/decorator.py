"""The decorator for AWS Lambda handlers, and what it prepares while the function initialises."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import WRAPPER_ASSIGNMENTS, update_wrapper

from ...client import Leanbase
from ...default import default_client
from ...delivery.scope import DeliveryScope, limit_initialisation
from ..callables import is_async, is_generator
from . import runtime as lambda_runtime
from .invocation import Invocation, time_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias, TypeVar, overload

    from ...delivery.scope import FlushPolicy
    from .extension import LambdaExtension

    HandlerFlushPolicy: TypeAlias = FlushPolicy | Literal["after_response"]

    Handler = TypeVar("Handler", bound=Callable[..., Any])

logger = logging.getLogger("leanbase")

WARM_UP_SECONDS = 1.0
"""Maximum seconds that connecting adds to a cold start, if the server does not respond."""

INITIALISATION_SECONDS = 2.0
"""Maximum seconds of all sends during the initialisation. Lambda ends the initialisation after 10 s."""

FLUSH_POLICIES = ("end", "each", "after_response")

_registered: LambdaExtension | Literal[False] | None = None

if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    limit_initialisation(INITIALISATION_SECONDS, lambda_runtime.is_initialising)

    from . import reports  # only Lambda's runtime needs it

    reports.watch()


if TYPE_CHECKING:

    @overload
    def lambda_handler(handler: Handler, /) -> Handler: ...
    @overload
    def lambda_handler(
        *,
        flush: HandlerFlushPolicy = "end",
        client: Leanbase | None = None,
        capture_exceptions: bool = True,
        preconnect: bool = True,
        idempotent: bool = False,
        timeout_warning: bool | None = None,
    ) -> Callable[[Handler], Handler]: ...


def lambda_handler(
    handler: Any = None,
    /,
    *,
    flush: HandlerFlushPolicy = "end",
    client: Leanbase | None = None,
    capture_exceptions: bool = True,
    preconnect: bool = True,
    idempotent: bool = False,
    timeout_warning: bool | None = None,
) -> Any:
    """Deliver the events of each invocation of a Lambda handler before its response is returned.

    Works on functions, methods and objects such as `Mangum(app)`, above or below other decorators. A
    decorated `async` function remains `async`, but the Lambda runtime itself does not await it. The
    handler's result and exceptions do not change.

    Events captured inside carry the tags `faas.*` and `cloud.*`. For HTTP events (API Gateway, Function URL,
    ALB) they also carry the request's tags and the caller's session id and distinct id. Events of other
    threads belong to the invocation if the thread carries its context: use `asyncio.to_thread`, or start the
    thread with `contextvars.copy_context().run`.

    Args:
        handler: The handler, if the decorator is used without parentheses.
        flush: `"end"` sends all events of the invocation together, also if the handler raises. `"each"`
            sends inside every capture, for functions that may be killed half-way. `"after_response"` sends
            all events together after the caller has the response, and before the sandbox freezes. An
            internal extension does this. That time is billed, and counts against the timeout. Without an
            Extensions API it is the same as `"end"`.
        client: The client that captures the handler's exceptions. Its retained events are sent as well.
            Default: the default client.
        capture_exceptions: Whether an exception that leaves the handler is captured. Its event is sent with
            the other events of the invocation. Lambda receives the exception unchanged.
        preconnect: Whether to open a connection while the function initialises, for at most 1 s. Only in
            the Lambda runtime.
        idempotent: Whether to derive the ids and timestamps of events from the invocation's request id and
            the Lambda event's own timestamp. An asynchronous invocation that Lambda retries then captures
            the same events again, and the server counts them once. For the records of a batch see
            `record_context`.
        timeout_warning: Whether to send the captured events shortly before the function times out. An
            exception `LambdaTimeout` with the stack of the handler's thread is sent with them. A thread
            does this when only the reserved time (see below) is left. Default: the environment variable
            `LEANBASE_LAMBDA_TIMEOUT_WARNING`, else `False`.

    Raises:
        ValueError: `flush` is not one of these values.
        TypeError: The decorated object is not callable or is a generator function, or `client` is not a
            client.

    Sending blocks until the events have an outcome, at most `send_deadline` seconds. It reserves 0.5 s of the
    function's remaining time, or a tenth of it if that is less, for the handler's response.

    Examples:
        >>> import leanbase
        >>> @leanbase.lambda_handler
        ... def handler(event, context):
        ...     leanbase.capture("order created", distinct_id=event["user"])
        ...     return {"statusCode": 200}
    """

    def decorate(handler: Any) -> Any:
        if not callable(handler):
            raise TypeError(f"lambda_handler decorates a handler, not {type(handler).__name__}")
        if is_generator(handler):
            raise TypeError("lambda_handler decorates a handler that returns its result, not a generator")
        extension = _initialise(client or default_client, preconnect, flush == "after_response")
        if warns:
            from .timeout import TimeoutWarning

            TimeoutWarning.prepare()

        def invocation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invocation:
            event, context = _event_and_context(handler, args, kwargs)
            policy: FlushPolicy = "each" if flush == "each" else "end"
            scope = DeliveryScope(policy, time_limit(context), belongs_to_handler=True)
            return Invocation(
                event,
                context,
                client or default_client,
                scope,
                extension,
                capture_exceptions,
                idempotent,
                warns,
            )

        wrapped: Any
        if is_async(handler):
            if "AWS_LAMBDA_RUNTIME_API" in os.environ:
                logger.warning(
                    "Lambda does not await async handlers: decorate a plain function that calls asyncio.run()"
                )

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with invocation(args, kwargs):
                    return await handler(*args, **kwargs)

        else:

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with invocation(args, kwargs):
                    return handler(*args, **kwargs)

        # For a callable object, copy its name and docstring but not its instance attributes.
        is_function = hasattr(handler, "__code__")
        update_wrapper(wrapped, handler, WRAPPER_ASSIGNMENTS, ("__dict__",) if is_function else ())
        wrapped.__leanbase_flush__ = flush  # outer decorators that use `functools.wraps` copy it
        return wrapped

    warns = _warns_by_default() if timeout_warning is None else timeout_warning
    if flush not in FLUSH_POLICIES:
        raise ValueError(f"flush must be {', '.join(map(repr, FLUSH_POLICIES))}, not {flush!r}")
    if client is not None and not isinstance(client, Leanbase):
        raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
    return decorate if handler is None else decorate(handler)


def _warns_by_default() -> bool:
    from ...environment import flag  # not needed to import leanbase

    return flag("LEANBASE_LAMBDA_TIMEOUT_WARNING", False)


def flush_policy_of(handler: Any) -> str | None:
    """Return the `flush` argument of a decorated handler, or `None` for any other handler."""
    return getattr(handler, "__leanbase_flush__", None)


def _initialise(client: Leanbase, preconnect: bool, after_response: bool) -> LambdaExtension | None:
    """Prepare the first send during the initialisation phase, which has a full CPU.

    Return the extension, if `after_response` needs it and it is available.
    """
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        # A connection in a snapshot is dead after the restore.
        snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
        if snapshot:
            from . import snapstart  # not needed to import leanbase

            snapstart.register(client)
        client._warm_up(WARM_UP_SECONDS if preconnect and not snapshot else 0.0)
        from ..termination import termination  # not needed to import leanbase

        termination().install(client)
    return _extension() if after_response else None


def _extension() -> LambdaExtension | None:
    """Return the extension of this process, or `None`. The first call registers it."""
    global _registered
    if _registered is None:
        from . import extension  # not needed to import leanbase

        try:
            _registered = extension.register()
        except extension.ExtensionUnavailableError as error:
            _registered = False
            level = logging.WARNING if "AWS_LAMBDA_RUNTIME_API" in os.environ else logging.DEBUG
            logger.log(level, 'flush="after_response" is not available, "end" is used: %s', error)
    return _registered or None


def _event_and_context(handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return the event and the context of a call, by position or keyword; `None` for a missing one."""
    if kwargs:
        from inspect import signature

        try:
            args = tuple(signature(handler).bind(*args, **kwargs).arguments.values())
        except (TypeError, ValueError):
            pass  # the call itself will raise the error
    if len(args) > 2 and _is_context(args[2]) and not _is_context(args[1]):
        args = args[1:]  # the handler is a method
    return args[0] if args else None, args[1] if len(args) > 1 else None


def _is_context(argument: Any) -> bool:
    try:
        return hasattr(argument, "get_remaining_time_in_millis")
    except Exception:
        return False
