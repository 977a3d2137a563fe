"""Applications of web frameworks for the tests, run by real servers."""

from __future__ import annotations

import os
from typing import Any

import leanbase

FLUSH: Any = os.environ.get("FLUSH", "auto")
BARE = bool(os.environ.get("BARE"))
"""Whether the application runs without Leanbase. Benchmarks compare it with the tracked application."""


def configure() -> None:
    """Configure the default client from the environment variables of a test."""
    leanbase.api_key = "phc_test"
    leanbase.host = os.environ["INGESTION"]
    leanbase.sync_mode = os.environ.get("SYNC_MODE", "true") == "true"
