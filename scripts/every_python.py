"""Run the core package's tests against the built wheels, on every other CPython >= 3.10 of this machine.

The interpreters are those of pyenv and `python3.X` on the path, one of each minor version. Each has a virtual
environment under `.venvs/` with both wheels and the test tools, and a copy of the tests, so that nothing of
the source tree is imported. The oldest interpreter runs all core tests, the others those that are not slow.
The newest runs them again with `leanbaseanalytics` in the place of `leanbase`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST = (3, 10)
NEWEST = (3, 20)
# Tests that need more than the core test tools (frameworks, servers, Powertools, awslambdaric, botocore), and
# tests of the repository itself.
LEFT_OUT = [
    "tests/integrations/apps",
    *(
        f"tests/integrations/test_{name}.py"
        for name in ("asgi", "celery", "django", "flask", "lambda_frameworks", "mangum", "pages")
    ),
    *(f"tests/integrations/test_{name}.py" for name in ("servers", "wsgi")),
    "tests/integrations/test_openfeature.py",
    "tests/diagnosis/test_queue.py",
    "tests/examples",
    "tests/feature_flags/test_aws_sources.py",
    "tests/lambda_runtime",
    "tests/handlers/test_aws_lambda.py",
    "tests/relay",
    "tests/test_distributions.py",
    "tests/test_names.py",
    "tests/test_pages.py",
    "tests/test_repository.py",
    "tests/test_soak.py",
    "tests/transports/test_buffered_servers.py",
    "tests/transports/test_sigv4.py",
]
# Tests that run on Windows: without fork, POSIX signals or a POSIX file system.
PORTABLE = [
    "tests/events",
    "tests/error_tracking/test_exception_events.py",
    "tests/error_tracking/test_frames.py",
    "tests/error_tracking/test_secrets.py",
    "tests/error_tracking/test_variables.py",
    "tests/transports/test_handoff.py",
    "tests/transports/test_http.py",
    "tests/test_settings.py",
    "tests/test_texts.py",
]
# Deselected: this test is slow, and tests the operating system rather than the interpreter.
ONCE = ["tests/transports/test_spool.py::test_processes_killed_at_random_moments_lose_no_event"]
# Deselected with the alias below: tests of what an import loads, because the alias imports all modules, and
# tests of strings with the module's name.
NOT_BY_ALIAS = (
    "not (import or not_load or plugin or fresh or module or docstring or declared or readme "
    "or entry_point or metadata)"
)
ALIAS = """
import importlib, pkgutil, sys
import leanbaseanalytics

for each in pkgutil.walk_packages(leanbaseanalytics.__path__, "leanbaseanalytics."):
    if not each.name.endswith("__main__"):
        try:
            module = importlib.import_module(each.name)
        except ImportError:
            continue  # an integration whose library is not here
        sys.modules["leanbase" + each.name.removeprefix("leanbaseanalytics")] = module
sys.modules["leanbase"] = leanbaseanalytics
"""
ASK = "import sys; print(sys.implementation.name, *sys.version_info[:2])"


def interpreters() -> dict[tuple[int, int], str]:
    """Return one interpreter of each minor version, except the version that runs this script."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], NEWEST[1])]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += [str(path) for path in sorted(pyenv.glob("versions/*/bin/python"))]
    found: dict[tuple[int, int], str] = {}
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "-c", ASK], capture_output=True, text=True, check=False)
        # pyenv also has shims for versions that are not active. They fail.
        if asked.returncode == 0 and asked.stdout.startswith("cpython "):
            major, minor = map(int, asked.stdout.split()[1:])
            found.setdefault((major, minor), candidate)
    this = sys.version_info[:2]
    return {version: path for version, path in sorted(found.items()) if version >= OLDEST and version != this}


def prepare(version: tuple[int, int], interpreter: str, wheels: list[str]) -> str:
    """Create an interpreter's environment with the wheels, and return the path of its python."""
    home = ROOT / ".venvs" / f"wheels{version[0]}.{version[1]}"
    python = str(home / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = [python, "-m", "pip", "install", "--quiet"]
    pinned = [*install, "--require-hashes", "--requirement"]
    pins, ready = ROOT / "requirements" / "core-tests.txt", home / "ready"
    if not ready.exists() or ready.stat().st_mtime < pins.stat().st_mtime:
        subprocess.run([interpreter, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([*pinned, "requirements/pip.txt"], check=True, cwd=ROOT)
        subprocess.run([*pinned, str(pins)], check=True)
        subprocess.run([*install, *wheels], check=True)
        ready.touch()
    subprocess.run([*install, "--force-reinstall", "--no-deps", *wheels], check=True)
    return python


def lay_out(folder: Path, name: str) -> None:
    """Copy the files that the tests read, without the package."""
    for each in ("tests", "docs", "examples", "benchmarks", "scripts"):
        shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
    for each in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / each, folder / each)
    settings = (ROOT / "pyproject.toml").read_text()
    if name != "leanbase":
        settings = settings.replace("leanbase_send = true", f"{name}_send = true")
        (folder / "alias").mkdir()
        (folder / "alias" / "leanbase.py").write_text(ALIAS)
    (folder / "pyproject.toml").write_text(settings)


def run(python: str, name: str, *, slow: bool, coverage: bool = False) -> bool:
    """Run the tests with one of the two distributions. Return True if they passed.

    Args:
        python: The interpreter.
        name: The distribution.
        slow: Whether to run the slow tests, too.
        coverage: Whether to write a `.coverage.*` file to the root of the repository.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder, name)
        environment = {**os.environ, "PYTHONPATH": str(folder / "alias")} if name != "leanbase" else None
        tests = PORTABLE if os.name == "nt" else [f"--ignore={path}" for path in LEFT_OUT]
        chosen = [f"--deselect={test}" for test in ONCE] + ([] if slow else ["-m", "not slow"])
        if name != "leanbase":
            chosen += ["-k", NOT_BY_ALIAS, "-p", "no:leanbase"]
        command = [python, "-m", *(["coverage", "run", "-m"] if coverage else []), "pytest"]
        command += ["-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
        failed = subprocess.run(
            [*command, *tests, *chosen], cwd=folder, env=environment, check=False
        ).returncode
        for path in folder.glob(".coverage.*"):
            shutil.copy(path, ROOT / path.name)
        return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--this", action="store_true", help="run on the interpreter of this script alone")
    parser.add_argument("--dist", help="a folder with the wheels; without it they are built")
    parser.add_argument("--coverage", action="store_true", help="leave files for `coverage combine`")
    options = parser.parse_args()
    chosen = {sys.version_info[:2]: sys.executable} if options.this else interpreters()
    failed = False
    with tempfile.TemporaryDirectory() as made:
        dist = options.dist or made
        if not options.dist:
            subprocess.run([sys.executable, str(ROOT / "scripts" / "dist.py"), dist], check=True)
        wheels = sorted(str(path.resolve()) for path in Path(dist).glob("*.whl"))
        for version, interpreter in chosen.items():
            title = f"CPython {version[0]}.{version[1]}"
            python = prepare(version, interpreter, wheels)
            print(f"\n=== {title}, leanbase", flush=True)
            slow = version == min(chosen)
            failed = not run(python, "leanbase", slow=slow, coverage=options.coverage) or failed
        if chosen and os.name != "nt":
            print(f"\n=== {title}, leanbaseanalytics", flush=True)
            failed = not run(python, "leanbaseanalytics", slow=False) or failed
    names = ", ".join(".".join(map(str, version)) for version in chosen)
    print(f"\nThe wheels were tested on CPython {names}" if names else "\nNo other CPython was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
