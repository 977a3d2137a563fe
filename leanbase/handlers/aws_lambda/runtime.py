"""Reports what AWS's runtime client is doing now, as the stack of its thread shows.

Lambda does not notify code inside a function when it initialises, or when its response is posted. For an
unknown runtime client, these functions report that it is idle.
"""

from __future__ import annotations

import sys
import threading


def is_initialising() -> bool:
    """Return True while the runtime client imports the handler's file."""
    return _is_known() and _is_in("_get_handler")


def is_idle() -> bool:
    """Return True if the runtime client waits for an invocation, so the last response is posted."""
    return not _is_known() or _is_in("wait_next_invocation")


def _is_known() -> bool:
    return "awslambdaric" in sys.modules


def _is_in(function: str) -> bool:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False
