"""Which transport the options choose: by name, by entry point, as `module:Class`, or as an instance."""

from __future__ import annotations

import subprocess
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


class CustomTransport(BaseTransport):
    """A transport of another package, which reads options of the client."""

    requires = ("api_key",)

    def __init__(self, key: str) -> None:
        self.key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> CustomTransport:
        return cls(settings.api_key or "")

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        return Receipt(handed_off=len(events))


def create_transport(**options: Any) -> Any:
    """Create the transport for these options, without the one that retains events around it."""
    transport = create(Settings.resolve({**KEYS, **options}))
    return transport if isinstance(transport, BufferedTransport) else transport.inner


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
        ({"transport": f"{__name__}:CustomTransport"}, CustomTransport),
    ],
)
def test_options_choose_a_transport(options: Any, kind: type[BaseTransport]) -> None:
    assert type(create_transport(**options)) is kind


def test_a_spool_wraps_the_transport_that_it_is_the_fallback_of(tmp_path: Path) -> None:
    transport = create_transport(fallback="spool", spool_directory=tmp_path / "spool")
    assert type(transport) is SpoolTransport
    assert type(transport._inner) is HttpTransport
    assert not transport._write_first
    alone = create_transport(transport="spool", spool_directory=tmp_path / "spool")
    assert type(alone._inner) is HttpTransport
    assert alone._write_first


def test_a_custom_transport_gets_the_options_of_the_client() -> None:
    assert create_transport(transport=f"{__name__}:CustomTransport").key == "phc_test"


@pytest.mark.rule("G-1")
def test_a_client_is_disabled_if_options_that_its_transport_requires_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    complete: tuple[dict[str, Any], ...] = (
        {"transport": "log"},
        {"transport": "memory"},
        {"transport": f"{__name__}:CustomTransport", "api_key": "k"},
    )
    for options in complete:
        assert not Leanbase(**options).disabled
    assert not caplog.records
    assert not Leanbase(transport="spool", spool_directory=str(tmp_path / "spool")).disabled
    assert "the spool only stores events: host or api_key is not set" in caplog.text
    caplog.clear()
    for options in (
        {"transport": "http"},
        {"transport": "buffered"},
        {"transport": "log", "fallback": "http"},
        {"transport": f"{__name__}:CustomTransport"},
    ):
        assert Leanbase(**options).disabled  # type: ignore[arg-type]
        assert "leanbase is disabled: set api_key" in caplog.text
        caplog.clear()


def install_entry_point(directory: Path, name: str, value: str) -> None:
    info = directory / "other-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[leanbase.transports]\n{name} = {value}\n")


def test_an_entry_point_of_another_package_names_a_transport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install_entry_point(tmp_path, "custom", f"{__name__}:CustomTransport")
    assert type(create_transport(transport="custom")) is CustomTransport
    with pytest.raises(ConfigError, match=r"known are .*custom.*http.*log"):
        create_transport(transport="custm")
    install_entry_point(tmp_path, "broken", "no_such_module:Thing")
    with pytest.raises(ConfigError, match="'broken' cannot be loaded: ModuleNotFoundError"):
        create_transport(transport="broken")
    install_entry_point(tmp_path, "wrong", "json:JSONDecoder")
    with pytest.raises(ConfigError, match="'wrong' is not a subclass of BaseTransport"):
        create_transport(transport="wrong")


def test_a_built_in_name_loads_no_package_metadata() -> None:
    code = (
        "import sys, leanbase\n"
        "leanbase.Leanbase('k', 'http://127.0.0.1:9', transport='log')\n"
        "print('importlib.metadata' in sys.modules, 'leanbase.transports.http' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"


@pytest.mark.parametrize("option", ["transport", "fallback"])
def test_a_spool_on_a_platform_without_file_locks_costs_only_the_spool(option: str) -> None:
    """As on Windows: the error is logged, and events are sent over HTTP."""
    code = (
        "import sys, logging\n"
        "logging.basicConfig()\n"
        "sys.modules['fcntl'] = None\n"
        "import leanbase\n"
        f"client = leanbase.Leanbase('k', 'http://127.0.0.1:9', {option}='spool', max_retries=0)\n"
        "print(client.capture('e', distinct_id='u') is not None, client.stats()['retained'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True 1\n"
    assert "the spool needs the file locks of Linux or macOS" in done.stderr
