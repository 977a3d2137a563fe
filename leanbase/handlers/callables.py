"""Detects generators and coroutine functions, also as the `__call__` of an object."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_generator(function: Any) -> bool:
    """Return True if a call returns a generator, whose body runs only when it is consumed."""
    from inspect import isasyncgenfunction, isgeneratorfunction  # slow to import

    return any(isgeneratorfunction(each) or isasyncgenfunction(each) for each in _bodies(function))


def is_async(function: Any) -> bool:
    """Return True if a call returns a coroutine."""
    from inspect import iscoroutinefunction  # slow to import

    return any(iscoroutinefunction(each) for each in _bodies(function))


def _bodies(function: Any) -> tuple[Any, Any]:
    return function, type(function).__call__
