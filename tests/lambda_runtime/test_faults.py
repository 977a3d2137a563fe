"""Runs every cell of the fault matrix, which is `faults.py`, in AWS's emulator.

`cell.py` says how a cell runs. The cells of a row run in parallel, because they mostly wait. The expected outcomes
are those on the page docs/guarantees.md.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from scripts.guarantees_page import PAGE, guarantees_page
from tests.lambda_runtime.cell import Cell
from tests.lambda_runtime.faults import FAULTS, FLUSHES, LOST, NEVER, Fault
from tests.support.fault_server import FaultServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

PARALLEL_CELLS = 5


@pytest.fixture(scope="module")
def tls_url() -> Iterator[str]:
    """The URL of a server whose certificate is from an untrusted authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = FaultServer(tls=context)
    yield server.url
    server.stop()


@pytest.mark.rule("W-12", "W-13", "W-15", "Q-20", "Q-21", "E-6")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_outcome_is_the_one_on_the_page_or_better(fault: Fault, tls_url: str) -> None:
    cells = [(way, flush) for way in fault.ways for flush in FLUSHES if fault.outcome(way, flush) != NEVER]
    with ThreadPoolExecutor(PARALLEL_CELLS) as executor:
        running = {cell: executor.submit(Cell(fault, *cell, tls_url).run) for cell in cells}
        found = {cell: outcome.result() for cell, outcome in running.items()}
    differing = {
        f"{way}, {flush}": f"{outcome}, not {fault.outcome(way, flush)}"
        for (way, flush), outcome in found.items()
        if fault.outcome(way, flush) not in (outcome, LOST)
    }
    assert not differing


def test_the_page_of_guarantees_is_up_to_date() -> None:
    """`python -m scripts.guarantees_page > docs/guarantees.md` brings it up to date."""
    assert PAGE.read_text() == guarantees_page()
