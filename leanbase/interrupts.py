"""Finds exceptions that a signal handler of the application raises inside SDK code, and passes them on.

The soft time limit of a task queue, the timeout of a job, or a timeout decorator raises an ordinary
`Exception` in the code that runs. It looks like a failure of that code, but its traceback has the frame of
the handler.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` converts each result to an enum
import sys
import threading

from . import introspection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

LONGEST_CHAIN = 20


def raise_interrupt(error: BaseException) -> None:
    """Raise the exception of a signal handler, if `error` is one or was caused by one."""
    interrupt = of_signal_handler(error)
    if interrupt is not None:
        raise interrupt


def acquired(lock: Any, seconds: float) -> bool:
    """Acquire a reentrant lock, waiting at most `seconds`, and return True if it is held.

    An interrupt never leaves the lock held. After `lock.acquire(timeout=...)`, an interrupt before the next
    `try` would, and all other threads would wait for ever. A `with` must make the last release, as below:
    no interrupt can come between the return of `acquired` and the `with`.

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
    """Return True if a signal handler of the application called this code."""
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
    """Return the exception in the chain of `error` that a signal handler raised, or `None`."""
    if threading.current_thread() is not threading.main_thread():
        return None  # Python runs signal handlers only in the main thread
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
    """Return the code of every Python function that currently handles a signal."""
    codes: set[CodeType] = set()
    for number in range(1, _signal.NSIG):
        handler: Any = _signal.getsignal(number)
        if handler is not None and type(handler) is not int:
            handler = getattr(handler, "func", handler)  # of a functools.partial
            handler = getattr(handler, "__func__", handler)  # of a method
            code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
            if code is not None:
                codes.add(code)
    return codes
