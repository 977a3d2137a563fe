"""What the files of the repository say of each other: links, rules, log messages, installation, pinned tools."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leanbase
from scripts import troubleshooting_page

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.needs("git")
BEHAVIOUR = ROOT / "docs" / "behaviour.md"
RULE = re.compile(r"\b[GWECHKMDXVQSO]-\d{1,2}\b")
WITHOUT_TEST = {"M-6", "Q-35"}
"""Rules that no test can prove; docs/behaviour.md names them."""


def files(*endings: str) -> Iterator[tuple[Path, str]]:
    """The text files that git tracks, or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if (
            path.is_file()
            and path.suffix != ".png"
            and (not endings or path.suffix in endings or path.name in endings)
        ):
            yield path, path.read_text()


def said(path: Path, text: str, position: int) -> str:
    return f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, position) + 1}"


# --- links and names -----------------------------------------------------------------------------------------


def test_links_in_documents_lead_somewhere() -> None:
    broken = []
    for path, text in files(".md"):
        prose = re.sub(r"(?s)```.*?```", "", text)
        for link in re.finditer(r"\]\(([^)\s]+)\)", prose):
            target, _, anchor = link[1].partition("#")
            if target.startswith(("http:", "https:", "mailto:")):
                continue
            place = path if not target else path.parent / target
            if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
                broken.append(f"{said(path, prose, link.start())} {link[1]}")
    assert broken == []


def test_no_line_of_a_document_is_longer_than_a_screen() -> None:
    long = [
        f"{said(path, text, match.start())} {match[0][:60]}"
        for path, text in files(".md")
        if path != ROOT / "benchmarks" / "results.md"
        for match in re.finditer(r"(?m)^.{121,}$", text)
    ]
    assert long == []


def anchors(text: str) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "outside", [r"§", r"\bdesign\.md", r"\bcontract\.md", r"\bthe contract's\b", r"\bbehaviour contract\b"]
)
def test_no_file_refers_to_a_document_that_is_not_here(outside: str) -> None:
    found = [
        said(path, text, match.start())
        for path, text in files()
        if path != Path(__file__)
        for match in re.finditer(outside, text)
    ]
    assert found == []


def test_paths_and_modules_that_documents_name_exist() -> None:
    missing = []
    for path, text in files(".md", "Makefile", ".yml"):
        text = re.sub(r"https?://\S+", "", text)
        for name in re.findall(r"\b(?:leanbase|tests|scripts|docs|benchmarks|requirements)/[\w/.-]*\w", text):
            if not any(place.exists() for place in (ROOT / name, ROOT / f"{name}.py", path.parent / name)):
                missing.append(f"{path.relative_to(ROOT)} {name}")
        for name in re.findall(r"python -m ((?:leanbase|tests|scripts|benchmarks)[\w.]*)", text):
            module = ROOT.joinpath(*name.split("."))
            if not module.with_suffix(".py").exists() and not (module / "__main__.py").exists():
                missing.append(f"{path.relative_to(ROOT)} python -m {name}")
    assert missing == []


# --- rules ---------------------------------------------------------------------------------------------------


def rules() -> set[str]:
    return set(re.findall(r"(?m)^- \*\*([A-Z]-\d{1,2})\*\*", BEHAVIOUR.read_text()))


def proven() -> set[str]:
    """The rules that markers of tests name."""
    found = set()
    for _, text in files(".py"):
        if "mark.rule(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rule":
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {str(rule) for rule in found}


@pytest.mark.slow
def test_every_rule_that_is_cited_exists() -> None:
    known = rules()
    assert len(known) > 150
    assert proven() - known == set()
    cited = {
        f"{said(path, text, match.start())} {match[0]}"
        for path, text in files(".py", ".md")
        if path.parent != ROOT / "requirements"
        for match in RULE.finditer(text)
        if match[0] not in known and not re.match(r"[\w-]", text[match.end() : match.end() + 1])
    }
    assert cited == set()


@pytest.mark.slow
def test_every_rule_has_a_test() -> None:
    assert rules() - proven() == WITHOUT_TEST
    assert all(rule in BEHAVIOUR.read_text().rpartition("## Tests and rules")[2] for rule in WITHOUT_TEST)


