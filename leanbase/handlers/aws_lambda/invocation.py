"""One invocation of a Lambda function: its tags, deadline and ids, and the end of its scope."""

from __future__ import annotations

import logging
import os
from contextvars import ContextVar
from functools import cache

from ...delivery.scope import DeliveryScope, activate
from ...events import idempotency
from ...events.contexts import Found, Lookup, get_tags, innermost, new_context
from ...events.ids import uuid4
from ...interrupts import raise_interrupt
from ...transports.deadline import Deadline
from ..boundary import Boundary
from .events import event_timestamp, found_in, request_parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from ...client import Leanbase
    from .extension import LambdaExtension
    from .timeout import TimeoutWarning

    class LambdaContext(Protocol):
        """The attributes of Lambda's context object that are read here."""

        function_name: str
        function_version: str
        aws_request_id: str

        def get_remaining_time_in_millis(self) -> int: ...


logger = logging.getLogger("leanbase")

RESERVE_SECONDS = 0.5
"""Seconds of the remaining time that are reserved for the response."""

RESERVE_SHARE = 0.1
"""The maximum share of the remaining time that is reserved, for short timeouts."""

INITIALISED_AHEAD = ("provisioned-concurrency", "lambda-managed-instances")
"""Types of initialisation during which no caller waits."""

_cold = True


class Invocation(Boundary):
    """One call of a handler. Its methods never raise."""

    def __init__(
        self,
        event: Any,
        context: Any,
        client: Leanbase,
        scope: DeliveryScope,
        extension: LambdaExtension | None,
        capture_exceptions: bool,
        idempotent: bool,
        timeout_warning: bool,
    ) -> None:
        # Read now, because this invocation's context will hide the tags of an outer one.
        self._is_nested = _is_nested(context)
        is_cold = _is_cold(self._is_nested)
        parts = _parts(event)
        super().__init__(
            client,
            scope,
            "LAMBDA_HANDLER",
            capture_exceptions=capture_exceptions,
            context=new_context(fresh=True, lookup=Lookup(lambda: _found(parts, context, is_cold))),
        )
        self.lambda_context = context
        self._event = event
        self._extension = extension
        self._warns = timeout_warning and not self._is_nested
        self._warning: TimeoutWarning | None = None
        self._using_key = idempotency.using_key(self._work() if idempotent else idempotency.current())

    @property
    def has_warned(self) -> bool:
        return self._warning is not None and self._warning.has_warned

    def begin(self) -> None:
        if self._extension is not None:
            self._extension.begin()
        self._using_key.__enter__()
        if self._warns:
            from .timeout import TimeoutWarning

            self._warning = TimeoutWarning.started(self.client, self.scope, self.lambda_context)

    def end(self) -> None:
        self._using_key.__exit__()
        if self._warning is not None:
            self._warning.cancel()
        _ended.set(EndedInvocation(self))

    def close(self, error: BaseException | None) -> None:
        if self._warning is not None:
            self._warning.cancel()
        # After SystemExit or KeyboardInterrupt the process is ending, so nothing can be deferred.
        goes_on = error is None or issubclass(type(error), Exception)
        if self._extension is None or not self._defer(self._extension, goes_on):
            super().close(error)

    def _defer(self, extension: LambdaExtension, goes_on: bool) -> bool:
        """Leave the send to the extension. Return False if it cannot run it later."""
        self.scope.deferred = True
        request_id = _str_attr(self.lambda_context, "aws_request_id") if goes_on else None
        self.scope.deferred = extension.end(request_id, self._close_later)
        return self.scope.deferred

    def _close_later(self) -> None:
        with activate(self.scope):
            self.client._close_scope(self.scope)

    def _work(self) -> idempotency.IdempotentWork | None:
        """Return the idempotency key of this invocation. A nested handler shares its caller's key."""
        request_id = _str_attr(self.lambda_context, "aws_request_id")
        outer = idempotency.current()
        if outer is not None:
            return outer
        if request_id is None:
            _warn_of_no_request_id()
            return idempotency.IdempotentWork(uuid4(), None)  # `record_context` still derives ids
        try:
            timestamp = event_timestamp(self._event)
        except Exception:
            timestamp = None  # the event is an object of an unknown class
        return idempotency.IdempotentWork(
            f"{_str_attr(self.lambda_context, 'function_name')}/{request_id}", timestamp
        )


