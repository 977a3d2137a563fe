"""The cost that each middleware adds to an empty request, without a server.

Each function returns a function that handles one request. The request has the headers of a browser, and
captures nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

HEADERS = {
    "host": "shop.example.com",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "text/html,application/xhtml+xml",
    "accept-language": "en",
    "accept-encoding": "gzip, deflate, br",
    "cookie": "csrftoken=abcdef",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
}
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/checkout",
    "QUERY_STRING": "step=2",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()},
}
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/checkout",
    "raw_path": b"/checkout",
    "root_path": "",
    "query_string": b"step=2",
    "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}
START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"ok"}


# --- the three kinds of applications, and how a server calls them --------------------------------------


def wsgi_application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def call_wsgi(app: Any) -> Callable[[], None]:
    def call() -> None:
        body = app(dict(ENVIRON), lambda status, headers, exc_info=None: None)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()

    return call


async def asgi_application(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


def call_asgi(app: Any) -> Callable[[], None]:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    def call() -> None:
        running = app(dict(SCOPE), receive, send)
        try:
            running.send(None)
        except StopIteration:
            return
        raise AssertionError("it waits for something")

    return call


def django_settings() -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 40)


def django_request() -> Any:
    from django.core.handlers.wsgi import WSGIRequest

    return WSGIRequest({**ENVIRON, "wsgi.input": BytesIO()})


def django_view(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(b"ok")


def call_django(answer: Any) -> Callable[[], None]:
    def call() -> None:
        answer(django_request()).close()

    return call


# --- the middlewares ------------------------------------------------------------------------------------


def bare_wsgi() -> Callable[[], None]:
    return call_wsgi(wsgi_application)


def our_wsgi(client: Any) -> Callable[[], None]:
    from leanbase.integrations.wsgi import LeanbaseMiddleware

    return call_wsgi(LeanbaseMiddleware(wsgi_application, client=client))


def sentry() -> None:
    import sentry_sdk

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1", transport=lambda event: None, default_integrations=False,
        auto_enabling_integrations=False, auto_session_tracking=False,
    )  # fmt: skip


def sentry_wsgi() -> Callable[[], None]:
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

    sentry()
    return call_wsgi(SentryWsgiMiddleware(wsgi_application))


def bare_asgi() -> Callable[[], None]:
    return call_asgi(asgi_application)


def our_asgi(client: Any) -> Callable[[], None]:
    from leanbase.integrations.asgi import LeanbaseMiddleware

    return call_asgi(LeanbaseMiddleware(asgi_application, client=client))


def posthog_asgi() -> Callable[[], None]:
    from posthog import Posthog
    from posthog.integrations.asgi import PosthogASGIMiddleware

    client = Posthog("key", host="http://127.0.0.1:9", send=False)
    return call_asgi(PosthogASGIMiddleware(asgi_application, client=client))


def sentry_asgi() -> Callable[[], None]:
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

    sentry()
    return call_asgi(SentryAsgiMiddleware(asgi_application))


def bare_django() -> Callable[[], None]:
    django_settings()
    return call_django(django_view)


def our_django(client: Any) -> Callable[[], None]:
    django_settings()
    from django.conf import settings

    from leanbase.integrations.django import LeanbaseContextMiddleware

    settings.LEANBASE_MW_CLIENT = client
    return call_django(LeanbaseContextMiddleware(django_view))


def posthog_django() -> Callable[[], None]:
    django_settings()
    from django.conf import settings
    from posthog import Posthog
    from posthog.integrations.django import PosthogContextMiddleware

    settings.POSTHOG_MW_CLIENT = Posthog("key", host="http://127.0.0.1:9", send=False)
    return call_django(PosthogContextMiddleware(django_view))
