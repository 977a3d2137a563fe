"""The two distributions: built from one source, installed side by side, each without a trace of the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from scripts import release_check
from scripts.every_python import interpreters

ROOT = Path(__file__).parents[1]
NAMES = ("leanbase", "leanbaseanalytics")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` builds."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "dist.py"), str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with both wheels, and pytest."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=True)
    return _install(str(home / "bin" / "python"), dist, "pytest>=8")


def _install(python: str, dist: Path, *others: str) -> str:
    wheels = sorted(map(str, dist.glob("*.whl")))
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wheels, *others], check=True)
    return python


def _run(python: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_make_dist_builds_may_be_released(
    dist: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once the changelog has a date for the version, and no changes above it."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    ours = release_check.version()
    released = re.sub(r"(?ms)^## \[Unreleased\].*?(?=^## )", "", changelog)
    released = re.sub(rf"(?m)^(## \[{ours}\] - ).*$", r"\g<1>2026-01-31", released)
    for path in ("leanbase", "LICENSE", "pyproject.toml"):
        (tmp_path / path).symlink_to(ROOT / path)
    (tmp_path / "CHANGELOG.md").write_text(released)
    monkeypatch.setattr(release_check, "ROOT", tmp_path)
    assert list(release_check.problems(dist, f"v{ours}")) == []
    assert "the tag must be" in next(release_check.problems(dist, "v9.9.9"))
    (tmp_path / "CHANGELOG.md").write_text(released.replace("2026-01-31", "unreleased"))
    assert "needs a date" in next(release_check.problems(dist, f"v{ours}"))
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n- A change.\n\n" + released)
    assert "under [Unreleased]" in next(release_check.problems(dist, f"v{ours}"))


def test_a_wheel_with_a_file_too_much_or_too_few_is_found(dist: Path, tmp_path: Path) -> None:
    for path in dist.iterdir():
        shutil.copy(path, tmp_path / path.name)
    (wheel,) = tmp_path.glob("leanbase-*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tests/test_client.py", "")
        archive.writestr("leanbase/added.py", "")
    (wheel,) = tmp_path.glob("leanbaseanalytics-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {file: archive.read(file) for file in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in files.items():
            if not file.endswith(("py.typed", "LICENSE")):
                archive.writestr(file, content.replace(b"urllib3<3,>=2", b"requests"))
    found = "\n".join(release_check.problems(tmp_path, "v3.0.0"))
    for problem in (
        "the wheel of leanbase holds tests/test_client.py",
        "the wheel of leanbase and the package differ in added.py",
        "the wheel of leanbaseanalytics and the package differ in py.typed",
        "the wheel of leanbaseanalytics has no licence",
        "leanbaseanalytics depends on ['requests']",
        "the two wheels differ in /added.py, /py.typed",
    ):
        assert problem in found
    next(tmp_path.glob("*.tar.gz")).unlink()
    assert "dist/ must hold" in "\n".join(release_check.problems(tmp_path, "v3.0.0"))


@pytest.mark.parametrize("name", NAMES)
def test_each_works_with_urllib3_alone(name: str, dist: Path, tmp_path: Path) -> None:
    """On every CPython that is found; the second beside another module that is called `leanbase`."""
    this = {sys.version_info[:2]: sys.executable}
    impostor = tmp_path / "impostor"
    impostor.mkdir()
    (impostor / "leanbase.py").write_text("raise ImportError('this is another package')\n")
    for version, interpreter in {**this, **interpreters()}.items():
        home = tmp_path / f"python{version[0]}.{version[1]}"
        subprocess.run([interpreter, "-m", "venv", str(home)], check=True)
        python = _install(str(home / "bin" / "python"), dist)
        packages = _run(python, "-m", "pip", "list", "--format=freeze").split()
        names = {each.partition("==")[0] for each in packages}
        assert names - {"pip", "setuptools", "wheel"} == {"leanbase", "leanbaseanalytics", "urllib3"}
        smoke = shutil.copy(ROOT / "scripts" / "smoke.py", tmp_path / "smoke.py")
        path = "" if name == "leanbase" else str(impostor)
        output = _run(python, str(smoke), name, PYTHONPATH=path)
        assert f"{name} 3." in output
        assert f"works on {version[0]}.{version[1]}." in output
        assert '{"leanbase":1,"events":[' in output  # the log transport's form has one name in both


def test_their_pytest_plugins_work_together(installed: str, tmp_path: Path) -> None:
    """Each turns off its own module's clients, and has fixture, marker and setting under its own name."""
    (tmp_path / "test_both.py").write_text("""
import pytest, leanbase, leanbaseanalytics

for each in (leanbase, leanbaseanalytics):
    each.api_key, each.host = "phc_test", "http://127.0.0.1:9"

def test_each_has_its_own_events(leanbase_events, leanbaseanalytics_events):
    leanbase.capture("of the first", distinct_id="u")
    leanbaseanalytics.capture("of the second", distinct_id="u")
    assert [each["event"] for each in leanbase_events] == ["of the first"]
    assert [each["event"] for each in leanbaseanalytics_events] == ["of the second"]

@pytest.mark.leanbaseanalytics_send
def test_one_sends_and_the_other_does_not(leanbase_events):
    leanbaseanalytics.max_retries = 0
    leanbaseanalytics.capture("refused", distinct_id="u")
    leanbase.capture("caught", distinct_id="u")
    assert leanbaseanalytics.stats()["retained"] == 1
    leanbase_events.assert_captured("caught")
""")
    output = _run(
        installed, "-m", "pytest", "-q", "--strict-markers", str(tmp_path), "-p", "no:cacheprovider"
    )
    assert "2 passed" in output


def test_either_can_be_removed_without_a_trace_in_the_other(installed: str, tmp_path: Path) -> None:
    _run(installed, "-m", "pip", "uninstall", "--quiet", "--yes", "leanbase")
    _run(installed, str(shutil.copy(ROOT / "scripts" / "smoke.py", tmp_path)), "leanbaseanalytics")
    _run(installed, "-m", "pytest", "--version")
