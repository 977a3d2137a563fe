"""Flask: an extension that tracks the requests of an application.

Example:
    LeanbaseFlask(app)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, got_request_exception, has_request_context, request

from ..events.proxies import target
from ..handlers.web_request import REQUEST_KEY, RequestOptions, WebRequest
from . import wsgi

if TYPE_CHECKING:
    from ..client import Leanbase
    from ..handlers.web_request import Description, RequestFlushPolicy


class LeanbaseFlask:
    """Gives each request of a Flask application a context with its identity and tags, and sends its events.

    Exceptions for which Flask responds with status 500 are captured, each once. The extension does the same
    as the WSGI middleware. It adds the rule of the URL, and the exception that caused a response.

    Each send blocks the request, at most `send_deadline` seconds. It does not block if events are sent after
    the response and the server uses threads.

    Args:
        app: The application. Without it, call `init_app` later.
        client: Captures exceptions. Its retained events are sent as well. Default: the default client.
        flush: When events are sent: `"before_response"`, `"after_response"`, `"each"` (inside every capture)
            or `"auto"` (before the response if the platform may freeze the process afterwards, else after).
        capture_exceptions: Whether exceptions are captured.
        request_filter: Called with the `flask.Request`. A false result means that the request is not tracked.
        extra_tags: Called with the `flask.Request`. Returns additional tags, or `None`.
        tag_map: Called with the dict of all tags. Returns the dict to use. If it raises, there are no tags.

    Raises:
        ConfigError: `flush` is not one of these values.
        TypeError: `client` is not a client.

    Examples:
        >>> LeanbaseFlask(flush="after_response")  # doctest: +ELLIPSIS
        <leanbase.integrations.flask.LeanbaseFlask object at ...>
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        client: Leanbase | None = None,
        flush: RequestFlushPolicy = "auto",
        capture_exceptions: bool = True,
        request_filter: Callable[[Request], object] | None = None,
        extra_tags: Callable[[Request], dict[str, Any] | None] | None = None,
        tag_map: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._options = RequestOptions(
            client=client,
            flush=flush,
            capture_exceptions=capture_exceptions,
            request_filter=_with_request(request_filter),
            extra_tags=_with_request(extra_tags),
            tag_map=tag_map,
        )
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Track the requests of an application. A second call for the same application has no effect.

        Also accepts `flask.current_app`, while an application's context is active.
        """
        app = target(app)
        if app.extensions.setdefault("leanbase", self) is self and not isinstance(app.wsgi_app, _Tracked):
            app.wsgi_app = _Tracked(app, self._options)  # type: ignore[method-assign]
            got_request_exception.connect(_capture, app)


class _Tracked:
    """Wraps an application's `wsgi_app`, to track its requests."""

    def __init__(self, app: Flask, options: RequestOptions) -> None:
        self._app = app
        self._wsgi_app = app.wsgi_app
        self._options = options

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        __tracebackhide__ = True
        make = partial(_made, self._app, environ)
        if not self._options.track(make):
            return self._wsgi_app(environ, start_response)
        return wsgi.track(
            self._wsgi_app, self._options, environ, start_response, partial(_describe, environ), make
        )


def _made(app: Flask, environ: dict[str, Any]) -> Request:
    """Create a second request object of the application's class. It cannot read the body."""
    before = environ.get("werkzeug.request")
    made = app.request_class(environ)
    made.shallow = True  # if this read the body, the view could not
    if before is None:
        environ.pop("werkzeug.request", None)
    else:
        environ["werkzeug.request"] = before
    return made


def _capture(_sender: Flask, exception: BaseException, **_: Any) -> None:
    """Capture an exception for which Flask responds with status 500."""
    tracked = request.environ.get(REQUEST_KEY)
    if isinstance(tracked, WebRequest):
        tracked.capture(exception, "FLASK")


def _with_request(function: Any) -> Any:
    """Wrap a user's function, so that it receives Flask's current request, or else a new one.

    The current request knows its endpoint.
    """
    if not callable(function):
        return function
    current: Any = request

    def call(make: Callable[[], Request]) -> Any:
        return function(current._get_current_object() if has_request_context() else make())

    return call


def _describe(environ: dict[str, Any]) -> Description:
    headers, tags, user_id = wsgi.describe(environ)
    if has_request_context() and request.url_rule is not None:
        tags["$request_route"] = request.url_rule.rule
    return headers, tags, user_id
