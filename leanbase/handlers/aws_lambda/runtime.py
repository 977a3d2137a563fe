"""What AWS's runtime client is doing just now, as the stack of its thread shows.

Lambda tells no code inside a function when it begins to initialise, or when its response is posted. Where
another runtime client is used, of which nobody knows, the answers are those of one that has nothing to do.
"""

from __future__ import annotations

import sys
import threading


def is_initialising() -> bool:
    """Whether it imports the handler's file."""
    return _is_known() and _is_in("_get_handler")


def is_idle() -> bool:
    """Whether it waits for an invocation, and so has posted the response to the last one."""
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
