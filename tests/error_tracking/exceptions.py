"""Exceptions with odd attributes, for the tests of this folder."""

from __future__ import annotations

from typing import Any


class WithMessage(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("from str")
        vars(self).update(attributes)


class LooksLikeAGroup(Exception):
    """As the backport's: an exception with a sequence of exceptions."""

    def __init__(self, message: str, exceptions: Any) -> None:
        super().__init__(message)
        self.exceptions = exceptions


class Text(str):
    """A subclass with opinions."""

    def __contains__(self, item: object) -> bool:
        raise RuntimeError

    def encode(self, *args: Any) -> bytes:
        raise RuntimeError
