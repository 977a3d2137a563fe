"""ASGI: a middleware for FastAPI, Starlette, Quart, and any other application.

Example:
    app.add_middleware(LeanbaseMiddleware)
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from ..events.request_headers import (
    SAFE_IN_PATH,
    Headers,
    forwarded_scheme,
    request_tags,
    url_with_query,
    without_user,
)
from ..handlers.aws_lambda.events import client_ip
from ..handlers.aws_lambda.invocation import time_limit
from ..handlers.web_request import (
    FAILED_STATUS,
    REQUEST_KEY,
    RequestOptions,
    WebRequest,
    attempt,
    send_everything,
)

if TYPE_CHECKING:
    from types import FrameType

    from ..client import Leanbase
    from ..handlers.web_request import Description, RequestFlushPolicy

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class LeanbaseMiddleware:
    """Gives each request a context with its identity and tags, and sends its events together.

    A thread sends the events, so the event loop is never blocked. Exceptions that leave the application are
    captured and raised unchanged. Exceptions that an exception handler of Starlette or FastAPI turns into a
    response of 500 or above are captured too. Events of background tasks belong to the request.

    A WebSocket has its own context and delivery scope. Its events are sent at intervals and when it closes.
    When the server shuts the application down, all pending events are sent first.

    Args:
        app: The application.
        client: Captures exceptions. Its retained events are sent as well. Default: the default client.
        flush: When events are sent: `"before_response"`, `"after_response"`, `"each"` (with every capture) or
            `"auto"` (before the last part of the response if the platform may freeze the process afterwards,
            else after it).
        capture_exceptions: Whether exceptions that leave the application are captured.
        request_filter: Called with the ASGI scope. A false result means that the request is not tracked.
        extra_tags: Called with the ASGI scope. Returns additional tags, or `None`.
        tag_map: Called with the dict of all tags. Returns the dict to use. If it raises, there are no tags.

    Raises:
        ConfigError: `flush` is not one of these values.
        TypeError: `client` is not a client.

    Examples:
        >>> async def app(scope, receive, send): ...
        >>> app = LeanbaseMiddleware(app, flush="after_response")
    """

    def __init__(
        self,
        app: Application,
        *,
        client: Leanbase | None = None,
        flush: RequestFlushPolicy = "auto",
        capture_exceptions: bool = True,
        request_filter: Callable[[Scope], object] | None = None,
        extra_tags: Callable[[Scope], dict[str, Any] | None] | None = None,
        tag_map: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._app = app
        self._options = RequestOptions(
            client=client,
            flush=flush,
            capture_exceptions=capture_exceptions,
            request_filter=request_filter,
            extra_tags=extra_tags,
            tag_map=tag_map,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application inside the context and scope of a request."""
        __tracebackhide__ = True
        if scope["type"] == "lifespan":
            self._options.skip_sigterm()
            return await self._app(scope, receive, partial(self._send_of_lifespan, send))
        if scope["type"] not in ("http", "websocket") or not self._options.track(scope):
            return await self._app(scope, receive, send)
        self._options.handle_sigterm()  # no effect if the server sent a lifespan
        outer = scope.get(REQUEST_KEY)
        tracked = _Request(self._options, scope, outer)
        scope[REQUEST_KEY] = tracked
        response = _Response(tracked, scope, send)
        try:
            with tracked:
                await self._app(scope, receive, response.send if scope["type"] == "http" else send)
        finally:
            if outer is None:
                scope.pop(REQUEST_KEY, None)  # avoids a reference cycle
            else:
                scope[REQUEST_KEY] = outer
            await tracked.finish_in_thread()

    async def _send_of_lifespan(self, send: Send, message: Message) -> None:
        """Pass a message on. If it reports the end of the shutdown, send all pending events first.

        uvicorn raises the signal that stopped it again, which ends the process without exit hooks.
        """
        if message["type"].startswith("lifespan.shutdown"):
            await send_everything(self._options.client)
        await send(message)


