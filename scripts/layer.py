"""Builds dist/leanbase-layer.zip, a Lambda layer with the package and urllib3: `make layer`.

Python cannot store compiled modules in a layer, and would compile them at each cold start. So the layer also
holds compiled modules, for every CPython from 3.10 that this machine has.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from scripts.dist import NAMES, ROOT, build
from scripts.every_python import interpreters

NAME = "leanbase-layer.zip"
FOLDER = "python"  # Lambda adds it to `sys.path`, for every version of the runtime
WHEN = (1980, 1, 1, 0, 0, 0)  # a fixed timestamp, for a reproducible build; the earliest that zip supports


def install(folder: Path) -> None:
    """Install the package and its pinned dependency. Both are pure Python, and run on every architecture."""
    with tempfile.TemporaryDirectory() as built:
        build(NAMES[0], Path(built))
        wheel = next(Path(built).glob("*.whl"))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        into = ["--only-binary", ":all:", "--target", str(folder)]
        pinned = ["--require-hashes", "--requirement", str(ROOT / "requirements" / "layer.txt")]
        subprocess.run([*pip, *into, *pinned], check=True)
        subprocess.run([*pip, *into, str(wheel)], check=True)
    for name in ("direct_url.json", "INSTALLER", "RECORD", "REQUESTED"):  # about this machine and this folder
        for file in folder.glob(f"*.dist-info/{name}"):
            file.unlink()


def compile_for(python: str, folder: Path) -> None:
    """Compile the modules. Python will not compare them with their sources, which never change in a layer."""
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", f"/opt/{FOLDER}"]
    subprocess.run([python, "-m", "compileall", *options, str(folder)], check=True)


def pack(folder: Path, archive: Path) -> None:
    """Write the layer, with the files sorted and readable by all users, which Lambda requires."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        for path in (each for each in files if each.relative_to(folder).parts[0] != "bin"):  # the command
            entry = zipfile.ZipInfo(f"{FOLDER}/{path.relative_to(folder).as_posix()}", WHEN)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, path.read_bytes())


def main() -> None:
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("dist") / NAME
    archive.parent.mkdir(exist_ok=True)
    pythons = {sys.version_info[:2]: sys.executable, **interpreters()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / FOLDER
        install(folder)
        for python in pythons.values():
            compile_for(python, folder)
        pack(folder, archive)
    versions = ", ".join(f"{major}.{minor}" for major, minor in sorted(pythons))
    print(f"{archive.stat().st_size:>9,}  {archive}, compiled for Python {versions}")


if __name__ == "__main__":
    main()
