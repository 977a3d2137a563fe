"""Every transport of the package passes `TransportContract`, the tests that authors of other transports run.

`MAKERS` has each transport several times: with a server that works, with one that fails, full, closed,
raising. The transport that the documentation shows is one of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leanbase import Leanbase
from leanbase.testing import TransportContract
from leanbase.transports import (
    BaseTransport,
    BufferedTransport,
    FallbackTransport,
    HttpTransport,
    LogTransport,
    MemoryTransport,
    SpoolTransport,
)
from leanbase.transports.deadline import Deadline
from leanbase.transports.receipt import Receipt
from tests.conftest import balanced
from tests.support.fault_server import FaultServer
from tests.support.transports import FailingTransport, RaisingTransport, unavailable_http

DOCUMENT = Path(__file__).parents[2] / "docs" / "transports.md"


def documented_transport(descriptor: int) -> BaseTransport:
    """Return the transport that the documentation shows."""
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code
    namespace: dict[str, type[BaseTransport]] = {}
    exec(code[1], namespace)
    return namespace["PipeTransport"](descriptor)  # type: ignore[call-arg]


MAKERS: dict[str, Callable[[FaultServer, Path], BaseTransport]] = {
    "memory": lambda server, path: MemoryTransport(),
    "http": lambda server, path: HttpTransport("k", server.url, max_retries=0),
    "http, server unavailable": lambda server, path: unavailable_http(server),
    "failing": lambda server, path: FailingTransport(),
    "log": lambda server, path: LogTransport(os.open(path / "log", os.O_CREAT | os.O_WRONLY)),
    "log, closed": lambda server, path: LogTransport(4711),
    "buffered": lambda server, path: BufferedTransport(HttpTransport("k", server.url)),
    "buffered, failing": lambda server, path: BufferedTransport(FailingTransport(), flush_at=10),
    "spool": lambda server, path: SpoolTransport(path / "spool"),
    "spool, http": lambda server, path: SpoolTransport(path / "spool", HttpTransport("k", server.url)),
    "spool, server unavailable": lambda server, path: SpoolTransport(
        path / "spool", unavailable_http(server)
    ),
    "spool as fallback": lambda server, path: SpoolTransport(
        path / "s", FailingTransport(), write_first=False
    ),
    "spool, raising": lambda server, path: SpoolTransport(path / "spool", RaisingTransport()),
    "spool, full": lambda server, path: SpoolTransport(path / "spool", FailingTransport(), max_bytes=10),
    "documented": lambda server, path: documented_transport(os.open(path / "pipe", os.O_CREAT | os.O_WRONLY)),
    "documented, closed": lambda server, path: documented_transport(4711),
    "fallback": lambda server, path: FallbackTransport(unavailable_http(server), MemoryTransport()),
    "fallback, raising": lambda server, path: FallbackTransport(RaisingTransport(), MemoryTransport()),
    "fallback, both failing": lambda server, path: FallbackTransport(FailingTransport(), FailingTransport()),
}


class TestTransportsOfThePackage(TransportContract):
    @pytest.fixture(params=MAKERS)
    def transport(
        self, request: pytest.FixtureRequest, server: FaultServer, tmp_path: Path
    ) -> Iterator[BaseTransport]:
        made = MAKERS[request.param](server, tmp_path)
        yield made
        made.close(deadline=Deadline.after(0))


class BrokenTransport(MemoryTransport):
    """Sends, but raises whenever it is flushed or closed."""

    def flush(self, *, deadline: Deadline) -> Receipt:
        raise OSError

    close = flush


@pytest.mark.rule("G-1", "Q-57")
@pytest.mark.parametrize("sync_mode", [True, False])
def test_a_transport_whose_flush_and_close_raise_costs_no_event(
    sync_mode: bool, caplog: pytest.LogCaptureFixture
) -> None:
    transport = BrokenTransport()
    client = Leanbase("k", transport=transport, sync_mode=sync_mode)
    client.capture("flushed", distinct_id="u")
    assert client.flush()
    client.capture("at the end", distinct_id="u")
    assert client.shutdown()
    assert [event["event"] for event in transport.events] == ["flushed", "at the end"]
    assert client.stats()["delivered"] == 2
    assert balanced(client)
    assert "BrokenTransport: flush() raised OSError" in caplog.text
    assert "BrokenTransport: close() raised OSError" in caplog.text
