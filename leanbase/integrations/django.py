"""Django: a middleware for synchronous and asynchronous applications.

Example:
    MIDDLEWARE = [
        ...,
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "leanbase.integrations.django.LeanbaseContextMiddleware",
    ]
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django import conf
from django.core.signals import got_request_exception, request_finished
from django.utils.functional import empty

from ..client import Leanbase
from ..events.request_headers import Headers, request_tags, url_with_query
from ..handlers.aws_lambda.events import client_ip
from ..handlers.web_request import FAILED_STATUS, REQUEST_KEY, RequestOptions, WebRequest, attempt
from .wsgi import lambda_event

if TYPE_CHECKING:
    from ..handlers.web_request import Description

logger = logging.getLogger("leanbase")

ATTRIBUTE = "_leanbase_request"
"""The attribute of an `HttpRequest` that holds its `DjangoRequest`."""

_current: ContextVar[DjangoRequest | None] = ContextVar("leanbase_django_request", default=None)
"""The request that this thread handles."""

_latest: LeanbaseContextMiddleware | None = None
"""The latest middleware. It also tracks requests for which an earlier middleware raised."""


class LeanbaseContextMiddleware:
    """Gives each request a context with its identity and tags, and sends its events together.

    The identity is the id that the web SDK sent, or else the primary key of the authenticated user. In
    synchronous mode, the middleware reads the user when the first event of a request needs it. In
    asynchronous mode, it reads the user at the start, if the request has a session cookie or an
    `Authorization` header. This does not make a page vary by cookie.

    Each exception for which Django responds with status 500 is captured once. An exception that the
    application itself turned into a response of 500 or above is captured as handled. Under uvicorn, which
    ends without exit hooks, the middleware handles SIGTERM and sends all pending events first.

    An event loop is never blocked. In synchronous mode, each send blocks the request, at most `send_deadline`
    seconds. It does not block if events are sent after the response and the server uses threads.

    Put the middleware after Django's authentication. Its settings are read once, when Django starts:

    * `LEANBASE_MW_CAPTURE_EXCEPTIONS` (`True`): whether exceptions are captured.
    * `LEANBASE_MW_CLIENT`: captures exceptions. Its retained events are sent as well. Default: the default
      client.
    * `LEANBASE_MW_REQUEST_FILTER`: called with the request. A false result means that it is not tracked.
    * `LEANBASE_MW_EXTRA_TAGS`: called with the request. Returns additional tags, or `None`.
    * `LEANBASE_MW_TAG_MAP`: called with the dict of all tags. Returns the dict to use. If it raises, there
      are no tags.
    * `LEANBASE_MW_FLUSH` (`"auto"`): when events are sent: `"before_response"`, `"after_response"`, `"each"`
      (inside every capture) or `"auto"` (before the response if the platform may freeze the process
      afterwards, else after).

    Raises:
        ConfigError: `LEANBASE_MW_FLUSH` is not one of these strings.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        global _latest
        self.get_response = get_response
        self.options = _options()
        self.options.handle_sigterm()  # Django does not support ASGI's lifespan
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        else:
            # In asynchronous mode, Django would call it in a thread each time.
            self.process_view = self._process_view
        got_request_exception.connect(_on_exception, dispatch_uid=__name__)
        request_finished.connect(_on_finish, dispatch_uid=__name__)
        _latest = self

    def __call__(self, request: Any) -> Any:
        """Return the response to a request."""
        __tracebackhide__ = True
        if self._is_async:
            return self._answer_async(request)
        if not self.options.track(request):
            return self.get_response(request)
        tracked = DjangoRequest(self.options, request)
        _current.set(tracked)
        try:
            with tracked:
                response = self.get_response(request)
                tracked.responded(response)
        except BaseException:
            tracked.finish()
            raise
        if tracked.sends_before_response and not tracked.streams(response):
            tracked.finish()
        else:
            tracked.follow(response)
        return response

    async def _answer_async(self, request: Any) -> Any:
        __tracebackhide__ = True
        if not self.options.track(request):
            return await self.get_response(request)
        tracked = DjangoRequest(self.options, request, is_async=True)
        task = asyncio.current_task()
        if task is not None:
            # If an outer middleware returns another response, nobody closes this one.
            task.add_done_callback(lambda _: tracked.finish_later())
        if _has_credentials(request):
            tracked.user = await _authenticated(request)
        try:
            with tracked:
                response = await self.get_response(request)
                tracked.responded(response)
        except BaseException:
            await tracked.finish_in_thread()
            raise
        if tracked.sends_before_response and not tracked.streams(response):
            await tracked.finish_in_thread()
        else:
            tracked.follow(response)
        return response

    def process_exception(self, request: Any, exception: BaseException) -> None:
        """Store the exception of a view: the application may still respond to it."""
        tracked = getattr(request, ATTRIBUTE, None)
        if tracked is not None:
            tracked.error = exception

    def _process_view(self, request: Any, view: Any, args: Any, kwargs: Any) -> None:
        """Read the user before an asynchronous view, because Django forbids it inside the view."""
        tracked = getattr(request, ATTRIBUTE, None)
        if tracked is not None and iscoroutinefunction(view) and _has_credentials(request):
            tracked.user = _user(request)


