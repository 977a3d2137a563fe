"""Exceptions that a signal handler of the application raises while our code runs: not ours to swallow.

A soft time limit of a task queue, a job's timeout or a timeout decorator raises an ordinary `Exception` in
whatever runs. It looks like any failure of what was called, but its traceback has the frame of the handler.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes an enumeration of each answer
import sys
import threading

from . import introspection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

LONGEST_CHAIN = 20


def raise_interrupt(error: BaseException) -> None:
    """Raise what a signal handler has raised, if that is what `error` is, or what it came from."""
    interrupt = of_signal_handler(error)
    if interrupt is not None:
        raise interrupt


def acquired(lock: Any, seconds: float) -> bool:
    """Acquire a reentrant lock in a limited time. An interrupt does not leave it held.

    `lock.acquire(timeout=...)` would, if it strikes before the `try` that follows, and all other threads wait
    for ever. The last release must be that of a `with`, as no interrupt comes in between:

        if acquired(lock, 1.0):
            with lock:
                lock.release()
                ...
    """
    had_it = lock._is_owned()
    try:
        has_it: bool = lock.acquire(timeout=seconds)
        return has_it
    except BaseException:
        if lock._is_owned() and not had_it:
            lock.release()
        raise


def is_in_signal_handler() -> bool:
    """Whether a signal handler of the application is running, and has called us."""
    if threading.current_thread() is not threading.main_thread():
        return False
    codes = _codes_of_handlers()
    frame = sys._getframe() if codes else None
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def of_signal_handler(error: BaseException) -> BaseException | None:
    """The exception in the chain of `error` that a signal handler has raised, if any."""
    if threading.current_thread() is not threading.main_thread():
        return None  # Python runs handlers in the main thread alone
    codes = _codes_of_handlers()
    link: BaseException | None = error
    for _ in range(LONGEST_CHAIN if codes else 0):
        if link is None:
            break
        traceback = introspection.traceback(link)
        while traceback is not None:
            if traceback.tb_frame.f_code in codes:
                return link
            traceback = traceback.tb_next
        cause = introspection.cause(link)
        link = introspection.context(link) if cause is None else cause
    return None


def _codes_of_handlers() -> set[CodeType]:
    """The code of every Python function that handles a signal now."""
    codes: set[CodeType] = set()
    for number in range(1, _signal.NSIG):
        handler: Any = _signal.getsignal(number)
        if handler is not None and type(handler) is not int:
            handler = getattr(handler, "func", handler)  # a partial's
            handler = getattr(handler, "__func__", handler)  # a method's
            code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
            if code is not None:
                codes.add(code)
    return codes
