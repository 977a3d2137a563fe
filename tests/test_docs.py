"""The examples in docstrings and documents work."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

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


# --- code blocks ---------------------------------------------------------------------------------------------

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *ROOT.glob("examples/*/README.md")])
NOT_HERE = (
    "celery",
    "django",
    "fastapi",
    "flask",
    "mangum",
    "openfeature",
    "uvicorn",
    "aws_lambda_powertools",
    "cloudevents",
)


def blocks() -> list[tuple[str, str]]:
    """Each block of Python in the documents that names nothing that it does not define, with its place."""
    found = []
    for path in PAGES:
        text = path.read_text()
        for match in re.finditer(r"(?ms)^```python\n(.*?)^```", text):
            line = text.count("\n", 0, match.start()) + 1
            code = match[1]
            if not undefined(code) and not re.search(
                rf"(?m)^\s*(from|import) ({'|'.join(NOT_HERE)})\b", code
            ):
                found.append((f"{path.relative_to(ROOT)}:{line}", code))
    return found


def undefined(code: str) -> set[str]:
    """The names that code reads and does not define."""
    tree = ast.parse(code)
    read: set[str] = set()
    made = {*dir(builtins), "leanbase"}  # which a page imports once
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return read - made


@pytest.mark.parametrize(("place", "code"), blocks(), ids=[place for place, _ in blocks()])
def test_code_in_documents_runs_as_pasted(
    place: str, code: str, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    leanbase.transport = memory
    exec(compile(code, place, "exec"), {"__name__": "document", "leanbase": leanbase})


def test_every_block_of_python_is_valid() -> None:
    for path in PAGES:
        for code in re.findall(r"(?ms)^```python\n(.*?)^```", path.read_text()):
            ast.parse(code)
    assert len(blocks()) >= 20
