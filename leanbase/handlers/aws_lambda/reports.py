"""Captures errors that AWS's runtime client reports, and that no code inside the handler can see.

These are exceptions of the import of the handler's module, results that cannot be serialised, and responses
that are too large. The module wraps the runtime client's functions `make_error` and `post_invocation_result`.
What they report does not change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextvars import copy_context
from functools import wraps

from ...default import default_client
from ...delivery.scope import DeliveryScope, activate
from ...errors import ConfigError
from ...events.contexts import innermost
from ...messages import log_internal_error
from ...transports.deadline import Deadline
from . import runtime as lambda_runtime
from .invocation import EndedInvocation, ended_invocation, function_tags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WHERE = "the report of Lambda's runtime client"

SECONDS = 2.0
"""Maximum seconds for the sends of a report, if the remaining time is not known."""

MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100
"""The maximum size of a response, as `MaxPayloadSize` of AWS's runtime interface emulator."""

TOO_LARGE = "Function.ResponseSizeTooLarge"
OF_AN_IMPORT = ("Runtime.ImportModuleError", "Runtime.UserCodeSyntaxError")
"""Errors that the runtime client raises while it handles an exception of the import."""

_reported: BaseException | None = None
"""The import's exception that `leanbase.auto` has reported."""


def watch() -> None:
    """Watch the reports of the runtime client. Does nothing outside Lambda. Never raises."""
    try:
        runtime = lambda_runtime.client()
        _wrap(runtime, "make_error", _see_error)
        client = getattr(runtime, "LambdaRuntimeClient", None)
        name = "post_invocation_result"
        # Wrap the class that defines the method: concurrent invocations have a class of their own.
        _wrap(
            next((each for each in getattr(client, "__mro__", ()) if name in vars(each)), None),
            name,
            _see_response,
        )
    except Exception as error:
        log_internal_error(WHERE, error)


def report_import(error: Exception, *, by_default: bool) -> None:
    """Capture an exception of the import of a handler's module, and send it. Blocks; never raises.

    Args:
        error: The exception that `runtime.import_handler` raised.
        by_default: Whether the default client captures it, even if it does not capture uncaught exceptions.
    """
    global _reported
    try:
        _send(_subject(error), None, [default_client] if by_default else [])
    except Exception as problem:
        log_internal_error(WHERE, problem)
    _reported = error  # the runtime client will also report it


def _wrap(owner: Any, name: str, see: Callable[..., bool]) -> None:
    """Call `see` with the arguments of a function before the function. `see` returns whether it captured."""
    original = getattr(owner, name, None)
    wrapped_by = getattr(original, "__leanbase_packages__", ())
    if original is None or __package__ in wrapped_by:
        return

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        has_captured = False
        try:
            has_captured = see(*args, **kwargs)
        except Exception as error:
            log_internal_error(WHERE, error)
        try:
            return original(*args, **kwargs)
        except Exception as error:
            if has_captured:  # Lambda refused the response; this error ends the process
                from ...error_tracking import hooks

                hooks.never_capture(error)
            raise

    wrapped.__leanbase_packages__ = (*wrapped_by, __package__)  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _see_error(*args: Any, **kwargs: Any) -> bool:
    """Capture the error that the runtime client is handling while it calls `make_error`."""
    error = sys.exc_info()[1]
    runtime = lambda_runtime.client()
    if not isinstance(error, Exception) or error is _reported:
        return False
    if error.__cause__ is not None and error.__cause__ is _reported:
        return False
    request_id = args[3] if len(args) > 3 else kwargs.get("invoke_id")
    if request_id is not None and not isinstance(error, getattr(runtime, "FaultException", ())):
        return False  # the handler raised it: this is the decorator's responsibility
    return _send(_subject(error), request_id)


def _see_response(
    _client: object, invoke_id: str, result_data: Any, *_others: object, **_named: object
) -> bool:
    """Capture a response that is too large for `post_invocation_result`."""
    # The number of characters shows that most responses are far below the limit.
    if len(result_data) * 4 > MAX_RESPONSE_BYTES:
        is_text = isinstance(result_data, str)
        size = len(result_data.encode("utf-8", "surrogatepass") if is_text else result_data)
        if size > MAX_RESPONSE_BYTES:
            text = f"the response has {size:,} bytes, and Lambda accepts at most {MAX_RESPONSE_BYTES:,}"
            return _send(_described(TOO_LARGE, text), invoke_id)
    return False


def _subject(error: Exception) -> object:
    """Return what to capture. An error of the runtime client itself gets Lambda's name for it."""
    runtime = lambda_runtime.client()
    if not isinstance(error, getattr(runtime, "FaultException", ())):
        return error
    fault: Any = error
    if fault.__cause__ is not None or fault.exception_type in OF_AN_IMPORT:
        return fault.__cause__ or fault.__context__ or fault
    return _described(fault.exception_type, fault.msg, fault.__traceback__)


def _described(type: str, text: str, traceback: Any = None) -> object:
    from ...error_tracking.subjects import Described

    return Described(type, text, traceback=traceback, frames=None if traceback is not None else [])


def _send(subject: object, request_id: str | None, clients: Any = ()) -> bool:
    """Capture an error and send it, with `clients` and every client that captures uncaught exceptions.

    Return whether there is such a client.
    """
    from ...error_tracking import hooks

    _prepare_default_client()
    invocation = ended_invocation(request_id)
    deadline = invocation.deadline if invocation is not None else None
    deadline = deadline or Deadline.after(SECONDS)
    senders = dict.fromkeys((*clients, *hooks.clients()))
    for client in senders:
        try:
            copy_context().run(_send_with, client, subject, request_id, invocation, deadline)
        except Exception as error:
            log_internal_error(WHERE, error)
    return bool(senders)


def _prepare_default_client() -> None:
    """Create the default client if it captures uncaught exceptions. The program may not have used it yet."""
    from ...settings import Settings

    try:
        if default_client._is_configured() and Settings.resolve({}).enable_exception_autocapture:
            default_client.setup()
    except ConfigError:
        pass  # other clients may be usable


def _send_with(
    client: Any,
    subject: object,
    request_id: str | None,
    invocation: EndedInvocation | None,
    deadline: Deadline,
) -> None:
    """Capture an error and send it, in the context of the request that has ended."""
    from ...error_tracking import metadata

    uuid, tags = None, {}
    if invocation is not None:
        innermost.set(invocation.context)
        uuid = invocation.failure_uuid
    else:
        # Without a context: an exception that was captured outside contexts is not captured again.
        name, version = map(os.environ.get, ("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION"))
        tags = function_tags(name, version, request_id)
    scope = DeliveryScope("end", deadline)
    with activate(scope):
        client.report_exception(subject, metadata.LAMBDA_RUNTIME, uuid=uuid, properties=tags)
        client._close_scope(scope)
