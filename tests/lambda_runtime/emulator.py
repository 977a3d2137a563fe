"""Runs a handler in AWS's own Lambda runtime interface emulator, with AWS's own runtime client.

`Emulator` starts the emulator's binary, which starts the runtime client (`python -m awslambdaric`), which imports
the handler. A test invokes the function through the emulator's HTTP API. The emulator freezes nothing itself: a test
sends SIGSTOP and SIGCONT to all processes of the sandbox.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
"""The directory of the handlers: the runtime client runs there, and imports them by name."""

ROOT = Path(__file__).parents[2]
ARCHITECTURE = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
BINARY = f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{ARCHITECTURE}"


def find_emulator() -> Path | None:
    """Return the binary inside the virtual environment of aws-sam-cli, which `make setup` creates."""
    return next(iter(sorted((ROOT / ".venvs" / "sam").glob(BINARY))), None)


@dataclass
class Response:
    """The response to an invocation. The body is decoded if it is JSON."""

    status: int
    body: Any


def function_environment() -> dict[str, str]:
    """Return the environment variables that a function has in Lambda, and those that the interpreter needs."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(ROOT),
        "AWS_LAMBDA_FUNCTION_NAME": "orders",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_REGION": "eu-west-1",
    }


# Below the ports that the kernel assigns. It could assign one of those to another test's server before the emulator
# has started.
_ports = itertools.cycle(random.Random(os.getpid()).sample(range(20_000, 32_000), 12_000))
_ports_lock = threading.Lock()


def free_port() -> int:
    with _ports_lock:
        for port in _ports:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


class Emulator:
    """One sandbox: the emulator, the runtime client and the handler.

    Args:
        handler: The name of the handler, `module.function`.
        directory: The directory of the module.
        environment: More environment variables of the function.
        timeout: The function's timeout in seconds.
        python: The interpreter that runs the handler. It needs awslambdaric.

    Attributes:
        log: The lines that the emulator and the function have printed.
    """

    def __init__(
        self,
        handler: str,
        directory: Path,
        environment: dict[str, str],
        timeout: int = 10,
        python: str = sys.executable,
    ) -> None:
        binary = find_emulator()
        assert binary is not None, "the emulator is missing: run make setup"
        self.port, runtime_port = free_port(), free_port()
        self.log: list[str] = []
        self._killed = False
        self._process = subprocess.Popen(
            [
                str(binary),
                "--runtime-interface-emulator-address", f"127.0.0.1:{self.port}",
                "--runtime-api-address", f"127.0.0.1:{runtime_port}",
                python, "-m", "awslambdaric", handler,
            ],
            cwd=directory,
            env={**function_environment(), "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._wait_until_listening()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip())

    def _wait_until_listening(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("the emulator accepts no connections:\n" + "\n".join(self.log))

    def invoke(self, event: Any, timeout: float = 60.0) -> Response:
        """Invoke the function through the API of the emulator, and wait for the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps(event))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        try:
            return Response(response.status, json.loads(body))
        except ValueError:
            return Response(response.status, body.decode())

    def processes(self) -> list[int]:
        """Return the ids of all processes of the sandbox. The runtime is in a process group of its own."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                session = int(stat.read_text().rpartition(")")[2].split()[3])
            except (OSError, IndexError, ValueError):
                continue  # the process has just ended
            if session == self._process.pid:
                found.append(int(stat.parent.name))
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the sandbox. SIGSTOP freezes it, and SIGCONT thaws it."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> bool:
        """Kill all processes and wait for their end. Return False if they were killed before."""
        if self._killed:
            return False
        self._killed = True
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return True

    def durations(self) -> list[float]:
        """Return the milliseconds from each invocation's start until its caller had the response."""
        lines = [line for line in self.log if "INVOKE RTDONE" in line]
        return [
            float(found.group(1)) for line in lines if (found := re.search(r"duration: ([\d.]+)ms", line))
        ]
