"""The default client's events in memory."""

from __future__ import annotations

import pytest

import leanbase
from leanbase.transports import MemoryTransport


@pytest.fixture
def sent(memory: MemoryTransport) -> MemoryTransport:
    """The events of the default client."""
    leanbase.transport = memory
    return memory
