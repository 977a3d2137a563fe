"""Runs a program in a process of its own, and sends it SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.programs import program_command, run_program


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        exit_code: Its exit code; the negative number of the signal that killed it.
        output: What it wrote to its standard output and standard error.
        seconds: The time from the SIGTERM of the test to the end, or from the start without that.
    """

    exit_code: int
    output: str
    seconds: float


def start_program(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        program_command(module, *arguments),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_the_end(module: str, *arguments: object, **environment: str) -> Ended:
    """Run a program that ends by itself, or sends signals to itself."""
    began = time.monotonic()
    done = run_program(module, *arguments, timeout=40, **environment)
    return Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def run_and_terminate(
    module: str,
    *arguments: object,
    before_second_signal: Callable[[], object] | None = None,
    **environment: str,
) -> Ended:
    """Send SIGTERM when the program has printed "ready", and wait for its end.

    Args:
        module: The name of the program's module.
        arguments: The program's arguments.
        before_second_signal: Sends a second SIGTERM, after a call of this function.
        environment: Variables in addition to those of this process.
    """
    process = start_program(module, *arguments, **environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if before_second_signal is not None:
        before_second_signal()
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=40)
    return Ended(process.returncode, output + errors, time.monotonic() - began)