class EndedInvocation:
    """The part of an invocation that a report after its end needs: its result could not be sent.

    Attributes:
        context: The context, with the identity and tags that the handler has set.
        deadline: The time by which every send must end.
    """

    __slots__ = ("_has_warned", "_lambda_context", "context", "deadline")

    def __init__(self, invocation: Invocation) -> None:
        self.context = innermost.get()
        self.deadline = invocation.scope.deadline
        self._lambda_context = invocation.lambda_context
        self._has_warned = invocation.has_warned

    @property
    def request_id(self) -> str | None:
        return _str_attr(self._lambda_context, "aws_request_id")

    @property
    def failure_uuid(self) -> str | None:
        """The uuid of the event about its failure, or `None` if the timeout warning has this uuid."""
        from .failures import own_failure_uuid

        return None if self._has_warned else own_failure_uuid(self._lambda_context)


_ended: ContextVar[EndedInvocation | None] = ContextVar("leanbase_ended_invocation", default=None)


def ended_invocation(request_id: str | None) -> EndedInvocation | None:
    """Return the latest invocation that ended in this thread, if it has this request id."""
    ended = _ended.get()
    return ended if ended is not None and request_id is not None and ended.request_id == request_id else None


def time_limit(context: Any) -> Deadline | None:
    """Return the deadline for the sends of an invocation, or `None` if the remaining time is unknown."""
    try:
        remaining = context.get_remaining_time_in_millis() / 1000
        return Deadline.after(remaining - min(RESERVE_SECONDS, remaining * RESERVE_SHARE))
    except Exception:
        return None  # a test calls the handler with another context, or with `None`


@cache
def _warn_of_no_request_id() -> None:
    logger.warning(
        "idempotent=True needs a Lambda context with an aws_request_id: without it, only events inside "
        "record_context() keep their ids when they are retried"
    )


def _is_nested(context: Any) -> bool:
    """Return True inside another decorated handler of the same invocation."""
    outer: object = get_tags().get("faas.invocation_id", "")
    return outer == _str_attr(context, "aws_request_id")


def _is_cold(is_nested: bool) -> bool:
    """Return True for the first invocation of the sandbox, and for those nested in it."""
    global _cold
    was_cold, _cold = _cold, False
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") in INITIALISED_AHEAD:
        was_cold = False  # no caller waited for the initialisation
    return was_cold or (is_nested and get_tags().get("faas.coldstart") is True)


def forget_invocations() -> None:
    """Treat the next invocation as the first one of the sandbox."""
    global _cold
    _cold = True


def function_tags(name: str | None, version: str | None, request_id: str | None) -> dict[str, str]:
    """Return the known tags about a function and an invocation."""
    tags = {
        "faas.name": name,
        "faas.version": version,
        "faas.invocation_id": request_id,
        "cloud.provider": "aws",
        "cloud.region": os.environ.get("AWS_REGION"),
    }
    return {name: value for name, value in tags.items() if value is not None}


def _parts(event: Any) -> dict[str, Any]:
    try:
        return request_parts(event)
    except Exception:
        return {}  # an object of an unknown class


def _found(parts: dict[str, Any], context: Any, is_cold: bool) -> Found:
    """Return the identity and tags of an invocation. Called for its first event."""
    names = ("function_name", "function_version", "aws_request_id")
    tags = function_tags(*(_str_attr(context, name) for name in names))
    try:
        found = found_in(parts)
    except Exception as error:
        raise_interrupt(error)
        logger.warning("the tags of the invocation could not be read: %s", type(error).__name__)
        found = Found()
    found.tags = {**tags, "faas.coldstart": is_cold, **found.tags}
    return found


def _str_attr(context: Any, name: str) -> str | None:
    """Return an attribute of the context, or `None` if it is not a string."""
    try:
        value = getattr(context, name, None)
    except Exception:
        return None
    return value if isinstance(value, str) else None
