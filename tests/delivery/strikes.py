"""A signal that strikes at a chosen moment of a call, rather than at one of a timer's.

CPython runs signal handlers at the beginning of a Python function, at a backward jump, and after a call of a
function written in C. `striking` counts these moments in everything that a call does in its thread, the standard
library and urllib3 included, and runs a handler at one of them, in the frame that a signal would have interrupted.
What the handler raises, it raises there. (For handlers that raise only the beginnings of functions count: the
interpreter does not unwind from every instruction at which a trace function may raise.)
"""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

CALLS = {number for name, number in dis.opmap.items() if name.startswith("CALL") and "INTRINSIC" not in name}


class Strike:
    """Runs `call` and, at its moment number `at`, `handler`, which may raise if `raises` is true.

    With `inside` only moments in files count in whose path it is.

    Attributes:
        struck: Whether the call had so many moments.
        where: In which function it was.
    """

    def __init__(
        self, at: int, handler: Callable[[], object], *, raises: bool = False, inside: str = ""
    ) -> None:
        self.struck = False
        self.where = ""
        self._left = at
        self._handler = handler
        self._raises = raises
        self._inside = inside
        self._last: dict[FrameType, int] = {}
        self._entered = False

    def during(self, call: Callable[[], Any]) -> Any:
        before = sys.gettrace()
        collects = gc.isenabled()
        gc.disable()  # what its callbacks raise, the interpreter prints and passes over
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(before)
            if collects:
                gc.enable()
            self._last.clear()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if self.struck:
            return None
        is_moment = False
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            self._entered = True
            # What a callback of a weak reference raises, the interpreter prints and passes over.
            is_moment = not self._raises or not frame.f_code.co_filename.endswith("_weakrefset.py")
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
                self.struck = True
                self.where = frame.f_code.co_name
                self._handler()
                return None
            self._left -= 1
        return self._trace


def moments(call: Callable[[], Any]) -> int:
    """How many moments a call has."""
    strike = Strike(sys.maxsize, lambda: None)
    strike.during(call)
    return sys.maxsize - strike._left
