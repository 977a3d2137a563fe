"""Checks that dist/ may be released under a tag: `make release-check TAG=v3.0.0`.

- The tag, the version and the newest entry of the changelog are the same, and the entry has a date.
- Both distributions have a wheel and an sdist.
- Both wheels hold the package with the same content, and nothing else.
- The metadata states the expected Python version, licence and dependencies.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

from scripts import layer

ROOT = Path(__file__).parents[1]
NAMES = ("leanbase", "leanbaseanalytics")
IN_SDIST = ("README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", "pyproject.toml")
EXTRAS = {"aws", "import", "openfeature", "relay"}
DEPENDENCIES = ["urllib3<3,>=2"]


def version() -> str:
    """Return the version that leanbase/_version.py names."""
    found = re.search(r'(?m)^__version__ = "(.+)"$', (ROOT / "leanbase" / "_version.py").read_text())
    if not found:
        raise ValueError("leanbase/_version.py must hold the version as a string")
    return found[1]


def problems(dist: Path, tag: str) -> Iterator[str]:
    """Yield a sentence for each reason against the release.

    Args:
        dist: The folder with the distributions.
        tag: The tag of the release, such as `v3.0.0`.
    """
    ours = version()
    if tag != f"v{ours}":
        yield f"the tag is {tag}, the version {ours}: the tag must be v{ours}"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"(?m)^## \[(\d[^\]]*)\] - (.*)$", changelog)
    if newest is None or newest[1] != ours:
        yield f"the newest entry of CHANGELOG.md is {newest[1] if newest else 'missing'}, not {ours}"
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest[2]):
        yield f"the entry {ours} of CHANGELOG.md needs a date such as 2026-01-31, not {newest[2]!r}"
    if re.search(r"(?m)^## \[Unreleased\]\n+(?!## )\S", changelog):
        yield f"CHANGELOG.md has changes under [Unreleased]: move them to {ours}"
    expected = {f"{name}-{ours}{ending}" for name in NAMES for ending in ("-py3-none-any.whl", ".tar.gz")}
    found = {path.name for path in dist.glob("*")} - {layer.NAME}
    if found != expected:
        yield f"dist/ must hold {', '.join(sorted(expected))}, not {', '.join(sorted(found)) or 'nothing'}"
        return
    contents = []
    for name in NAMES:
        wheel = dist / f"{name}-{ours}-py3-none-any.whl"
        with zipfile.ZipFile(wheel) as archive:
            files = {file: archive.read(file) for file in archive.namelist()}
        yield from _problems_of_wheel(name, ours, files)
        contents.append(
            {file.removeprefix(name): text for file, text in files.items() if file.startswith(f"{name}/")}
        )
        yield from _problems_of_sdist(name, ours, dist / f"{name}-{ours}.tar.gz")
    if contents[0] != contents[1]:
        differing = sorted(
            file
            for file in contents[0].keys() | contents[1].keys()
            if contents[0].get(file) != contents[1].get(file)
        )
        yield f"the two wheels differ in {', '.join(differing)}"


def _problems_of_wheel(name: str, ours: str, files: dict[str, bytes]) -> Iterator[str]:
    information = f"{name}-{ours}.dist-info/"
    for file in files:
        if not file.startswith((f"{name}/", information)) or "__pycache__" in file or file.endswith(".pyc"):
            yield f"the wheel of {name} holds {file}"
    source = {
        str(path.relative_to(ROOT / NAMES[0])) for path in (ROOT / NAMES[0]).rglob("*") if path.is_file()
    }
    source = {file for file in source if "__pycache__" not in file}
    packed = {file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")}
    if packed != source:
        yield f"the wheel of {name} and the package differ in {', '.join(sorted(packed ^ source))}"
    if f"{name} = {name}.testing.plugin" not in files.get(f"{information}entry_points.txt", b"").decode():
        yield f"the wheel of {name} does not register its pytest plugin"
    if not any(file.startswith(information) and file.endswith("LICENSE") for file in files):
        yield f"the wheel of {name} has no licence"
    metadata = message_from_bytes(files.get(f"{information}METADATA", b""))
    stated = {"Name": name, "Version": ours, "Requires-Python": ">=3.10", "License-Expression": "MIT"}
    for field, value in stated.items():
        if metadata[field] != value:
            yield f"the metadata of {name} say {field}: {metadata[field]}, not {value}"
    plain = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    if plain != DEPENDENCIES:
        yield f"{name} depends on {plain}, not on {DEPENDENCIES} alone"
    if set(metadata.get_all("Provides-Extra", [])) != EXTRAS:
        yield f"the extras of {name} are {metadata.get_all('Provides-Extra')}, not {sorted(EXTRAS)}"


def _problems_of_sdist(name: str, ours: str, path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        members = {member.name.removeprefix(f"{name}-{ours}/") for member in archive.getmembers()}
    for file in (*IN_SDIST, f"{name}/__init__.py", f"{name}/py.typed"):
        if file not in members:
            yield f"the sdist of {name} has no {file}"


def main() -> int:
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("usage: make release-check TAG=v3.0.0")
    found = list(problems(ROOT / "dist", sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} may be released")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