class DjangoRequest(WebRequest):
    """A request that Django handles.

    Attributes:
        user: Primary key and e-mail address of the user, if they are already read.
        error: An exception of the view, to which a middleware may still respond.
    """

    def __init__(self, options: RequestOptions, request: Any, *, is_async: bool = False) -> None:
        environ = getattr(request, "environ", None)
        around = environ if environ is not None else getattr(request, "scope", {})
        self.user: tuple[str, str | None] | None = None
        self.error: BaseException | None = None
        self._is_async = is_async
        super().__init__(
            options,
            "DJANGO",
            partial(self._describe, request),
            request,
            outer=around.get(REQUEST_KEY),
            is_concurrent=environ is None or bool(environ.get("wsgi.multithread")),
            is_async=environ is None,
        )
        setattr(request, ATTRIBUTE, self)

    def responded(self, response: Any) -> None:
        """Capture the exception of the view if the application turned it into a response of 500 or above."""
        self.status = response.status_code
        error, self.error = self.error, None
        if error is not None and response.status_code >= FAILED_STATUS:
            self.capture(error, "DJANGO_EXCEPTION_HANDLER")

    def failed(self, error: BaseException) -> None:
        """Capture an exception for which Django responds with 500, raised here or in an outer middleware."""
        if self.is_inside:
            self.capture(error)
        else:
            self.status = None
            with self.resumed():
                self.capture(error)
            self.finish_later()  # no response will finish it

    def streams(self, response: Any) -> bool:
        """Return True if the application still has to produce the body of a response."""
        return response.streaming and getattr(response, "file_to_stream", None) is None

    def follow(self, response: Any) -> None:
        """Produce the body of a response inside the request, and finish the request at its close."""
        closers = response._resource_closers
        closers[:] = [*(partial(self.call_resumed, close) for close in closers), self.finish]
        if self.streams(response):
            if self.sends_before_response:
                self.expect_bytes(response.headers.get("Content-Length"))
            body = response.streaming_content
            response.streaming_content = self.async_parts(body) if response.is_async else self.parts(body)

    def _describe(self, request: Any) -> Description:
        headers = Headers(request.headers.items())
        url = attempt("URL", request.build_absolute_uri)
        if url:
            path, _, query = url.partition("?")
            url = url_with_query(path, query)
        tags: dict[str, Any] = {}
        user = self.user
        if user is None and not self._is_async:
            user = _user(request)
        if user is not None and user[1]:
            tags["email"] = user[1]
        event = getattr(request, "scope", {}).get("aws.event") or lambda_event(request.META)
        ip = client_ip(headers, request.META.get("REMOTE_ADDR"), event)
        tags.update(request_tags(headers, url=url, method=request.method, path=request.path, ip=ip))
        match = request.resolver_match
        if match is not None and isinstance(match.route, str):
            tags["$request_route"] = match.route if match.route.startswith("^") else f"/{match.route}"
        return headers, tags, None if user is None else user[0]


