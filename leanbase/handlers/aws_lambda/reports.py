"""Captures the errors that AWS's runtime client reports, and that no code inside the handler can see.

These are exceptions of the import of the handler's module, results that cannot be serialised, and responses
that are too large. The runtime client reports them with its functions `make_error` and
`post_invocation_result`, which are wrapped here. What it reports does not change.
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
"""Seconds that the sends of a report may take, if the time that is left is not known."""

MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100
"""The maximum size of a response: the constant `MaxPayloadSize` of AWS's runtime interface emulator."""

TOO_LARGE = "Function.ResponseSizeTooLarge"
OF_AN_IMPORT = ("Runtime.ImportModuleError", "Runtime.UserCodeSyntaxError")
"""Errors that the runtime client raises while it handles the exception of the import."""

_reported: BaseException | None = None
"""The exception of an import that `leanbase.auto` has reported."""


def watch() -> None:
    """Watch the reports of the runtime client. Elsewhere than in Lambda it does nothing. Never raises."""
    try:
        runtime = lambda_runtime.client()
        _wrap(runtime, "make_error", _see_error)
        client = getattr(runtime, "LambdaRuntimeClient", None)
        name = "post_invocation_result"
        # The class that defines the method: the runtime client has another one for concurrent invocations.
        _wrap(
            next((each for each in getattr(client, "__mro__", ()) if name in vars(each)), None),
            name,
            _see_response,
        )
    except Exception as error:
        log_internal_error(WHERE, error)


def report_import(error: Exception, *, by_default: bool) -> None:
    """Capture an exception of the import of a handler's module, and send it.

    Blocks for the send. Never raises.

    Args:
        error: The exception that `runtime.import_handler` raised.
        by_default: Whether the default client captures it, even if it does not capture uncaught exceptions.
    """
    global _reported
    try:
        _send(_subject(error), None, [default_client] if by_default else [])
    except Exception as problem:
        log_internal_error(WHERE, problem)
    _reported = error  # the runtime client will report it, too


def _wrap(owner: Any, name: str, see: Callable[..., bool]) -> None:
    """Call `see` with the arguments of a function before that function. It returns True if it captured."""
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
            if has_captured:  # Lambda has refused the response, which ends the process
                from ...error_tracking import hooks

                hooks.never_capture(error)
            raise

    wrapped.__leanbase_packages__ = (*wrapped_by, __package__)  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _see_error(*args: Any, **kwargs: Any) -> bool:
    """See the arguments of `make_error`, which is called while the runtime client handles the error."""
    error = sys.exc_info()[1]
    runtime = lambda_runtime.client()
    if not isinstance(error, Exception) or error is _reported:
        return False
    if error.__cause__ is not None and error.__cause__ is _reported:
        return False
    request_id = args[3] if len(args) > 3 else kwargs.get("invoke_id")
    if request_id is not None and not isinstance(error, getattr(runtime, "FaultException", ())):
        return False  # the handler raised it: the decorator captures it, if it should be captured
    return _send(_subject(error), request_id)


def _see_response(
    _client: object, invoke_id: str, result_data: Any, *_others: object, **_named: object
) -> bool:
    """See the arguments of `post_invocation_result`."""
    # Most responses are far from the limit, and their number of characters shows it.
    if len(result_data) * 4 > MAX_RESPONSE_BYTES:
        is_text = isinstance(result_data, str)
        size = len(result_data.encode("utf-8", "surrogatepass") if is_text else result_data)
        if size > MAX_RESPONSE_BYTES:
            text = f"the response has {size:,} bytes, and Lambda accepts at most {MAX_RESPONSE_BYTES:,}"
            return _send(_described(TOO_LARGE, text), invoke_id)
    return False


def _subject(error: Exception) -> object:
    """Return what to capture. For an error of the runtime client itself, use Lambda's name for it."""
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
    """Capture an error and send it, with these clients and those that capture uncaught exceptions.

    Returns:
        Whether there is such a client.
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
    """Create the default client, if it captures uncaught exceptions. The module may not have used it."""
    from ...settings import Settings

    try:
        if default_client._is_configured() and Settings.resolve({}).enable_exception_autocapture:
            default_client.setup()
    except ConfigError:
        pass  # the default client is not usable; other clients may be


def _send_with(
    client: Any,
    subject: object,
    request_id: str | None,
    invocation: EndedInvocation | None,
    deadline: Deadline,
) -> None:
    """Capture an error and send it, in the context of the request that has just ended."""
    from ...error_tracking import metadata

    uuid, tags = None, {}
    if invocation is not None:
        innermost.set(invocation.context)
        uuid = invocation.failure_uuid
    else:
        # Not in a context: an exception that was captured outside of contexts is not captured again.
        name, version = map(os.environ.get, ("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION"))
        tags = function_tags(name, version, request_id)
    scope = DeliveryScope("end", deadline)
    with activate(scope):
        client.report_exception(subject, metadata.LAMBDA_RUNTIME, uuid=uuid, properties=tags)
        client._close_scope(scope)
