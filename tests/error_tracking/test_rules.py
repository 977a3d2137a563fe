"""One row for each rule of the contract's chapters on exceptions, told by what an ingestion server receives.

The rows are the functions of the modules of `rules`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from tests.error_tracking.conftest import Wire
from tests.error_tracking.rules import contexts, event, frames, variables  # noqa: F401 - they fill the table
from tests.error_tracking.rules.table import ROWS

RULES = {
    *("6.1", "6.2", "6.3", "6.4", "6.6", "6.7", "6.8", "6.9", "6.10"),
    *(f"K-{n}" for n in range(15, 21)),
    *(f"X-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18, 19, 25, 45, 60)),
    *(f"V-{n}" for n in range(1, 14)),
}
"""X-40 to X-44 are in test_hooks.py: they are about whole processes."""


def test_every_rule_has_a_row() -> None:
    told = {part for each in ROWS for part in RULES if f"-{part}-" in f"-{each.id}-"}
    assert RULES - told == set()


@pytest.mark.parametrize("check", ROWS)
def test_rule(check: Callable[..., None], wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    if "monkeypatch" in inspect.signature(check).parameters:
        check(wire, monkeypatch)
    else:
        check(wire)
