"""Applications of web frameworks for the tests, run by real servers."""

from __future__ import annotations

import os
from typing import Any

import leanbase

FLUSH: Any = os.environ.get("FLUSH", "auto")
BARE = bool(os.environ.get("BARE"))
"""Whether the application is to run without Leanbase, to be compared with."""


def configure() -> None:
    """Set the default client up by the variables that a test gives."""
    leanbase.api_key = "phc_test"
    leanbase.host = os.environ["INGESTION"]
    leanbase.sync_mode = os.environ.get("SYNC_MODE", "true") == "true"
