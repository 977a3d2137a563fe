"""Every cell of the fault matrix, in AWS's emulator."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from scripts.guarantees_page import PAGE, guarantees_page
from tests.lambda_runtime.faults import FAULTS, FLUSHES, LOST, NEVER, Fault
from tests.lambda_runtime.world import World
from tests.support.fault_server import FaultServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

AT_ONCE = 5


@pytest.fixture(scope="module")
def tls_url() -> Iterator[str]:
    """A server with a certificate of an authority that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = FaultServer(tls=context)
    yield server.url
    server.stop()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_no_event_is_lost_that_the_page_does_not_name(fault: Fault, tls_url: str) -> None:
    """And none arrives under two ids. The cells of a row mostly wait, so they run side by side."""
    cells = [(way, flush) for way in fault.ways for flush in FLUSHES if fault.outcome(way, flush) != NEVER]
    with ThreadPoolExecutor(AT_ONCE) as executor:
        running = {cell: executor.submit(World(fault, *cell, tls_url).run) for cell in cells}
        found = {cell: outcome.result() for cell, outcome in running.items()}
    other = {
        f"{way}, {flush}": f"{outcome}, not {fault.outcome(way, flush)}"
        for (way, flush), outcome in found.items()
        if fault.outcome(way, flush) not in (outcome, LOST)
    }
    assert not other


def test_the_page_is_what_the_table_says() -> None:
    """`python -m scripts.guarantees_page` prints it."""
    assert PAGE.read_text() == guarantees_page()
