"""Which exceptions a client has captured: each makes one event, however many boundaries it passes."""

from __future__ import annotations

import itertools
import threading
import weakref

from ..forking import reset_in_child
from . import introspection

_numbers = itertools.count(1)


class CapturedExceptions:
    """The exceptions that one client has captured.

    Only weak references are kept. The classes built into the interpreter do not take those; their
    instances, whose `repr` is the interpreter's own, carry the mark in an attribute.
    """

    def __init__(self) -> None:
        self._attribute = f"__leanbase_captured_by_{next(_numbers)}__"
        self._references: dict[int, weakref.ref[BaseException]] = {}
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()

    def claim(self, error: BaseException) -> bool:
        """Mark an exception; false when it was marked before."""
        identity = id(error)
        with self._lock:
            if identity in self._references:
                return False
            try:
                reference = weakref.ref(error, lambda _: self._references.pop(identity, None))
                self._references[identity] = reference
                return True
            except TypeError:
                attributes = introspection.exception_attributes(error)
                # A copy, or what another process sent, matches the mark of its original along.
                if attributes.get(self._attribute) == identity:
                    return False
                attributes[self._attribute] = identity
                return True

    def release(self, error: BaseException) -> None:
        """Take the mark back: the exception was not captured after all."""
        with self._lock:
            if self._references.pop(id(error), None) is None:
                introspection.exception_attributes(error).pop(self._attribute, None)