def _on_exception(request: Any = None, **_: Any) -> None:
    """Capture an exception for which Django is about to respond with status 500."""
    error = sys.exc_info()[1]
    if error is None or request is None:
        return
    tracked = getattr(request, ATTRIBUTE, None)
    if tracked is not None:
        tracked.failed(error)
    elif _latest is not None and _latest.options.track(request):
        # A middleware before this one raised.
        tracked = DjangoRequest(_latest.options, request)
        with tracked:
            tracked.capture(error)
        tracked.finish_later()


def _on_finish(**_: Any) -> None:
    """Finish the request of this thread if its response was discarded."""
    tracked = _current.get()
    if tracked is not None and not tracked.is_inside:  # else a view has requested another page
        _current.set(None)
        tracked.finish()


# --- the user -----------------------------------------------------------------------------------------


def _has_credentials(request: Any) -> bool:
    return conf.settings.SESSION_COOKIE_NAME in request.COOKIES or "HTTP_AUTHORIZATION" in request.META


def _user(request: Any) -> tuple[str, str | None] | None:
    """Return primary key and e-mail address of the authenticated user. May cost a database query."""
    session: Any = getattr(request, "session", None)
    untouched = session is not None and not session.accessed
    user = None
    try:
        user = getattr(request, "user", None)
        found = _identity(user)
    except Exception:  # a backend that fails, or a view on an event loop, where Django forbids queries
        found = None
    if untouched and session.accessed:
        # Only a read by the view makes the page depend on the user.
        state = getattr(user, "__dict__", {})
        value = state.get("_wrapped", state)
        if "_setupfunc" in state:
            session.accessed = False
            if value is not empty:

                def read_again() -> Any:
                    session.accessed = True
                    return value

                state.update(_setupfunc=read_again, _wrapped=empty)
    return found


async def _authenticated(request: Any) -> tuple[str, str | None] | None:
    """Return the same as `_user`, on an event loop."""
    read: Any = getattr(request, "auser", None)
    session: Any = getattr(request, "session", None)
    untouched = session is not None and not session.accessed
    try:
        found = _identity(await read()) if read is not None else None
    except Exception:
        found = None
    if untouched and session.accessed:
        session.accessed = False

        async def read_again() -> Any:
            session.accessed = True
            return await read()

        request.auser = read_again
    return found


def _identity(user: Any) -> tuple[str, str | None] | None:
    authenticated = getattr(user, "is_authenticated", False)
    key = getattr(user, "pk", None)
    if not (authenticated() if callable(authenticated) else authenticated) or key is None:
        return None
    email = getattr(user, "email", None)
    return str(key), email if isinstance(email, str) and email else None


# --- the settings -------------------------------------------------------------------------------------


def _options() -> RequestOptions:
    """Return the options from Django's settings. Settings of a wrong type are ignored."""

    def setting(name: str, fits: Callable[[Any], bool], default: Any = None) -> Any:
        value = getattr(conf.settings, f"LEANBASE_MW_{name}", default)
        if fits(value) or value is default:
            return value
        kind = type(value).__name__
        logger.warning("LEANBASE_MW_%s is ignored: its value has the wrong type, %s", name, kind)
        return default

    return RequestOptions(
        client=setting("CLIENT", lambda value: isinstance(value, Leanbase)),
        flush=setting("FLUSH", lambda value: isinstance(value, str), "auto"),
        capture_exceptions=setting("CAPTURE_EXCEPTIONS", lambda value: isinstance(value, bool), True),
        request_filter=setting("REQUEST_FILTER", callable),
        extra_tags=setting("EXTRA_TAGS", callable),
        tag_map=setting("TAG_MAP", callable),
    )
