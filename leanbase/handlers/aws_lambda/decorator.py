"""The decorator for AWS Lambda handlers.

One invocation is: a context with the invocation's tags and the request's identity, around a delivery
scope whose deadline is the function's own, around the handler.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import WRAPPER_ASSIGNMENTS, cache, update_wrapper

from ...client import Leanbase
from ...default import default_client
from ...delivery.scope import DeliveryScope, activate, limit_initialisation
from ...events import idempotency
from ...events.contexts import get_tags, new_context, tag
from ...events.ids import uuid4
from ...transports.deadline import Deadline
from ..callables import is_async, is_generator
from ..sigterm import termination
from . import extension as lambda_extension
from . import runtime as lambda_runtime
from . import snapstart
from .events import event_timestamp, tag_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

    from ...delivery.scope import FlushPolicy
    from .extension import LambdaExtension

    HandlerFlushPolicy: TypeAlias = FlushPolicy | Literal["after_response"]

    class LambdaContext(Protocol):
        """What the Lambda runtime passes beside the event; only what is read here."""

        function_name: str
        function_version: str
        aws_request_id: str

        def get_remaining_time_in_millis(self) -> int: ...

    Handler = TypeVar("Handler", bound=Callable[..., Any])

logger = logging.getLogger("leanbase")

RESERVE_SECONDS = 0.5
"""Kept back from the function's remaining time, so that it answers rather than times out."""

RESERVE_SHARE = 0.1
"""... but of a short timeout no more than this share."""

WARM_UP_SECONDS = 1.0
"""Most time that connecting may add to a cold start, when the endpoint does not answer."""

INITIALISATION_SECONDS = 2.0
"""Most time that all events captured during the initialisation may take; Lambda ends it after 10 s."""

FLUSH_POLICIES = ("end", "each", "after_response")

_cold = True
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

        def invocation(event: Any, context: Any, others: tuple[Any, ...]) -> _Invocation:
            if others and _is_context(others[0]) and not _is_context(context):
                event, context = context, others[0]  # the handler is a method
            scope = DeliveryScope("each" if flush == "each" else "end", time_limit(context))
            return _Invocation(
                event, context, client or default_client, scope, extension, capture_exceptions, idempotent
            )

        wrapped: Any
        if is_async(handler):

            async def wrapped(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with invocation(event, context, args):
                    return await handler(event, context, *args, **kwargs)

        else:

            def wrapped(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with invocation(event, context, args):
                    return handler(event, context, *args, **kwargs)

        # An object's own attributes are no business of the function that stands for it.
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


class _Invocation:
    """One call of a handler: its context and its delivery scope. Nothing in it raises."""

    def __init__(
        self,
        event: Any,
        context: Any,
        client: Leanbase,
        scope: DeliveryScope,
        extension: LambdaExtension | None,
        capture_exceptions: bool,
        idempotent: bool,
    ) -> None:
        self._event = event
        self._lambda_context = context
        self._client = client
        self._extension = extension
        self._capture_exceptions = capture_exceptions
        self._scope = scope
        self._entered = activate(scope)
        self._context = new_context(fresh=True)
        self._using_key = idempotency.using_key(self._work() if idempotent else idempotency.current())

    def __enter__(self) -> None:
        is_cold = _is_cold(self._lambda_context)
        if self._extension is not None:
            self._extension.begin()
        self._context.__enter__()
        self._entered.__enter__()
        self._using_key.__enter__()
        try:
            _tag_invocation(self._lambda_context, is_cold)
            tag_request(self._event)
        except Exception as error:
            logger.warning("the invocation could not be described: %s", type(error).__name__)

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            if self._capture_exceptions:
                self._client._capture_escaping(exc, "LAMBDA_HANDLER")
        finally:  # also when that was interrupted
            try:
                self._close(exc)
            finally:
                self._using_key.__exit__()
                self._entered.__exit__()
                self._context.__exit__(exc_type, exc, traceback)

    def _close(self, exc: BaseException | None) -> None:
        # Whoever exits, or is interrupted, leaves no process behind in which to send later.
        goes_on = exc is None or isinstance(exc, Exception)
        if self._extension is None or not self._defer(self._extension, goes_on):
            self._client._close_scope(self._scope)

    def _defer(self, extension: LambdaExtension, goes_on: bool) -> bool:
        """Leave the send to the extension; false when it will not do it."""
        self._scope.deferred = True
        request_id = _str_attr(self._lambda_context, "aws_request_id") if goes_on else None
        self._scope.deferred = extension.end(request_id, self._close_later)
        return self._scope.deferred

    def _close_later(self) -> None:
        with activate(self._scope):
            self._client._close_scope(self._scope)

    def _work(self) -> idempotency.IdempotentWork | None:
        """What this invocation may be done again as; a handler called by another is part of its work."""
        request_id = _str_attr(self._lambda_context, "aws_request_id")
        outer = idempotency.current()
        if outer is not None:
            return outer
        if request_id is None:
            _warn_of_no_request_id()
            return idempotency.IdempotentWork(uuid4(), None)  # the records in it have ids of their own
        try:
            timestamp = event_timestamp(self._event)
        except Exception:
            timestamp = None  # an event of a class of its own
        return idempotency.IdempotentWork(
            f"{_str_attr(self._lambda_context, 'function_name')}/{request_id}", timestamp
        )


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


def time_limit(context: Any) -> Deadline | None:
    """When an invocation must be through with sending; `None` if its context does not tell."""
    try:
        remaining = context.get_remaining_time_in_millis() / 1000
        return Deadline.after(remaining - min(RESERVE_SECONDS, remaining * RESERVE_SHARE))
    except Exception:
        return None  # called by a test, with some other context or none


@cache
def _warn_of_no_request_id() -> None:
    logger.warning(
        "idempotent=True needs a context with an aws_request_id: only events inside record_context() "
        "get the same ids again"
    )


def _is_context(argument: Any) -> bool:
    try:
        return hasattr(argument, "get_remaining_time_in_millis")
    except Exception:
        return False


def _is_cold(context: Any) -> bool:
    """Whether this is the first invocation of the sandbox, or inside it."""
    global _cold
    was_cold, _cold = _cold, False
    outer = get_tags()
    inside = outer.get("faas.invocation_id") == _str_attr(context, "aws_request_id")
    return was_cold or (inside and outer.get("faas.coldstart") is True)


def forget_invocations() -> None:
    """Be a sandbox that no invocation has seen yet."""
    global _cold
    _cold = True


def _tag_invocation(context: Any, is_cold: bool) -> None:
    tags = {
        "faas.name": _str_attr(context, "function_name"),
        "faas.version": _str_attr(context, "function_version"),
        "faas.invocation_id": _str_attr(context, "aws_request_id"),
        "faas.coldstart": is_cold,
        "cloud.provider": "aws",
        "cloud.region": os.environ.get("AWS_REGION"),
    }
    for name, value in tags.items():
        if value is not None:
            tag(name, value)


def _str_attr(context: Any, name: str) -> str | None:
    """An attribute of whatever was passed as the context, if it is a text."""
    try:
        value = getattr(context, name, None)
    except Exception:
        return None
    return value if isinstance(value, str) else None
