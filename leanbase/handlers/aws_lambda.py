"""The decorator for AWS Lambda handlers.

One invocation is: a context with the invocation's tags and the request's identity, around a delivery
scope whose deadline is the function's own, around the handler. Everything else here reads events.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import WRAPPER_ASSIGNMENTS, update_wrapper

from leanbase.client import Leanbase
from leanbase.contexts import identify_context, new_context, set_context_session, tag
from leanbase.default import default_client
from leanbase.delivery import Deadline, DeliveryScope, entered
from leanbase.tracing_headers import Headers, request_tags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar, overload

    from leanbase.delivery import FlushPolicy

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

_cold = True


if TYPE_CHECKING:

    @overload
    def lambda_handler(handler: Handler, /) -> Handler: ...
    @overload
    def lambda_handler(
        *,
        flush: FlushPolicy = "end",
        client: Leanbase | None = None,
        capture_exceptions: bool = True,
        preconnect: bool = True,
    ) -> Callable[[Handler], Handler]: ...


def lambda_handler(
    handler: Any = None,
    /,
    *,
    flush: FlushPolicy = "end",
    client: Leanbase | None = None,
    capture_exceptions: bool = True,
    preconnect: bool = True,
) -> Any:
    """Deliver the events of each invocation of a Lambda handler before its response is returned.

    Works on functions and callable objects such as `Mangum(app)`, above or below other decorators. An
    `async` function stays one, for whatever awaits it; the Lambda runtime itself does not. The handler's
    result and exceptions pass through unchanged.

    Inside, events carry the tags `faas.*` and `cloud.*`, and for HTTP events (API Gateway, Function URL,
    ALB) the request's tags and the caller's session and distinct id. Threads see that context, and are
    collected, when they carry it: `asyncio.to_thread` does, `contextvars.copy_context().run` makes them.

    Args:
        handler: The handler, when used without parentheses.
        flush: `"end"` sends all events of the invocation together, also when the handler raises;
            `"each"` sends inside every capture, for functions that may be killed half-way.
        client: Who captures the handler's exceptions, and whose retained events are sent as well. Default:
            the default client.
        capture_exceptions: Whether an exception that leaves the handler is captured. Its event leaves
            with the others of the invocation, and Lambda sees the same exception as without.
        preconnect: Open a connection while the function initialises, at most 1 s. Only in the Lambda
            runtime.

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
        if _is_generator(handler):
            raise TypeError("lambda_handler decorates a handler that returns its result, not a generator")
        _initialise(client or default_client, preconnect)
        wrapped: Any
        if _is_async(handler):

            async def wrapped(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with _Invocation(event, context, client or default_client, flush, capture_exceptions):
                    return await handler(event, context, *args, **kwargs)

        else:

            def wrapped(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                with _Invocation(event, context, client or default_client, flush, capture_exceptions):
                    return handler(event, context, *args, **kwargs)

        # An object's own attributes are no business of the function that stands for it.
        is_function = hasattr(handler, "__code__")
        return update_wrapper(wrapped, handler, WRAPPER_ASSIGNMENTS, ("__dict__",) if is_function else ())

    DeliveryScope(flush)  # a wrong policy is found here, at decoration
    if client is not None and not isinstance(client, Leanbase):
        raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
    return decorate if handler is None else decorate(handler)


class _Invocation:
    """One call of a handler: its context and its delivery scope. Nothing in it raises."""

    def __init__(
        self, event: Any, context: Any, client: Leanbase, flush: FlushPolicy, capture_exceptions: bool
    ) -> None:
        self._event = event
        self._lambda_context = context
        self._client = client
        self._capture_exceptions = capture_exceptions
        self._scope = DeliveryScope(flush, time_limit(context))
        self._entered = entered(self._scope)
        self._context = new_context(fresh=True)

    def __enter__(self) -> None:
        self._context.__enter__()
        self._entered.__enter__()
        try:
            _tag_invocation(self._lambda_context)
            _tag_request(self._event)
        except Exception as error:
            logger.warning("the invocation could not be described: %s", type(error).__name__)

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            if self._capture_exceptions:
                self._client.exception_leaves(exc, "LAMBDA_HANDLER")
            self._client.close_scope(self._scope)
        finally:
            self._entered.__exit__()
            self._context.__exit__(exc_type, exc, traceback)


def _initialise(client: Leanbase, preconnect: bool) -> None:
    """Use the initialisation phase, which has a full CPU, for what the first send would wait for."""
    if "AWS_LAMBDA_RUNTIME_API" not in os.environ:
        return  # imported by a test or a tool
    # A snapshot would keep the connection and not the peer.
    snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
    client.warm_up(WARM_UP_SECONDS if preconnect and not snapshot else 0.0)


def time_limit(context: Any) -> Deadline | None:
    """When an invocation must be through with sending; `None` if its context does not tell."""
    try:
        remaining = context.get_remaining_time_in_millis() / 1000
        return Deadline.after(remaining - min(RESERVE_SECONDS, remaining * RESERVE_SHARE))
    except Exception:
        return None  # called by a test, with some other context or none


def _tag_invocation(context: Any) -> None:
    global _cold
    tags = {
        "faas.name": getattr(context, "function_name", None),
        "faas.version": getattr(context, "function_version", None),
        "faas.invocation_id": getattr(context, "aws_request_id", None),
        "faas.coldstart": _cold,
        "cloud.provider": "aws",
        "cloud.region": os.environ.get("AWS_REGION"),
    }
    _cold = False
    for name, value in tags.items():
        if value is not None:
            tag(name, value)


def _tag_request(event: Any) -> None:
    """Take identity and request tags from an HTTP event; other events have none."""
    # Powertools' @event_source wraps the event; the raw one is inside.
    event = getattr(event, "raw_event", event)
    if not isinstance(event, Mapping):
        return
    headers = Headers.of(event.get("headers"), event.get("multiValueHeaders"))
    if headers.distinct_id:
        identify_context(headers.distinct_id)
    if headers.session_id:
        set_context_session(headers.session_id)
    request = _request_line(event)
    if request is not None:
        method, path, url_path, query = request
        url = _url(event, headers, url_path, query)
        for name, value in request_tags(headers, url=url, method=method, path=path).items():
            tag(name, value)


def _request_line(event: Mapping[str, Any]) -> tuple[str | None, str | None, str | None, str] | None:
    """Method, path, path in the URL, and query of an HTTP event; `None` for any other event."""
    context = event.get("requestContext")
    context = context if isinstance(context, Mapping) else {}
    http = context.get("http")
    if isinstance(http, Mapping):  # HTTP API with payload 2.0, Function URL
        path = _text(event.get("rawPath"))
        return _text(http.get("method")), path, path, _text(event.get("rawQueryString")) or ""
    if "httpMethod" in event:  # REST API, HTTP API with payload 1.0, ALB
        path = _text(event.get("path"))
        # On its default domain a REST API's URL also has the stage, which only the context knows.
        return _text(event.get("httpMethod")), path, _text(context.get("path")) or path, _query(event)
    return None


def _query(event: Mapping[str, Any]) -> str:
    from urllib.parse import quote_plus

    parameters = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters")
    if not isinstance(parameters, Mapping):
        return ""
    # An ALB passes parameters on as they were in the URL, API Gateway decodes them.
    context = event.get("requestContext")
    encoded = isinstance(context, Mapping) and "elb" in context
    pairs = [
        (str(name), str(value))
        for name, values in parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return "&".join(f"{n}={v}" if encoded else f"{quote_plus(n)}={quote_plus(v)}" for n, v in pairs)


def _url(event: Mapping[str, Any], headers: Headers, path: str | None, query: str) -> str | None:
    context = event.get("requestContext")
    domain = context.get("domainName") if isinstance(context, Mapping) else None
    host = headers.get("host") or _text(domain)
    if not host or not path:
        return None
    scheme = headers.get("x-forwarded-proto") or "https"
    return f"{scheme}://{host}{path}{'?' + query if query else ''}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_generator(handler: Any) -> bool:
    from inspect import isasyncgenfunction, isgeneratorfunction  # slow to import

    return isgeneratorfunction(handler) or isasyncgenfunction(handler)


def _is_async(handler: Any) -> bool:
    from inspect import iscoroutinefunction  # slow to import

    return iscoroutinefunction(handler) or iscoroutinefunction(type(handler).__call__)
