"""Captures the errors that AWS's runtime client reports, and that no code inside the handler can see.

These are exceptions of the import of the handler's module, results that cannot be serialised, and responses
that are too large. The runtime client reports them with its functions `make_error` and
`post_invocation_result`, which are wrapped here. What it reports does not change.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps

from ...default import default_client
from ...delivery.scope import DeliveryScope, activate
from ...events.contexts import new_context, tag_all
from ...transports.deadline import Deadline
from . import runtime as lambda_runtime
from .failures import own_failure_uuid
from .invocation import Invocation, ended_invocation, function_tags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...client import Leanbase

logger = logging.getLogger("leanbase")

SECONDS = 2.0
"""Seconds that the send of a report may take, if the time that is left is not known."""

MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100
"""The maximum size of a response: the constant `MaxPayloadSize` of AWS's runtime interface emulator."""

TOO_LARGE = "Function.ResponseSizeTooLarge"
OF_AN_IMPORT = ("Runtime.ImportModuleError", "Runtime.UserCodeSyntaxError")
"""Errors that the runtime client raises while it handles the exception of the import."""

_reported: BaseException | None = None


def watch() -> None:
    """Watch the reports of the runtime client. Does nothing elsewhere than in Lambda's runtime."""
    runtime = lambda_runtime.client()
    if runtime is not None:
        _wrap(runtime, "make_error", _see_error)
        _wrap(runtime.LambdaRuntimeClient, "post_invocation_result", _see_response)


def report_import(client: Leanbase, error: Exception) -> None:
    """Capture an exception of the import of a handler's module, and send it. Blocks for the send.

    Args:
        client: The client that captures it.
        error: The exception that `runtime.import_handler` raised.
    """
    global _reported
    _reported = error
    _send(client, _subject(error), None)


def _wrap(owner: Any, name: str, see: Callable[..., bool]) -> None:
    """Let `see` see the arguments of a function of the runtime client. It returns whether it captured."""
    original = getattr(owner, name, None)
    if original is None or hasattr(original, "__leanbase_sees__"):
        return

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        has_captured = False
        try:
            has_captured = see(*args, **kwargs)
        except Exception as error:
            logger.error("a report of Lambda's runtime could not be captured: %s", type(error).__name__)
        try:
            return original(*args, **kwargs)
        except Exception as error:
            if has_captured:
                from ...error_tracking import hooks

                hooks.leave_out(error)  # Lambda has refused the report, which ends the process
            raise

    wrapped.__leanbase_sees__ = True  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _see_error(
    _message: object = None, _type: object = None, _stack: object = None, invoke_id: str | None = None
) -> bool:
    """See the arguments of `make_error`, which is called while the runtime client handles the error."""
    error = sys.exc_info()[1]
    runtime = lambda_runtime.client()
    if not isinstance(error, Exception) or runtime is None:
        return False
    if _reported is not None and _reported in (error, error.__cause__):
        return False  # `leanbase.auto` has captured it
    if invoke_id is not None and not isinstance(error, runtime.FaultException):
        return False  # the handler raised it: the decorator captures it, if it should be captured
    _send_for_all(_subject(error), invoke_id)
    return True


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
            _send_for_all(_described(TOO_LARGE, text), invoke_id)
            return True
    return False


def _subject(error: Exception) -> object:
    """Return what to capture for an error: of the runtime client's own errors, their names in Lambda."""
    runtime = lambda_runtime.client()
    if runtime is None or not isinstance(error, runtime.FaultException):
        return error
    fault: Any = error
    if fault.exception_type in OF_AN_IMPORT and fault.__context__ is not None:
        return fault.__context__
    return _described(fault.exception_type, fault.msg, fault.__traceback__)


def _described(type: str, text: str, traceback: Any = None) -> object:
    from ...error_tracking.subjects import Described

    return Described(type, text, traceback=traceback, frames=None if traceback is not None else [])


def _send_for_all(subject: object, request_id: str | None) -> None:
    """Capture an error with every client that captures uncaught exceptions, and send it."""
    from ...settings import Settings

    if default_client._is_configured() and Settings.resolve({}).enable_exception_autocapture:
        default_client.setup()  # the module may have raised before it used the client
    from ...error_tracking import hooks

    for client in hooks.clients():
        _send(client, subject, request_id)


def _send(client: Any, subject: object, request_id: str | None) -> None:
    from ...error_tracking import metadata

    invocation = ended_invocation(request_id)
    deadline = invocation.scope.deadline if invocation is not None else None
    scope = DeliveryScope("end", deadline or Deadline.after(SECONDS))
    with ExitStack() as stack:
        uuid = _enter(stack, invocation, request_id)
        stack.enter_context(activate(scope))
        client.report_exception(subject, metadata.LAMBDA_RUNTIME, uuid=uuid)
        client._close_scope(scope)


def _enter(stack: ExitStack, invocation: Invocation | None, request_id: str | None) -> str | None:
    """Enter the context of the request, and return the uuid of the event about its end."""
    if invocation is not None:
        stack.enter_context(invocation.resumed())
        return own_failure_uuid(invocation.lambda_context)
    stack.enter_context(new_context(fresh=True))
    tags = function_tags(
        os.environ.get("AWS_LAMBDA_FUNCTION_NAME"), os.environ.get("AWS_LAMBDA_FUNCTION_VERSION"), request_id
    )
    tag_all(tags)
    return None
