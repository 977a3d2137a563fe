"""Remembers which exceptions a client has captured, so that each makes one event at all its boundaries.

An application may raise the same exception object again, for example a stored failure of the initialization
in each request. The object then makes an event each time, because a mark is valid only in the outermost
context in which it was set (K-17).
"""

from __future__ import annotations

import itertools
import threading
import weakref

from .. import introspection
from ..forking import reset_in_child

_numbers = itertools.count(1)


class CapturedExceptions:
    """The exceptions that one client has captured.

    Weak references hold them. Built-in exceptions do not support weak references, so they carry the mark in
    an attribute, which their `repr` does not show.
    """

    def __init__(self) -> None:
        self._attribute = f"__leanbase_captured_by_{next(_numbers)}__"
        self._references: dict[int, tuple[weakref.ref[BaseException], int]] = {}
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def claim(self, error: BaseException, outermost: int) -> bool:
        """Mark an exception as captured. Return False if it was already marked.

        Args:
            error: The exception.
            outermost: The number of the outermost open context, in which the mark is valid. Outside of
                contexts it is 0, and every earlier mark counts.
        """
        identity = id(error)
        with self._lock:
            if identity in self._references:
                reference, marked = self._references[identity]
                if outermost in (0, marked):
                    return False
                self._references[identity] = reference, outermost
                return True
            try:
                reference = weakref.ref(error, lambda _: self._references.pop(identity, None))
                self._references[identity] = reference, outermost
                return True
            except TypeError:
                attributes = introspection.exception_attributes(error)
                # A copied or unpickled exception carries the mark, and so the id, of its original.
                whose, marked = attributes.get(self._attribute, (0, 0))
                if whose == identity and outermost in (0, marked):
                    return False
                attributes[self._attribute] = identity, outermost
                return True

    def release(self, error: BaseException) -> None:
        """Remove the mark: the exception was not captured after all."""
        with self._lock:
            if self._references.pop(id(error), None) is None:
                introspection.exception_attributes(error).pop(self._attribute, None)
