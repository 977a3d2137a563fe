"""All Python in the documents runs, as pasted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from leanbase import Leanbase
from leanbase.local.server import LocalServer
from tests.support.pages import PAGES, ROOT, blocks, prelude
from tests.support.programs import run_program

pytestmark = pytest.mark.slow

HAS_A_TEST = re.compile(r"(?m)^(def test_|class \w*Test)")


def code_of(page: Path) -> str:
    return "\n\n".join(code for _, code in blocks(page))


def pages(*, with_tests: bool) -> list[str]:
    found = [page for page in PAGES if bool(HAS_A_TEST.search(code_of(page))) is with_tests and blocks(page)]
    return [str(page.relative_to(ROOT)) for page in found]


@pytest.mark.parametrize("page", pages(with_tests=False))
def test_the_code_of_a_page(page: str) -> None:
    done = run_program("tests.support.pages", page, LEANBASE_TRANSPORT="memory")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", pages(with_tests=True))
def test_the_code_and_the_tests_of_a_page(page: str, tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text(prelude(ROOT / page) + code_of(ROOT / page))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_pages_use_no_name_that_their_reader_does_not_have(tmp_path: Path) -> None:
    for page in filter(blocks, PAGES):
        path = tmp_path / str(page.relative_to(ROOT)).replace("/", "_")
        path.with_suffix(".py").write_text(prelude(page) + code_of(page))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_flags_of_the_local_server_are_evaluated(tmp_path: Path) -> None:
    (flags,) = re.findall(r"(?s)```json\n(.*?)```", (ROOT / "docs" / "local-server.md").read_text())
    (tmp_path / "flags.json").write_text(flags)
    with LocalServer(flags=tmp_path / "flags.json") as server:
        client = Leanbase("phc_test", server.url)
        found = client.evaluate_flags("user_1", person_properties={"plan": "pro"})
    assert found.get_flag("checkout") in ("control", "blue")
    assert set(found.keys) == {"beta", "checkout"}
