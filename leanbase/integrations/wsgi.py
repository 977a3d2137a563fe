"""WSGI: a middleware for any application, and helpers for other integrations.

Example:
    app = LeanbaseMiddleware(app)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
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
from ..handlers.web_request import FAILED_STATUS, REQUEST_KEY, RequestOptions, WebRequest, attempt

if TYPE_CHECKING:
    from ..client import Leanbase
    from ..handlers.web_request import Description, RequestFlushPolicy

LAMBDA_EVENTS = ("apig_wsgi.full_event", "awsgi.event", "serverless.event")
"""Keys of the environ under which adapters from Lambda to WSGI store the event."""


class LeanbaseMiddleware:
    """Gives each request a context with its identity and tags, and sends its events together.

    Exceptions that leave the application are captured and raised unchanged. Events that are captured while
    the body is produced belong to the request too. "After the response" means in `close()` of the body.

    Each send blocks the request, at most `send_deadline` seconds. It does not block if events are sent after
    the response and the server uses threads.

    Args:
        app: The application.
        client: Captures exceptions. Its retained events are sent as well. Default: the default client.
        flush: When events are sent: `"before_response"`, `"after_response"`, `"each"` (inside every capture)
            or `"auto"` (before the response if the platform may freeze the process afterwards, else after).
        capture_exceptions: Whether exceptions that leave the application are captured.
        request_filter: Called with the environ. A false result means that the request is not tracked.
        extra_tags: Called with the environ. Returns additional tags, or `None`.
        tag_map: Called with the dict of all tags. Returns the dict to use. If it raises, there are no tags.

    Raises:
        ConfigError: `flush` is not one of these values.
        TypeError: `client` is not a client.

    Examples:
        >>> def app(environ, start_response):
        ...     start_response("200 OK", [("Content-Type", "text/plain")])
        ...     return [b"thanks"]
        >>> app = LeanbaseMiddleware(app)
    """

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        *,
        client: Leanbase | None = None,
        flush: RequestFlushPolicy = "auto",
        capture_exceptions: bool = True,
        request_filter: Callable[[dict[str, Any]], object] | None = None,
        extra_tags: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
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

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Call the application inside the context and scope of a request."""
        __tracebackhide__ = True
        if not self._options.track(environ):
            return self._app(environ, start_response)
        return track(self._app, self._options, environ, start_response, partial(describe, environ), environ)


def track(
    app: Callable[..., Iterable[bytes]],
    options: RequestOptions,
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    describe: Callable[[], Description],
    request: Any,
) -> Iterable[bytes]:
    """Call a WSGI application inside the context and scope of a request."""
    __tracebackhide__ = True
    outer = environ.get(REQUEST_KEY)
    tracked = WebRequest(
        options,
        "WSGI",
        describe,
        request,
        outer=outer,
        is_concurrent=bool(environ.get("wsgi.multithread")),
    )
    environ[REQUEST_KEY] = tracked

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        tracked.status = int(status[:3]) if status[:3].isdecimal() else None
        if tracked.sends_before_response:
            tracked.expect_bytes(next((v for k, v in headers if k.lower() == "content-length"), None))
        if exc_info and tracked.status is not None and tracked.status >= FAILED_STATUS:
            tracked.capture(exc_info[1], "WSGI_EXCEPTION_HANDLER")
        return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

    try:
        with tracked:
            try:
                body = app(environ, start)
            except Exception:
                tracked.status = None  # the server sends another response instead
                raise
    except BaseException:
        tracked.finish()
        raise
    finally:
        if outer is None:
            environ.pop(REQUEST_KEY, None)  # avoids a reference cycle
        else:
            environ[REQUEST_KEY] = outer
    if tracked.is_nested and isinstance(body, (list, tuple)):
        return body
    if tracked.sends_before_response and (isinstance(body, (list, tuple)) or _is_file(body, environ)):
        tracked.finish()  # nothing more will be captured
        return body
    if isinstance(body, (list, tuple)):
        return _Parts(tracked, body)
    if _is_file(body, environ) and _finishes_on_close(body, tracked):
        return body  # not wrapped: the server may have a faster way to send a file
    return _Body(tracked, body)


class _Parts:
    """A body that is already produced. It has a length: servers derive `Content-Length` from one part."""

    def __init__(self, tracked: WebRequest, body: Sequence[bytes]) -> None:
        self._tracked = tracked
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def __len__(self) -> int:
        return len(self._body)

    def close(self) -> None:
        """Finish the request, so that its events are sent."""
        self._tracked.finish()


class _Body:
    """The application's body, produced inside the request. Closing it finishes the request."""

    def __init__(self, tracked: WebRequest, body: Any) -> None:
        self._tracked = tracked
        self._body = body
        self._parts = tracked.parts(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        __tracebackhide__ = True
        part: bytes = next(self._parts)
        return part

    def close(self) -> None:
        """Close the application's body and finish the request, so that its events are sent."""
        __tracebackhide__ = True
        tracked = self._tracked
        try:
            if hasattr(self._body, "close"):
                tracked.call_resumed(self._body.close)  # not captured: the server logs this error
        finally:
            tracked.finish()


def _is_file(body: Any, environ: dict[str, Any]) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _finishes_on_close(body: Any, tracked: WebRequest) -> bool:
    """Make `close()` of a file body finish the request. Return False if the body has fixed attributes."""
    close = getattr(body, "close", None)

    def finish() -> None:
        try:
            if close is not None:
                close()
        finally:
            tracked.finish()

    try:
        body.close = finish
        return True
    except AttributeError:
        return False


def lambda_event(environ: Mapping[str, Any]) -> object:
    """Return the Lambda event behind a request, or `None`."""
    return next((environ[name] for name in LAMBDA_EVENTS if name in environ), None)


def describe(environ: dict[str, Any]) -> Description:
    """Return the headers and tags of a request."""
    headers = Headers((name, value) for name, value in environ.items() if name.startswith("HTTP_"))
    script, path = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
    raw = (script + path).encode("latin-1", "replace")
    tags = request_tags(
        headers,
        url=attempt("URL", lambda: _url(environ, headers, raw)),
        method=environ.get("REQUEST_METHOD"),
        path=raw.decode("utf-8", "replace"),
        ip=client_ip(headers, environ.get("REMOTE_ADDR"), lambda_event(environ)),
    )
    return headers, dict(tags), None


def _url(environ: dict[str, Any], headers: Headers, path: bytes) -> str:
    scheme = forwarded_scheme(headers) or environ.get("wsgi.url_scheme", "http")
    host = without_user(headers.get("host"))
    host = host or environ["SERVER_NAME"] + _port(scheme, environ.get("SERVER_PORT"))
    query = environ.get("QUERY_STRING")
    url = f"{scheme}://{host}{quote(path, safe=SAFE_IN_PATH)}"
    return url_with_query(url, query.encode("latin-1", "replace").decode("utf-8", "replace") if query else "")


def _port(scheme: str, port: Any) -> str:
    return "" if str(port) in ("None", "", "443" if scheme == "https" else "80") else f":{port}"
