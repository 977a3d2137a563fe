"""Builds both distributions, `leanbase` and `leanbaseanalytics`, as wheels and sdists: `make dist`.

They are the same package under two module names. No source file is rewritten: imports inside the package are
relative, and names that contain the package's name (of the pytest plugin, and of the entry-point group of
transports) are derived from it. Only the metadata in pyproject.toml differ.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("leanbase", "leanbaseanalytics")
FILES = ("README.md", "CHANGELOG.md", "LICENSE")
FOLDERS = ("docs", "examples")

RENAMED = (
    'name = "{}"\n',
    '{0} = "{0}.cli:main"\n',
    '{0} = "{0}.testing.plugin"\n',
    'path = "{}/_version.py"\n',
    'packages = ["{}"]\n',
    'include = ["{}", ',
)
"""The lines of pyproject.toml that name the package and that a build reads."""


def metadata(name: str) -> str:
    """Return the pyproject.toml of a distribution."""
    text = (ROOT / "pyproject.toml").read_text()
    for line in RENAMED:
        ours = line.format(NAMES[0])
        if text.count(ours) != 1:
            raise ValueError(f"pyproject.toml must have this once: {ours.strip()}")
        text = text.replace(ours, line.format(name))
    return text


def stage(name: str, folder: Path) -> None:
    """Copy the source tree of a distribution into a folder."""
    shutil.copytree(ROOT / NAMES[0], folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for each in FILES:
        shutil.copy(ROOT / each, folder / each)
    for each in FOLDERS:
        shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__", ".aws-sam"))
    (folder / "pyproject.toml").write_text(metadata(name))


def build(name: str, target: Path) -> None:
    """Build the sdist of a distribution, and its wheel from the sdist."""
    with tempfile.TemporaryDirectory() as folder:
        stage(name, Path(folder))
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} cannot be built:\n{done.stdout}{done.stderr}")


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    for name in NAMES:
        build(name, target)
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>9,}  {file.name}")


if __name__ == "__main__":
    main()
