"""The two distributions: built from one source, installed side by side, each without a trace of the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

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


def test_wheels_and_sdists_of_both_have_the_same_content(dist: Path) -> None:
    assert len(list(dist.glob("*.tar.gz"))) == len(list(dist.glob("*.whl"))) == 2
    contents = []
    for name in NAMES:
        (wheel,) = dist.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            files = {file: archive.read(file) for file in archive.namelist()}
        metadata = message_from_bytes(
            next(text for file, text in files.items() if file.endswith("/METADATA"))
        )
        assert metadata["Name"] == name
        plain = [line for line in metadata.get_all("Requires-Dist", []) if "extra" not in line]
        assert plain == ["urllib3<3,>=2"]
        contents.append(
            {
                file.removeprefix(name): text
                for file, text in files.items()
                if file.startswith(f"{name}/") and "__pycache__" not in file
            }
        )
        assert f"{name}/py.typed" in files
        points = next(text for file, text in files.items() if file.endswith("entry_points.txt")).decode()
        assert f"{name} = {name}.testing.plugin" in points
    assert contents[0] == contents[1]


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
