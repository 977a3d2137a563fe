"""Runs the programs of the tests, each in a separate process.

A program is a module `tests/FOLDER/programs/NAME.py`. It runs as `python -m tests.FOLDER.programs.NAME
ARGUMENTS`, with the root of the repository as the current directory, as under pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def program_command(module: str, *arguments: object, python_options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a program with this interpreter."""
    return [sys.executable, *python_options, "-m", module, *map(str, arguments)]


def run_program(
    module: str,
    *arguments: object,
    python_options: Sequence[str] = (),
    timeout: float = 60,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and return its exit code and output.

    Args:
        module: The name of the program's module.
        arguments: The program's arguments.
        python_options: Options of the interpreter, such as `("-W", "error")`.
        timeout: The seconds after which the program is killed, and the test fails.
        environment: Variables in addition to those of this process.
    """
    return subprocess.run(
        program_command(module, *arguments, python_options=python_options),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
