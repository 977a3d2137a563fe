"""Which exceptions a client has captured: each makes one event, however many boundaries it passes.

An exception object that is raised again elsewhere, as a stored failure of initialisation is in each request,
makes an event there as well: the mark counts for the outermost context in which it was set (K-17).
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

    Only weak references are kept. The classes built into the interpreter do not take those; their
    instances, whose `repr` is the interpreter's own, carry the mark in an attribute.
    """

    def __init__(self) -> None:
        self._attribute = f"__leanbase_captured_by_{next(_numbers)}__"
        self._references: dict[int, tuple[weakref.ref[BaseException], int]] = {}
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def claim(self, error: BaseException, outermost: int) -> bool:
        """Mark an exception; false when it was marked before.

        Args:
            error: The exception.
            outermost: The number of the outermost context that is open, to which the mark belongs. With 0,
                outside of contexts, every earlier mark counts.
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
                # A copy, or what another process sent, has the mark of its original with it.
                whose, marked = attributes.get(self._attribute, (0, 0))
                if whose == identity and outermost in (0, marked):
                    return False
                attributes[self._attribute] = identity, outermost
                return True

    def release(self, error: BaseException) -> None:
        """Take the mark back: the exception was not captured after all."""
        with self._lock:
            if self._references.pop(id(error), None) is None:
                introspection.exception_attributes(error).pop(self._attribute, None)
