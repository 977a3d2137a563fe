"""What a boundary says about the exceptions that it captures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..events.encoding import sanitize

LEVELS = {
    "fatal": "fatal",
    "critical": "fatal",
    "alert": "fatal",
    "emergency": "fatal",
    "error": "error",
    "warning": "warning",
    "warn": "warning",
    "notice": "info",
    "info": "info",
    "trace": "debug",
    "debug": "debug",
    "log": "log",
}


@dataclass(frozen=True)
class Metadata:
    """What is known about how an exception was captured; `None` is "not known".

    An integration makes one for each of its boundaries and passes it to `client.report_exception`.

    Args:
        level: A level of the wire, another common name of it, or a number of the module `logging`.
        mechanism: Fields of the first exception's mechanism: `type` is the category of the boundary,
            `handled` whether the exception stayed inside of it. Others are passed on.
        source: `<technology>.<hook>` in lower case, such as `"celery.task_failure"`. Never with a
            version, a path, a name of a class, or anything of a user.
    """

    level: object = None
    mechanism: Mapping[str, object] | None = None
    source: object = None


def resolved(*sources: Metadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """The event properties and the mechanism that some metadata amount to.

    Args:
        sources: The most specific first. Each field is taken from the first that has a valid one.
    """
    levels = (normalized_level(each.level) for each in sources)
    names = (each.source for each in sources if isinstance(each.source, str) and each.source)
    found = {"$exception_level": next(filter(None, levels), None), "$exception_source": next(names, None)}
    mechanism: dict[str, Any] = {}
    for each in reversed(sources):
        mechanism.update(valid_mechanism(each.mechanism))
    return {name: value for name, value in found.items() if value is not None}, mechanism


def valid_mechanism(given: object) -> dict[str, Any]:
    """What a first exception may say about how it was captured; the rest is left out, field by field."""
    valid: dict[str, Any] = {}
    if not isinstance(given, Mapping):
        return valid
    for name, value in given.items():
        if name == "type":
            fits = isinstance(value, str) and bool(value)
        elif name in ("handled", "synthetic"):
            fits = isinstance(value, bool)
        else:
            # The builder's own, or a relation to a parent that the first exception does not have.
            fits = value is not None and name not in ("exception_id", "parent_id", "source")
        if fits:
            valid[name] = sanitize(value)
    return valid


def normalized_level(level: object) -> str | None:
    """A level in the words of the wire; `None` when it is none.

    >>> normalized_level("CRITICAL"), normalized_level(30), normalized_level("loud")
    ('fatal', 'warning', None)
    """
    if isinstance(level, str):
        return LEVELS.get(level.strip().lower())
    if isinstance(level, bool) or not isinstance(level, int):
        return None
    numbers = ((50, "fatal"), (40, "error"), (30, "warning"), (20, "info"))
    return next((name for number, name in numbers if level >= number), "debug")


def _boundary(level: str, type: str, handled: bool, source: str | None = None) -> Metadata:
    return Metadata(level, {"type": type, "handled": handled}, source)


BY_HAND = _boundary("error", "generic", True)
CONTEXT = _boundary("error", "context", False, "python.context_manager")
SYS_EXCEPTHOOK = _boundary("fatal", "onuncaughtexception", False, "python.sys_excepthook")
THREADING_EXCEPTHOOK = _boundary("error", "onuncaughtexception", False, "python.threading_excepthook")
UNRAISABLEHOOK = _boundary("error", "onuncaughtexception", False, "python.sys_unraisablehook")
LOGGING = _boundary("error", "logger", True, "python.logging")
LAMBDA_HANDLER = _boundary("error", "task", False, "aws_lambda.handler")
JOB = _boundary("error", "task", False, "job")
WSGI = _boundary("error", "middleware", False, "wsgi.middleware")
WSGI_EXCEPTION_HANDLER = _boundary("error", "middleware", True, "wsgi.middleware")
ASGI = _boundary("error", "middleware", False, "asgi.middleware")
ASGI_EXCEPTION_HANDLER = _boundary("error", "middleware", True, "asgi.exception_handler")
FASTAPI_EXCEPTION_HANDLER = _boundary("error", "middleware", True, "fastapi.exception_handler")
DJANGO = _boundary("error", "middleware", False, "django.middleware")
DJANGO_EXCEPTION_HANDLER = _boundary("error", "middleware", True, "django.middleware")
FLASK = _boundary("error", "middleware", False, "flask.got_request_exception")
CELERY = _boundary("error", "task", False, "celery.task_failure")