class _Request(WebRequest):
    """A request or a WebSocket."""

    def __init__(self, options: RequestOptions, scope: Scope, outer: object) -> None:
        super().__init__(
            options,
            "ASGI",
            # Read these values now: frameworks change them in the ASGI scope later.
            partial(
                _describe, scope, scope.get("raw_path"), scope.get("path", ""), scope.get("root_path", "")
            ),
            scope,
            outer=outer,
            is_async=True,
            is_long=scope["type"] == "websocket",
            deadline=time_limit(scope["aws.context"]) if "aws.context" in scope else None,
        )
        self.hang_up: BaseException | None = None

    def is_hang_up(self, error: BaseException) -> bool:
        """Return True if an exception means that the HTTP client has disconnected."""
        if self.hang_up is not None and self.hang_up in (error, error.__context__, error.__cause__):
            return True
        return super().is_hang_up(error)


class _Response:
    """Passes the messages of a response to the server."""

    def __init__(self, tracked: _Request, scope: Scope, send: Send) -> None:
        self._tracked = tracked
        self._scope = scope
        self._send = send
        self._has_trailers = False
        self._outer_error = sys.exc_info()[1]  # the exception that the caller is handling

    async def send(self, message: Message) -> None:
        """Pass a message on. Send the request's events before or after the last message."""
        tracked, kind = self._tracked, message["type"]
        if kind == "http.response.start":
            tracked.status = message["status"]
            self._has_trailers = bool(message.get("trailers"))
            if message["status"] >= FAILED_STATUS:
                self._capture_handled()
        is_last = self._is_last(kind, message)
        if is_last and tracked.sends_before_response:
            await tracked.send_in_thread()
        try:
            await self._send(message)
        except OSError as error:
            tracked.hang_up = error
            raise
        if is_last and not tracked.sends_before_response:
            tracked.send_later()

    def _is_last(self, kind: str, message: Message) -> bool:
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        if kind == "http.response.body":
            return not message.get("more_body") and not self._has_trailers
        return kind == "http.response.pathsend"

    def _capture_handled(self) -> None:
        """Capture the exception to which an exception handler responds."""
        error = sys.exc_info()[1]
        if error is not None and error is not self._outer_error:
            self._tracked.capture(error, None if _is_raised_again() else self._handler())

    def _handler(self) -> str:
        app = type(self._scope.get("app"))
        is_fastapi = any(each.__module__.startswith("fastapi") for each in app.__mro__)
        return "FASTAPI_EXCEPTION_HANDLER" if is_fastapi else "ASGI_EXCEPTION_HANDLER"


def _is_raised_again() -> bool:
    """Return True if Starlette itself responds with 500: it then raises the exception again."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not LeanbaseMiddleware.__call__.__code__:
        if frame.f_globals.get("__name__") == "starlette.middleware.errors":
            return frame.f_code.co_name == "__call__"  # its `_send` passes on other code's messages
        frame = frame.f_back
    return False


def _describe(scope: Scope, raw_path: bytes | None, path: str, root_path: str) -> Description:
    headers = Headers(scope.get("headers", ()))
    client = scope.get("client")
    tags: dict[str, Any] = dict(
        request_tags(
            headers,
            url=attempt("URL", lambda: _url(scope, headers, raw_path, path)),
            method=scope.get("method"),
            path=path,
            ip=client_ip(headers, client[0] if client else None, scope.get("aws.event")),
        )
    )
    route = attempt("route", lambda: _route(scope, root_path))
    if route:
        tags["$request_route"] = route
    return headers, tags, None


def _url(scope: Scope, headers: Headers, raw_path: bytes | None, path: str) -> str | None:
    scheme = forwarded_scheme(headers) or scope.get("scheme", "http")
    host = without_user(headers.get("host"))
    if host is None:
        server = scope.get("server")
        if not server or "/" in server[0]:  # unknown, or the path of a Unix socket
            return None
        name, port = server
        host = name if port in (None, DEFAULT_PORTS.get(scheme)) else f"{name}:{port}"
    # Some servers include the query in the raw path.
    quoted = raw_path.partition(b"?")[0].decode("latin-1") if raw_path else quote(path, safe=SAFE_IN_PATH)
    return url_with_query(f"{scheme}://{host}{quoted}", scope.get("query_string", b"").decode("latin-1"))


def _route(scope: Scope, root_path: str) -> str | None:
    """Return the template of the route that Starlette or FastAPI stored in the ASGI scope."""
    route = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(template, str):
        return None
    mounted = str(scope.get("root_path", "")).removeprefix(root_path)
    return template if mounted.startswith(template) else mounted + template
