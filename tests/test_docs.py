"""The examples in docstrings work, and generated pages are up to date."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import leanbase
from scripts.settings_page import settings_page

ROOT = Path(__file__).parents[1]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(leanbase.__path__, "leanbase.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    """Every `>>>` of the package does what it says, with no endpoint configured."""
    if name.startswith("leanbase.integrations."):
        pytest.importorskip(name)  # its library may not be here
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_readmes_first_example_runs(memory: object) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code
    namespace: dict[str, object] = {}
    leanbase.transport = memory  # type: ignore[assignment]
    exec(compile(code.group(1), "README.md", "exec"), namespace)
    handler = namespace["handler"]
    assert callable(handler)
    assert handler({"user": "u", "total": 42}, None) == {"statusCode": 200}
    assert len(memory.events) == 1  # type: ignore[attr-defined]


def test_the_settings_page_is_what_the_settings_say() -> None:
    """`python -m scripts.settings_page` prints it."""
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_the_changelog_speaks_of_this_version() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest.group(1) == leanbase.__version__
