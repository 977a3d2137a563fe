"""Imports a module that does not exist."""

from __future__ import annotations

from typing import Any

import no_such_module_of_orders  # type: ignore[import-not-found]  # noqa: F401


def handler(event: Any, context: Any) -> None: ...
