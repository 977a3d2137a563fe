"""Fixtures and options. Every test starts with a new default client, without settings and proxies."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import leanbase
from leanbase import Leanbase, settings
from leanbase.default import default_client
from leanbase.local.server import LocalServer
from leanbase.settings import Settings
from leanbase.transports import MemoryTransport, _at_exit
from leanbase.transports._http import breaker
from tests.support.fault_server import FaultServer
from tests.support.moto_server import MotoServer
from tests.support.tools import is_installed

pytest_plugins = ["pytester"]

for name, examples in {"quick": 25, "default": 150, "thorough": 2000}.items():
    hypothesis.settings.register_profile(name, max_examples=examples, deadline=None)
hypothesis.settings.load_profile("default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for background jobs. Processes that tests interrupt would inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rule", metavar="ID", help="run the tests of one rule of docs/behaviour.md, such as W-13"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--rule")
    if wanted:
        others = [item for item in items if wanted not in rules_of(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if wanted in rules_of(item)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for tool in marker.args:
            if not is_installed(tool):
                is_expected = tool not in os.environ.get("LEANBASE_TEST_WITHOUT", "").split()
                is_strict = os.environ.get("LEANBASE_TEST_TOOLS") == "all" and is_expected
                refuse = pytest.fail if is_strict else pytest.skip
                refuse(f"needs {tool}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the tests that each missing tool skipped, for the last line of `make test`."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    tools = Counter(reason.removeprefix("Skipped: needs ") for reason in reasons if ": needs " in reason)
    missing = ", ".join(f"{tool} ({count})" for tool, count in sorted(tools.items()))
    line = (
        f"skipped, because a tool is missing: {missing}"
        if missing
        else "no test was skipped for a missing tool"
    )
    terminalreporter.write_line(line)
    if path := os.environ.get("LEANBASE_TEST_SUMMARY"):
        Path(path).write_text(line + "\n")


def rules_of(item: pytest.Item) -> set[str]:
    return {rule for marker in item.iter_markers("rule") for rule in marker.args}


@pytest.fixture(autouse=True)
def clean_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("LEANBASE_", "AWS_", "SSL_CERT_")) or name.lower().endswith(
            ("_proxy", "_ca_bundle")
        ):
            monkeypatch.delenv(name)
    yield
    for option in fields(Settings):
        vars(leanbase).pop(option.name, None)
    for transport in list(_at_exit._watched):
        transport.ledger.closed = True  # another test must not report the events that this test left
    _at_exit._watched.clear()
    breaker._left.clear()
    settings._warn_once.cache_clear()
    default_client._latest = None
    default_client._opted_out = False
    default_client._explicitly_opted_out = None
    default_client._has_warned = False
    default_client._ended = None
    default_client._set_debug(False)
    logger = logging.getLogger("leanbase")
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server with scripted faults."""
    running = FaultServer()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """AWS services, simulated by moto."""
    running = MotoServer()
    yield running
    running.stop()


@pytest.fixture
def local() -> Iterator[LocalServer]:
    """The strict local ingestion server, on a real socket."""
    with LocalServer() as running:
        yield running


@pytest.fixture
def memory() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def client(memory: MemoryTransport) -> Leanbase:
    """A client with the transport `memory`."""
    return Leanbase("phc_test", transport=memory)


@pytest.fixture
def make() -> Iterator[Callable[..., Leanbase]]:
    """A function that makes clients for a server. They are shut down after the test."""
    made: list[Leanbase] = []

    def make(server: FaultServer | LocalServer, **options: Any) -> Leanbase:
        made.append(Leanbase("phc_test", server.url, **options))
        return made[-1]

    yield make
    for each in made:
        each.shutdown(timeout=0.1)


def balanced(client: Leanbase) -> bool:
    """Return True if every captured event has exactly one outcome."""
    stats = client.stats()
    outcomes = stats["delivered"] + stats["handed_off"] + stats["spooled"] + stats["retained"]
    return stats["retained"] >= 0 and stats["captured"] == outcomes + sum(stats["dropped"].values())
