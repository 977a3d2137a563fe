"""Fails at import, after it has created a client of its own. The default client has no key."""

from __future__ import annotations

import os
from typing import Any

from leanbase import Leanbase

CLIENT = Leanbase(os.environ["OWN_KEY"], os.environ["OWN_HOST"], enable_exception_autocapture=True)
TABLE = os.environ["TABLE_OF_ORDERS"]


def handler(event: Any, context: Any) -> None: ...
