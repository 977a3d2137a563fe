"""A Django project in one file, for WSGI and ASGI. `DJANGO_DATABASE` names its database file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path, re_path

import leanbase
from tests.integrations.apps import BARE, FLUSH, configure

configure()
HERE = "tests.integrations.apps.web_django"
IS_ASYNC = bool(os.environ.get("DJANGO_ASYNC"))
LEANBASE = [] if BARE else ["leanbase.integrations.django.LeanbaseContextMiddleware"]
SESSIONS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


def is_tracked(request: HttpRequest) -> bool:
    if request.path == "/filter-fails":
        raise RuntimeError("filter")
    return bool(request.path != "/health")


def extra_tags(request: HttpRequest) -> dict[str, Any]:
    if request.path == "/extra-fails":
        raise RuntimeError("extra")
    return {"extra": "tag"}


def tag_map(tags: dict[str, Any]) -> Any:
    if tags.get("$request_path") == "/map-fails":
        raise RuntimeError("map")
    return {**tags, "mapped": True}


if not settings.configured:
    settings.configure(
        DEBUG=False,
        SECRET_KEY="test" * 10,
        ALLOWED_HOSTS=["127.0.0.1", "testserver"],
        ROOT_URLCONF=HERE,
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get("DJANGO_DATABASE", ":memory:"),
                "OPTIONS": {"timeout": 20},
            }
        },
        MIDDLEWARE=[
            f"{HERE}.outer",
            f"{HERE}.ExceptionResponses",
            *SESSIONS,
            *LEANBASE,
            f"{HERE}.inner",
        ],
        LEANBASE_MW_FLUSH=FLUSH,
        LEANBASE_MW_REQUEST_FILTER=is_tracked,
        LEANBASE_MW_EXTRA_TAGS=extra_tags,
        LEANBASE_MW_TAG_MAP=tag_map,
        LEANBASE_MW_CLIENT="not a client",  # which is ignored with a warning
        USE_TZ=True,
    )
    django.setup()

from asgiref.sync import iscoroutinefunction, markcoroutinefunction  # noqa: E402
from django.contrib.auth import get_user_model, login  # noqa: E402
from django.utils.decorators import sync_and_async_middleware  # noqa: E402


def prepare() -> None:
    """Create the tables and a user."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    get_user_model().objects.create_user("jo", email="jo@example.com", password="secret")


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def outer(get_response: Callable[[Any], Any]) -> Any:
    """Wraps the middleware of Leanbase. Raises, or discards its response."""

    def before(request: HttpRequest) -> None:
        if request.path == "/outer-fails-before":
            raise RuntimeError("outer, before")

    def after(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if request.path == "/outer-fails-after":
            raise RuntimeError("outer, after")
        return HttpResponse("instead") if request.path == "/replaced" else response

    if iscoroutinefunction(get_response):

        async def respond_async(request: HttpRequest) -> HttpResponse:
            before(request)
            return after(request, await get_response(request))

        return respond_async

    def respond(request: HttpRequest) -> HttpResponse:
        before(request)
        return after(request, get_response(request))

    return respond


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def inner(get_response: Callable[[Any], Any]) -> Any:
    """Is inside the middleware of Leanbase. Raises."""
    if iscoroutinefunction(get_response):

        async def respond_async(request: HttpRequest) -> HttpResponse:
            if request.path == "/inner-fails":
                raise RuntimeError("inner")
            response: HttpResponse = await get_response(request)
            return response

        return respond_async

    def respond(request: HttpRequest) -> HttpResponse:
        if request.path == "/inner-fails":
            raise RuntimeError("inner")
        response: HttpResponse = get_response(request)
        return response

    return respond


class OutOfStock(Exception):
    pass


class Missing(Exception):
    pass


class ExceptionResponses:
    """Wraps the middleware of Leanbase, and turns two exceptions into responses."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, OutOfStock):
            return HttpResponse("out of stock", status=503)
        return HttpResponse("missing", status=404) if isinstance(exception, Missing) else None


def index(request: HttpRequest) -> HttpResponse:
    if not BARE:
        leanbase.capture("viewed")
    return HttpResponse("hello")


async def index_async(request: HttpRequest) -> HttpResponse:
    if not BARE:
        leanbase.capture("viewed")
    await asyncio.sleep(0)
    return HttpResponse("hello")


def order(request: HttpRequest, number: int) -> HttpResponse:
    leanbase.tag("order", number)
    leanbase.capture("order viewed")
    return HttpResponse(str(number))


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("well")


def quiet(request: HttpRequest) -> HttpResponse:
    return HttpResponse("quiet")


def log_in(request: HttpRequest) -> HttpResponse:
    login(request, get_user_model().objects.get(username="jo"))
    return HttpResponse("welcome")


def looks_at_user(request: HttpRequest) -> HttpResponse:
    user = request.user
    leanbase.capture("viewed")
    return HttpResponse(str(user.is_authenticated))


async def looks_at_user_async(request: HttpRequest) -> HttpResponse:
    leanbase.capture("viewed")
    user = await request.auser()
    return HttpResponse(str(user.is_authenticated))


def fails(request: HttpRequest) -> HttpResponse:
    leanbase.tag("step", "payment")
    raise ValueError("no money left")


async def fails_async(request: HttpRequest) -> HttpResponse:
    leanbase.tag("step", "payment")
    raise ValueError("no money left")


def out_of_stock(request: HttpRequest) -> HttpResponse:
    raise OutOfStock


def missing(request: HttpRequest) -> HttpResponse:
    raise Missing


def not_found(request: HttpRequest) -> HttpResponse:
    raise Http404


def denied(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def suspicious(request: HttpRequest) -> HttpResponse:
    raise SuspiciousOperation


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for number in range(3):
            leanbase.capture("part", properties={"number": number})
            yield "part "

    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            leanbase.capture("part", properties={"number": number})
            await asyncio.sleep(0.01)
            yield "part "

    return StreamingHttpResponse(parts())


def stream_fails(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "part "
        raise RuntimeError("half-way")

    return StreamingHttpResponse(parts())


async def stream_fails_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "part "
        raise RuntimeError("half-way")

    return StreamingHttpResponse(parts())


def download_slowly(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        try:
            for _ in range(100):
                yield "part "
        finally:
            leanbase.capture("download ended")

    return StreamingHttpResponse(parts())


def asks_itself(request: HttpRequest) -> HttpResponse:
    from django.test import Client

    memory: Any = leanbase.transport
    counts = []
    for _ in range(2):
        leanbase.capture("viewed")
        assert Client().get("/health").content == b"well"
        counts.append(len(memory.events))
    return HttpResponse(str(counts))


def download(request: HttpRequest) -> FileResponse:
    leanbase.capture("downloaded")
    return FileResponse(open(__file__, "rb"))


urlpatterns = [
    path("", index),
    path("async", index_async),
    path("orders/<int:number>/", order),
    re_path(r"^old/(?P<number>[0-9]+)$", order),
    path("health", health),
    path("quiet", quiet),
    path("login", log_in),
    path("user", looks_at_user),
    path("user-async", looks_at_user_async),
    path("fails", fails),
    path("fails-async", fails_async),
    path("out-of-stock", out_of_stock),
    path("missing", missing),
    path("not-found", not_found),
    path("denied", denied),
    path("suspicious", suspicious),
    path("stream", stream),
    path("stream-async", stream_async),
    path("stream-fails", stream_fails),
    path("stream-fails-async", stream_fails_async),
    path("download", download),
    path("download-slowly", download_slowly),
    path("asks-itself", asks_itself),
    path("inner-fails", index),
    path("outer-fails-before", index),
    path("outer-fails-after", index),
    path("replaced", index),
    path("extra-fails", index),
    path("map-fails", index),
    path("filter-fails", index),
]

app = get_asgi_application() if IS_ASYNC else get_wsgi_application()