# --- log messages --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_log_message_is_explained() -> None:
    """`python -m scripts.troubleshooting_page` brings the page in line with the code."""
    page = troubleshooting_page.PAGE.read_text()
    assert page == troubleshooting_page.page()
    assert troubleshooting_page.UNEXPLAINED not in page
    assert re.findall(r"(?m)^\*\*[A-Z a-z]+\.\*\*$", page) == []


# --- installation --------------------------------------------------------------------------------------------

FROM_AN_INDEX = re.compile(
    r"(?:pip|pipx|uv|uvx|poetry|pdm|conda)\d?\s+(?:tool\s+)?(?:install|add|run)\b"
    r"(?:(?![;&|\n`]).)*?(?<![\w./-])leanbase(?:analytics)?(?![\w./*-]*\.whl)(?![\w./-]*/)(?![\w-])"
)


@pytest.mark.parametrize(
    ("command", "is_refused"),
    [
        ("pip install leanbase", True),
        ("pip install --quiet 'leanbase[aws]'", True),
        ("uv add leanbaseanalytics", True),
        ("pip install dist/leanbase-*.whl", False),
        ("pip install ./leanbase-3.0.0-py3-none-any.whl", False),
        ("pip install --editable .", False),
        ("pip install -r requirements.txt && leanbase local", False),
    ],
)
def test_what_counts_as_an_installation_from_an_index(command: str, is_refused: bool) -> None:
    assert bool(FROM_AN_INDEX.search(command)) == is_refused


def test_nothing_tells_anybody_to_install_leanbase_from_an_index() -> None:
    """The name belongs to another project there."""
    found = [
        said(path, text, match.start())
        for path, text in files()
        if path != Path(__file__) and path.parent != ROOT / "requirements"
        for match in FROM_AN_INDEX.finditer(text)
    ]
    found += [
        f"{path.relative_to(ROOT)} {line}"
        for path, text in files()
        if re.fullmatch(r"requirements.*\.txt", path.name) or path.parent == ROOT / "requirements"
        for line in text.splitlines()
        if re.match(r"leanbase(analytics)?\b(?!-[\w.]+\.whl)", line.strip())
    ]
    assert found == []


def test_wheels_that_are_named_have_the_current_version() -> None:
    named = {
        (match[1], path.name)
        for path, text in files()
        if path.parent != ROOT / "tests" and path.parent != ROOT / "requirements"
        for match in re.finditer(r"leanbase-([\d.]+)-py3-none-any\.whl", text)
    }
    assert {version for version, _ in named} == {leanbase.__version__}
    assert {"requirements.txt", "README.md"} <= {name for _, name in named}


def test_the_error_about_a_missing_package_names_no_index() -> None:
    from leanbase.errors import MissingDependencyError

    text = str(MissingDependencyError("transport='sqs'", package="botocore", extra="aws"))
    assert "botocore" in text
    assert "pip install leanbase" not in text


# --- tools ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_tools_are_pinned_with_hashes_and_without_an_address(path: Path) -> None:
    text = path.read_text()
    assert "http" not in text
    assert "file:" not in text
    pins = re.split(r"\n(?=\S)", text.strip())
    assert pins
    for pin in pins:
        assert re.match(r"[\w.-]+(\[[\w, .-]+\])?==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin


# --- configuration of the forge and of pre-commit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "folder"),
    [
        ("vendor.github-workflows", ".github/workflows"),
        ("custom.github-workflows-require-timeout", ".github/workflows"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE"),
    ],
)
def test_files_for_the_forge_have_its_schema(schema: str, folder: str) -> None:
    found = [str(path) for path in (ROOT / folder).glob("*.yml") if path.name != "config.yml"]
    assert found
    check("check_jsonschema", "--builtin-schema", schema, *found)


def test_the_configuration_of_pre_commit_is_valid_and_its_programs_are_there() -> None:
    check("pre_commit", "validate-config", ".pre-commit-config.yaml")
    for program in re.findall(r"entry: \.venv/bin/(\S+)", (ROOT / ".pre-commit-config.yaml").read_text()):
        assert (Path(sys.executable).parent / program).exists()


def check(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_in_workflows_exist() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text()
        targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
        assert set(re.findall(r"run: make ([a-z-]+)", text)) <= targets
        for name in re.findall(r"run: (?:python )?(\.?[\w-]+/[\w./-]+)", text):
            assert (ROOT / name).exists(), name
