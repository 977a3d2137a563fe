"""Which exceptions a client has captured: each makes one event, however many boundaries it passes."""

from __future__ import annotations

import itertools
import weakref

from leanbase.error_tracking import raw

ATTRIBUTE = "__leanbase_captured_by__"

_numbers = itertools.count(1)


class Marks:
    """The exceptions that one client has captured.

    Only weak references are kept. The classes built into the interpreter do not take those; their
    instances, whose `repr` is the interpreter's own, carry the client's number in an attribute.
    """

    def __init__(self) -> None:
        self._number = next(_numbers)
        self._references: dict[int, weakref.ref[BaseException]] = {}

    def claim(self, error: BaseException) -> bool:
        """Mark an exception; false when it was marked before."""
        identity = id(error)
        if identity in self._references:
            return False
        try:
            reference = weakref.ref(error, lambda _: self._references.pop(identity, None))
        except TypeError:
            return self._claim_by_attribute(error)
        # In one step: another thread may be at the same exception.
        return self._references.setdefault(identity, reference) is reference

    def release(self, error: BaseException) -> None:
        """Take the mark back: the exception was not captured after all."""
        if self._references.pop(id(error), None) is None:
            _write(error, _read(error) - {self._number})

    def _claim_by_attribute(self, error: BaseException) -> bool:
        numbers = _read(error)
        if self._number in numbers:
            return False
        _write(error, numbers | {self._number})
        return True


def _read(error: BaseException) -> frozenset[int]:
    identity, numbers = raw.exception_attributes(error).get(ATTRIBUTE, (None, frozenset()))
    # A copy of an exception, or what another process sent, brings the mark of its original along.
    return numbers if identity == id(error) else frozenset()


def _write(error: BaseException, numbers: frozenset[int]) -> None:
    raw.exception_attributes(error)[ATTRIBUTE] = (id(error), numbers)
