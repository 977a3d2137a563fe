"""Describes how each boundary captures exceptions: level, mechanism and source."""

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
    """How an exception was captured; `None` means unknown.

    An integration passes one to `client.report_exception` for each of its boundaries.

    Args:
        level: A level of the wire format, a synonym such as `"critical"`, or a level number of `logging`.
        mechanism: Fields of the first exception's mechanism. `type` is the category of the boundary;
            `handled` is whether the exception stayed inside the boundary. Other fields are passed on, except
            `exception_id`, `parent_id` and `source`.
        source: `<technology>.<hook>` in lower case, such as `"celery.task_failure"`. It must not contain a
            version, a path, a class name or data of a user.

    Examples:
        >>> metadata = Metadata("error", {"type": "task", "handled": False}, "celery.task_failure")
    """

    level: object = None
    mechanism: Mapping[str, object] | None = None
    source: object = None


def resolved(*sources: Metadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge metadata, the most specific first. Each field comes from the first source with a valid value.

    Returns:
        The properties `$exception_level` and `$exception_source`, as far as known, and the mechanism.
    """
    levels = (normalized_level(each.level) for each in sources)
    names = (each.source for each in sources if isinstance(each.source, str) and each.source)
    found = {"$exception_level": next(filter(None, levels), None), "$exception_source": next(names, None)}
    mechanism: dict[str, Any] = {}
    for each in reversed(sources):
        mechanism.update(valid_mechanism(each.mechanism))
    return {name: value for name, value in found.items() if value is not None}, mechanism


def valid_mechanism(given: object) -> dict[str, Any]:
    """Return the valid fields of a first exception's mechanism."""
    valid: dict[str, Any] = {}
    if not isinstance(given, Mapping):
        return valid
    for name, value in given.items():
        if name == "type":
            fits = isinstance(value, str) and bool(value)
        elif name in ("handled", "synthetic"):
            fits = isinstance(value, bool)
        else:
            # The builder sets `exception_id`. The first exception has no parent.
            fits = value is not None and name not in ("exception_id", "parent_id", "source")
        if fits:
            valid[name] = sanitize(value)
    return valid


def normalized_level(level: object) -> str | None:
    """Return the wire format's name of a level, or `None` if it is not a level.

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
LAMBDA_TIMEOUT = _boundary("error", "task", False, "aws_lambda.timeout_warning")
LAMBDA_RUNTIME = _boundary("fatal", "task", False, "aws_lambda.runtime")
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
