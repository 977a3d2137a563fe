"""How a transport is chosen: by name, entry point, `module:Class`, or as an instance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.delivery.factory import create
from leanbase.errors import ConfigError
from leanbase.events.encoding import EncodedEvent
from leanbase.settings import Settings
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

KEYS = {"api_key": "phc_test", "host": "http://127.0.0.1:9"}


class Choosy(BaseTransport):
    """A transport of somebody else, with options of the client."""

    requires = ("api_key",)

    def __init__(self, key: str) -> None:
        self.key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> Choosy:
        return cls(settings.api_key or "")

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        return Receipt(handed_off=len(events))


def made(**options: Any) -> Any:
    transport = create(Settings.resolve({**KEYS, **options}))
    return transport if isinstance(transport, BufferedTransport) else transport._inner


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, HttpTransport),
        ({"transport": "http"}, HttpTransport),
        ({"transport": "memory"}, MemoryTransport),
        ({"transport": "log"}, LogTransport),
        ({"transport": "buffered"}, BufferedTransport),
        ({"sync_mode": False}, BufferedTransport),
        ({"transport": "buffered", "sync_mode": False}, BufferedTransport),
        ({"transport": "log", "sync_mode": False}, BufferedTransport),
        ({"fallback": "log"}, FallbackTransport),
        ({"transport": MemoryTransport(), "fallback": MemoryTransport()}, FallbackTransport),
        ({"transport": f"{__name__}:Choosy"}, Choosy),
    ],
)
def test_each_way_to_choose_one(options: Any, kind: type[BaseTransport]) -> None:
    assert type(made(**options)) is kind


def test_a_spool_is_around_what_it_is_the_fallback_of(tmp_path: Path) -> None:
    transport = made(fallback="spool", spool_directory=tmp_path / "spool")
    assert type(transport) is SpoolTransport
    assert type(transport._inner) is HttpTransport
    assert not transport._write_first
    alone = made(transport="spool", spool_directory=tmp_path / "spool")
    assert type(alone._inner) is HttpTransport
    assert alone._write_first


def test_another_transport_gets_the_options_of_the_client() -> None:
    assert made(transport=f"{__name__}:Choosy").key == "phc_test"


def test_what_a_transport_needs_decides_whether_the_client_is_disabled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others: tuple[dict[str, Any], ...] = (
        {"transport": "log"},
        {"transport": "memory"},
        {"transport": f"{__name__}:Choosy", "api_key": "k"},
    )
    for options in others:
        assert not Leanbase(**options).disabled
    assert not caplog.records
    assert not Leanbase(transport="spool", spool_directory=str(tmp_path / "spool")).disabled
    assert "the spool only stores events: host or api_key is not set" in caplog.text
    caplog.clear()
    for options in (
        {"transport": "http"},
        {"transport": "buffered"},
        {"transport": "log", "fallback": "http"},
        {"transport": f"{__name__}:Choosy"},
    ):
        assert Leanbase(**options).disabled  # type: ignore[arg-type]
        assert "leanbase is disabled: set api_key" in caplog.text
        caplog.clear()


def entry_point(directory: Path, name: str, value: str) -> None:
    info = directory / "other-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[leanbase.transports]\n{name} = {value}\n")


def test_an_entry_point_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    entry_point(tmp_path, "choosy", f"{__name__}:Choosy")
    assert type(made(transport="choosy")) is Choosy
    with pytest.raises(ConfigError, match=r"known are .*choosy.*http.*log"):
        made(transport="chosy")
    entry_point(tmp_path, "broken", "no_such_module:Thing")
    with pytest.raises(ConfigError, match="'broken' cannot be loaded: ModuleNotFoundError"):
        made(transport="broken")
    entry_point(tmp_path, "wrong", "json:JSONDecoder")
    with pytest.raises(ConfigError, match="'wrong' is not a subclass of BaseTransport"):
        made(transport="wrong")


def test_names_that_are_known_load_no_metadata() -> None:
    import subprocess

    code = (
        "import sys, leanbase\n"
        "leanbase.Leanbase('k', 'http://127.0.0.1:9', transport='log')\n"
        "print('importlib.metadata' in sys.modules, 'leanbase.transports.http' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
