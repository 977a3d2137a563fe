"""The fixture of this folder: `round_trip`.

Nearly every test here works in the same way. The test raises an exception. A real client captures it and sends it
over a real socket to `LocalServer`, the strict local ingestion server, which runs in a thread of the test process.
The test then compares properties of the event that the server received. `RoundTrip` does the three steps, and checks
each `$exception` event against the wire format (`exception_format.py`).
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.local.server import LocalServer
from tests.error_tracking.exception_format import assert_valid_exception

ROOT = Path(__file__).parents[2]


class RoundTrip:
    """Captures exceptions, and returns what the ingestion server received.

    Attributes:
        server: The ingestion server.
        directory: A directory on `sys.path`, for modules that a test writes. It is not below the project root of the
            clients, so the frames of these modules are not `in_app`.
    """

    def __init__(self, server: LocalServer, make: Callable[..., Leanbase], directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._make = make

    def client(self, **options: Any) -> Leanbase:
        """Return a client that sends to the server, and whose project root is this repository."""
        return self._make(self.server, **{"project_root": str(ROOT), **options})

    def received(self) -> list[dict[str, Any]]:
        """Return all events that have arrived. Fail if an `$exception` event among them is invalid."""
        events = self.server.store.events()
        for event in events:
            if event["event"] == "$exception":
                assert_valid_exception(event)
        return events

    def exceptions(self) -> list[dict[str, Any]]:
        """Return the properties of all `$exception` events that have arrived."""
        return [event["properties"] for event in self.received() if event["event"] == "$exception"]

    def capture(self, subject: object = None, /, **options: Any) -> dict[str, Any]:
        """Call `capture_exception` on a new client with these options, and return the event's properties."""
        return self.properties_from(lambda client: client.capture_exception(subject), **options)

    def properties_from(self, act: Callable[[Leanbase], object], **options: Any) -> dict[str, Any]:
        """Return the properties of the one `$exception` event that `act` causes with a new client."""
        before = len(self.exceptions())
        act(self.client(**options))
        found = self.exceptions()[before:]
        assert len(found) == 1
        return found[0]

    def write_and_import(self, name: str, source: str) -> ModuleType:
        """Write a module and its parent packages into the directory, and import the module."""
        path = self.directory.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.relative_to(self.directory).parents:
            if parent.name:
                self.directory.joinpath(parent, "__init__.py").touch()
        path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return importlib.import_module(name)


@pytest.fixture
def round_trip(
    local: LocalServer,
    make: Callable[..., Leanbase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RoundTrip]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield RoundTrip(local, make, tmp_path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def raised(error: BaseException) -> BaseException:
    """Raise and catch an exception, so that it has a traceback, and return it."""
    try:
        raise error
    except BaseException as caught:
        return caught
