"""What tests of the doctor share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from leanbase.cli import main

KEY = "phc_do_not_show_this"

Set = Callable[..., None]


@pytest.fixture
def set(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set options in the environment; a URL and a key first."""
    monkeypatch.setenv("LEANBASE_API_KEY", KEY)

    def set(**options: object) -> None:
        for name, value in options.items():
            variable = name if name.isupper() else f"LEANBASE_{name.upper()}"
            if value is None:
                monkeypatch.delenv(variable, raising=False)
            else:
                monkeypatch.setenv(variable, str(value))

    return set


@pytest.fixture
def doctor(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run the command; give its exit code and the steps by name. Check what holds for every diagnosis."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        started = time.monotonic()
        code = main(["doctor", "--json", *arguments])
        assert time.monotonic() - started < 15
        output = capfd.readouterr()
        assert KEY not in output.out + output.err
        assert "phs_" not in output.out + output.err
        assert output.err == ""
        found = json.loads(output.out)
        assert found["ok"] is (code == 0)
        assert not any("the check itself failed" in step["found"] for step in found["steps"])
        return code, {step["name"]: step for step in found["steps"]}

    return run


def failed(steps: dict[str, Any]) -> list[str]:
    return [name for name, step in steps.items() if step["status"] == "failed"]
