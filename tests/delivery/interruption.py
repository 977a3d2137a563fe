"""Interrupts a call at a chosen moment, as a signal would, rather than after a time.

CPython runs signal handlers at the beginning of a Python function, at a backward jump, and after a call of a
function written in C. An `Interruption` traces a call and counts these moments in everything that the call
does in its thread, the standard library and urllib3 included. At one of them it runs a handler, in the frame
that a signal would have interrupted. An exception of the handler is raised there. (For handlers that raise,
only the beginnings of functions count: the interpreter does not unwind from every instruction at which a
trace function may raise.)

A test calls the same function again and again, interrupts it one moment later each time, and ends when the
call is over before its moment has come.
"""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

CALLS = {number for name, number in dis.opmap.items() if name.startswith("CALL") and "INTRINSIC" not in name}

SPARED = ("_weakrefset.py", "logging/__init__.py")
"""Files of the standard library in which no exception is raised.

The interpreter prints and ignores exceptions in callbacks of weak references. Before 3.13, `logging` keeps the
lock of a handler for ever if an exception comes between `acquire()` and the following `try`.
"""


class Interruption:
    """Runs a handler at one moment of a call.

    Args:
        at: The number of the moment, from 0.
        handler: The handler.
        raises: Whether the handler may raise.
        inside: Only moments in files whose path contains this string count.

    Attributes:
        happened: Whether the call had so many moments.
        where: The name of the interrupted function.
    """

    def __init__(
        self, at: int, handler: Callable[[], object], *, raises: bool = False, inside: str = ""
    ) -> None:
        self.happened = False
        self.where = ""
        self._left = at
        self._handler = handler
        self._raises = raises
        self._inside = inside
        self._last: dict[FrameType, int] = {}
        self._entered = False

    def during(self, call: Callable[[], Any]) -> Any:
        """Make the call, and interrupt it. Return its result."""
        before = sys.gettrace()
        collects = gc.isenabled()
        gc.disable()  # the interpreter prints and ignores exceptions in callbacks of the garbage collector
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(before)
            if collects:
                gc.enable()
            self._last.clear()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if self.happened:
            return None
        is_moment = False
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            self._entered = True
            is_moment = not self._raises or not frame.f_code.co_filename.endswith(SPARED)
        elif event == "opcode":
            last = self._last.get(frame, -1)
            called = last >= 0 and frame.f_code.co_code[last] in CALLS
            is_moment = not self._raises and (frame.f_lasti < last or (called and not self._entered))
            self._last[frame] = frame.f_lasti
            self._entered = False
        elif event == "return":
            self._last.pop(frame, None)
        if is_moment and self._inside in frame.f_code.co_filename:
            if self._left == 0:
                self.happened = True
                self.where = frame.f_code.co_name
                self._handler()
                return None
            self._left -= 1
        return self._trace
