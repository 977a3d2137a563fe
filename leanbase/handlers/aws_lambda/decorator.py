"""The decorator for AWS Lambda handlers, and what it does while the function initialises."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import WRAPPER_ASSIGNMENTS, update_wrapper

from ...client import Leanbase
from ...default import default_client
from ...delivery.scope import DeliveryScope, limit_initialisation
from ..callables import is_async, is_generator
from ..sigterm import termination
from . import extension as lambda_extension
from . import runtime as lambda_runtime
from . import snapstart
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
"""Most time that connecting may add to a cold start, when the endpoint does not answer."""

INITIALISATION_SECONDS = 2.0
"""Most time that all events captured during the initialisation may take; Lambda ends it after 10 s."""

FLUSH_POLICIES = ("end", "each", "after_response")

_registered: LambdaExtension | Literal[False] | None = None

if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    limit_initialisation(INITIALISATION_SECONDS, lambda_runtime.is_initialising)


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
) -> Any:
    """Deliver the events of each invocation of a Lambda handler before its response is returned.

    Works on functions, methods and objects such as `Mangum(app)`, above or below other decorators. An
    `async` function stays one, for whatever awaits it; the Lambda runtime itself does not. The handler's
    result and exceptions pass through unchanged.

    Inside, events carry the tags `faas.*` and `cloud.*`, and for HTTP events (API Gateway, Function URL,
    ALB) the request's tags and the caller's session and distinct id. Threads see that context, and are
    collected, when they carry it: `asyncio.to_thread` does, `contextvars.copy_context().run` makes them.

    Args:
        handler: The handler, when used without parentheses.
        flush: `"end"` sends all events of the invocation together, also when the handler raises;
            `"each"` sends inside every capture, for functions that may be killed half-way;
            `"after_response"` sends together when the caller has the response and before the sandbox
            freezes, which an internal extension sees to. That time is billed, and counts against the timeout.
            Where there is no Extensions API it is the same as `"end"`.
        client: Who captures the handler's exceptions, and whose retained events are sent as well. Default:
            the default client.
        capture_exceptions: Whether an exception that leaves the handler is captured. Its event leaves
            with the others of the invocation, and Lambda sees the same exception as without.
        preconnect: Open a connection while the function initialises, at most 1 s. Only in the Lambda
            runtime.
        idempotent: Derive ids and times of events from the invocation's request id and the event's own time,
            so that an asynchronous invocation that Lambda retries captures the same events once more, not
            others. For the records of a batch see `record_context`.

    Sending blocks until the events have an outcome, at most `send_deadline` seconds and never into
    the function's timeout: 0.5 s of it, or a tenth if that is less, are left to the handler's answer.

    Example:
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

        def invocation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invocation:
            event, context = _event_and_context(handler, args, kwargs)
            policy: FlushPolicy = "each" if flush == "each" else "end"
            scope = DeliveryScope(policy, time_limit(context), is_handlers=True)
            return Invocation(
                event, context, client or default_client, scope, extension, capture_exceptions, idempotent
            )

        wrapped: Any
        if is_async(handler):
            if "AWS_LAMBDA_RUNTIME_API" in os.environ:
                logger.warning("Lambda does not await an async handler: call asyncio.run() in a plain one")

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
        wrapped.__leanbase_flush__ = flush  # decorators around this one pass it on
        return wrapped

    if flush not in FLUSH_POLICIES:
        raise ValueError(f"flush must be {', '.join(map(repr, FLUSH_POLICIES))}, not {flush!r}")
    if client is not None and not isinstance(client, Leanbase):
        raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
    return decorate if handler is None else decorate(handler)


def flush_policy_of(handler: Any) -> str | None:
    """What a decorated handler was decorated with; `None` for others."""
    return getattr(handler, "__leanbase_flush__", None)


def _initialise(client: Leanbase, preconnect: bool, after_response: bool) -> LambdaExtension | None:
    """Use the initialisation phase, which has a full CPU, for what the first send would wait for."""
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        # A snapshot would keep the connection and not the peer.
        snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
        if snapshot:
            snapstart.register(client)
        client._warm_up(WARM_UP_SECONDS if preconnect and not snapshot else 0.0)
        termination().install(client)
    return _extension() if after_response else None


def _extension() -> LambdaExtension | None:
    """The extension that this process is, made with the first handler that wants it."""
    global _registered
    if _registered is None:
        try:
            _registered = lambda_extension.register()
        except lambda_extension.ExtensionUnavailableError as error:
            _registered = False
            level = logging.WARNING if "AWS_LAMBDA_RUNTIME_API" in os.environ else logging.DEBUG
            logger.log(level, 'flush="after_response" is the same as "end" here: %s', error)
    return _registered or None


def _event_and_context(handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """What a handler is called with, however that is done; `None` for what is left out."""
    if kwargs:
        from inspect import signature

        try:
            args = tuple(signature(handler).bind(*args, **kwargs).arguments.values())
        except (TypeError, ValueError):
            pass  # the call itself will say what is wrong
    if len(args) > 2 and _is_context(args[2]) and not _is_context(args[1]):
        args = args[1:]  # the handler is a method
    return args[0] if args else None, args[1] if len(args) > 1 else None


def _is_context(argument: Any) -> bool:
    try:
        return hasattr(argument, "get_remaining_time_in_millis")
    except Exception:
        return False
