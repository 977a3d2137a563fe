"""A client whose events are judged by the local ingestion server and by the wire format."""

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
from tests.error_tracking.wire import assert_valid

ROOT = Path(__file__).parents[2]


class Wire:
    """Captures, and reads back what the ingestion server has received."""

    def __init__(self, server: LocalServer, make: Callable[..., Leanbase], directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._make = make

    def client(self, **options: Any) -> Leanbase:
        return self._make(self.server, **{"project_root": str(ROOT), **options})

    def received(self) -> list[dict[str, Any]]:
        """All events so far; every exception among them is valid."""
        events = self.server.store.events()
        for event in events:
            if event["event"] == "$exception":
                assert_valid(event)
        return events

    def exceptions(self) -> list[dict[str, Any]]:
        """The properties of the exceptions so far."""
        return [event["properties"] for event in self.received() if event["event"] == "$exception"]

    def capture(self, subject: object = None, /, **options: Any) -> dict[str, Any]:
        """Capture one thing by hand with a client of these options; the properties of its event."""
        return self.sent_by(lambda client: client.capture_exception(subject), **options)

    def sent_by(self, act: Callable[[Leanbase], object], **options: Any) -> dict[str, Any]:
        """The properties of the one exception event that an action causes."""
        before = len(self.exceptions())
        act(self.client(**options))
        found = self.exceptions()[before:]
        assert len(found) == 1
        return found[0]

    def module(self, name: str, source: str) -> ModuleType:
        """Write a module, with the packages around it, and import it."""
        path = self.directory.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.relative_to(self.directory).parents:
            if parent.name:
                self.directory.joinpath(parent, "__init__.py").touch()
        path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return importlib.import_module(name)


@pytest.fixture
def wire(
    local: LocalServer,
    make: Callable[..., Leanbase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Wire]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Wire(local, make, tmp_path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def raised(error: BaseException) -> BaseException:
    """The same exception, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught
