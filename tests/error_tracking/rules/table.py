"""What the modules of the table share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

ROWS: list[Any] = []


Check = TypeVar("Check", bound=Callable[..., None])


def row(*ids: str, slow: bool = False) -> Callable[[Check], Check]:
    """Add a function to the table under the ids of the rules that it tells."""

    def add(check: Check) -> Check:
        marks = pytest.mark.slow if slow else ()
        ROWS.append(pytest.param(check, id="-".join([*ids, check.__name__]), marks=marks))
        return check

    return add


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
