"""The handler of Lambda functions that are instrumented without a change of their code.

Set the handler of the function to `leanbase.auto.handler`, and the variable `LEANBASE_LAMBDA_HANDLER` to
the function's own handler, such as `app.handler`. It then runs as if it were decorated with
`leanbase.lambda_handler`. These variables are the decorator's arguments:

    LEANBASE_LAMBDA_FLUSH=end|each|after_response
    LEANBASE_LAMBDA_IDEMPOTENT=true
    LEANBASE_LAMBDA_CAPTURE_EXCEPTIONS=false
    LEANBASE_LAMBDA_TIMEOUT_WARNING=true

The function's module is imported when `handler` is first read. An exception of this import is captured and
sent. Lambda then reports it as it would without this module. `ConfigError` is raised if the variable
`LEANBASE_LAMBDA_HANDLER` is missing.
"""

from __future__ import annotations

import os

from .environment import flag, log_ignored
from .errors import ConfigError
from .handlers.aws_lambda import reports, runtime
from .handlers.aws_lambda.decorator import FLUSH_POLICIES, flush_policy_of, lambda_handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    handler: Any

__all__ = ["handler"]

VARIABLE = "LEANBASE_LAMBDA_HANDLER"


def _instrumented() -> Any:
    name = os.environ.get(VARIABLE, "").strip()
    if not name:
        raise ConfigError(
            f"leanbase.auto needs {VARIABLE}: set it to the function's own handler, as app.handler"
        )
    if name.replace("/", ".") == f"{__name__}.handler":
        raise ConfigError(f"{VARIABLE} must name the function's own handler, not {name}")
    captures = flag("LEANBASE_LAMBDA_CAPTURE_EXCEPTIONS", True)
    try:
        function = runtime.import_handler(name)
    except Exception as error:
        reports.report_import(error, by_default=captures)
        raise runtime.as_reported(error)  # noqa: B904 - the runtime client's error has the cause
    if flush_policy_of(function) is not None:
        return function  # the arguments of its own decorator win
    return lambda_handler(
        flush=_flush_policy(),
        capture_exceptions=captures,
        idempotent=flag("LEANBASE_LAMBDA_IDEMPOTENT", False),
    )(function)


def _flush_policy() -> Any:
    given = os.environ.get("LEANBASE_LAMBDA_FLUSH", "").strip() or "end"
    if given in FLUSH_POLICIES:
        return given
    log_ignored("LEANBASE_LAMBDA_FLUSH", "'end'", f"it must be one of {', '.join(FLUSH_POLICIES)}")
    return "end"


def __getattr__(name: str) -> Any:
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = function = _instrumented()
    return function
