"""Raises at import, after the import of leanbase and before the decorator."""

from __future__ import annotations

from typing import Any

import leanbase

LIMIT = 1 / int("0")


@leanbase.lambda_handler
def handler(event: Any, context: Any) -> None: ...
