"""Calls the relay in this process, configured as in Lambda: by its environment.

The relay sends over a real socket, to the server that a test passes to `configured`: a `FaultServer`, or the strict
local ingestion server. The Lambda events are made by `sources.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leanbase import relay
from leanbase.local.server import LocalServer
from tests.relay.sources import Context
from tests.support.fault_server import FaultServer

Relay = Callable[..., Any]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[[FaultServer | LocalServer], Relay]:
    """Return a function that configures the relay for a server, and returns the relay.

    The relay takes a Lambda event, and the seconds until the function times out.
    """

    def configure(server: FaultServer | LocalServer) -> Relay:
        monkeypatch.setenv("LEANBASE_API_KEY", "phc_relay")
        monkeypatch.setenv("LEANBASE_HOST", server.url)
        monkeypatch.setenv("LEANBASE_MAX_RETRIES", "0")
        monkeypatch.setattr("leanbase.relay.application._latest", None)
        return lambda event, seconds=30: relay.handler(event, Context(seconds))

    return configure
