"""Fails at import, inside a function of its own."""

from __future__ import annotations

import os
from typing import Any


def table() -> str:
    return os.environ["TABLE_OF_ORDERS"]


TABLE = table()


def handler(event: Any, context: Any) -> None: ...
