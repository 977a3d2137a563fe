"""Exceptions and strings with unusual attributes, for the tests of this folder."""

from __future__ import annotations

from typing import Any


class WithAttributes(Exception):
    """An exception with any attributes. Its `str()` is "from str"."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("from str")
        vars(self).update(attributes)


class LooksLikeAGroup(Exception):
    """Not an `ExceptionGroup`, but with a sequence of exceptions, like the group of the backport."""

    def __init__(self, message: str, exceptions: Any) -> None:
        super().__init__(message)
        self.exceptions = exceptions


class HostileStr(str):
    """A string whose own methods fail."""

    def __contains__(self, item: object) -> bool:
        raise RuntimeError

    def encode(self, *args: Any) -> bytes:
        raise RuntimeError
