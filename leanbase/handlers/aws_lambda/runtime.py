"""Reads what AWS's runtime client is doing, and imports a handler as it does.

Lambda does not tell a function that it initialises, or that its response is posted. With an unknown runtime
client, these functions report "idle".
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def client() -> ModuleType | None:
    """Return the runtime client's main module, or `None` outside Lambda."""
    return sys.modules.get("awslambdaric.bootstrap")


def is_initialising() -> bool:
    """Return True while the runtime client imports the handler's file."""
    return _is_known() and _is_in("_get_handler")


def is_idle() -> bool:
    """Return True if the runtime client waits for an invocation: it has posted the last response."""
    return not _is_known() or _is_in("wait_next_invocation")


def import_handler(name: str) -> Any:
    """Import a handler as the runtime client does: `folder/module.function`, with dots or slashes.

    Raises:
        Exception: An error of the runtime client or of the module.
    """
    get_handler = getattr(client(), "_get_handler", None)
    if get_handler is not None:
        return get_handler(name)
    module, _, function = name.rpartition(".")
    return getattr(import_module(module.replace("/", ".")), function)


def as_reported(error: Exception) -> Any:
    """Convert an error of `import_handler` so that Lambda reports its type, message and stack unchanged.

    Unconverted, the report would also show the callers of `import_handler`. With an unknown runtime client,
    the error is returned unchanged.
    """
    runtime: Any = client()
    try:
        if isinstance(error, runtime.FaultException):
            return error
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_globals.get("__name__") != runtime.__name__:
            traceback = traceback.tb_next
        report = runtime.build_fault_result((type(error), error, traceback), None)
        fault = runtime.FaultException(report["errorType"], report["errorMessage"], report["stackTrace"])
        fault.__cause__ = error
        return fault
    except Exception:
        return error


def _is_known() -> bool:
    return "awslambdaric" in sys.modules


def _is_in(function: str) -> bool:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False
