"""Runs the core package's tests on every other CPython >= 3.10 that is found on this machine.

Found are the versions of pyenv and `python3.X` on the path, one of each minor version. Each gets a virtual
environment of its own under `.venvs/`, with the package and the test tools alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = (3, 10)
NEWEST = (3, 20)
# What needs more than the core's own test tools: Powertools, Mangum, awslambdaric, gunicorn, gevent, botocore.
LEFT_OUT = [
    "tests/lambda_runtime",
    "tests/handlers/test_aws_lambda.py",
    "tests/relay",
    "tests/transports/test_buffered_servers.py",
    "tests/transports/test_sigv4.py",
]
# What takes long and tells of the operating system, not of the interpreter.
ONCE = ["tests/transports/test_spool.py::test_killed_at_random_moments_it_loses_nothing"]
ASK = "import sys; print(sys.implementation.name, *sys.version_info[:2])"


def interpreters() -> dict[tuple[int, int], str]:
    """One interpreter of each minor version but the one that runs this."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], NEWEST[1])]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += [str(path) for path in sorted(pyenv.glob("versions/*/bin/python"))]
    found: dict[tuple[int, int], str] = {}
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "-c", ASK], capture_output=True, text=True, check=False)
        # A shim of pyenv exists for versions that are not active, and fails.
        if asked.returncode == 0 and asked.stdout.startswith("cpython "):
            major, minor = map(int, asked.stdout.split()[1:])
            found.setdefault((major, minor), candidate)
    this = sys.version_info[:2]
    return {version: path for version, path in sorted(found.items()) if version >= OLDEST and version != this}


def run(version: tuple[int, int], interpreter: str) -> bool:
    """Make the environment if need be and run the tests."""
    name = ".".join(map(str, version))
    home = ROOT / ".venvs" / f"python{name}"
    python = str(home / "bin" / "python")
    print(f"\n=== CPython {name}", flush=True)
    if not (home / "ready").exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pip>=25.1"], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--editable", ".", "--group", "core-tests"]
        subprocess.run(install, check=True, cwd=ROOT)
        (home / "ready").touch()
    ignored = [f"--ignore={path}" for path in LEFT_OUT] + [f"--deselect={test}" for test in ONCE]
    tests = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
    return subprocess.run([*tests, *ignored], cwd=ROOT, check=False).returncode == 0


def main() -> int:
    others = interpreters()
    failed = [version for version, path in others.items() if not run(version, path)]
    names = ", ".join(".".join(map(str, version)) for version in others)
    print(f"\nAlso tested on CPython {names}" if names else "\nNo other CPython was found on this machine")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
