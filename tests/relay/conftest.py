"""The relay as it is configured in Lambda: by its environment."""

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
    """Point the relay at a server."""

    def configure(server: FaultServer | LocalServer) -> Relay:
        monkeypatch.setenv("LEANBASE_API_KEY", "phc_relay")
        monkeypatch.setenv("LEANBASE_HOST", server.url)
        monkeypatch.setenv("LEANBASE_MAX_RETRIES", "0")
        monkeypatch.setattr("leanbase.relay.application._latest", None)
        return lambda event, seconds=30: relay.handler(event, Context(seconds))

    return configure
