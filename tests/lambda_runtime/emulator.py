"""AWS's own Lambda runtime interface emulator, running a handler in AWS's own runtime client."""

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

ROOT = Path(__file__).parents[2]
ARCHITECTURE = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
EMULATORS = f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{ARCHITECTURE}"


def find_emulator() -> Path | None:
    """The binary inside the virtual environment of aws-sam-cli, which `make setup` makes."""
    return next(iter(sorted((ROOT / ".venvs" / "sam").glob(EMULATORS))), None)


@dataclass
class Answer:
    status: int
    body: Any


# Below those that the kernel gives out, to other servers of other tests, between our look and the emulator's start.
_ports = itertools.cycle(random.Random(os.getpid()).sample(range(20_000, 32_000), 12_000))
_ports_lock = threading.Lock()


def free_port() -> int:
    with _ports_lock:
        for port in _ports:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port
    raise AssertionError("there is no free port")


class Emulator:
    """One execution environment: the emulator, the runtime client and the handler.

    Args:
        handler: `module.function`.
        directory: Where the module is.
        environment: Environment variables of the function.
        timeout: The function's timeout in seconds.
        python: The interpreter that runs the handler; it needs awslambdaric.
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
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "PYTHONPATH": str(ROOT),
                "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
                "AWS_LAMBDA_FUNCTION_NAME": "orders",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_REGION": "eu-west-1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._wait_until_it_listens()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip())

    def _wait_until_it_listens(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("the emulator does not listen:\n" + "\n".join(self.log))

    def invoke(self, event: Any, timeout: float = 60.0) -> Answer:
        """Call the function as Lambda's own API does and wait for the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps(event))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        try:
            return Answer(response.status, json.loads(body))
        except ValueError:
            return Answer(response.status, body.decode())

    def processes(self) -> list[int]:
        """The emulator and all that it started. The runtime is in a process group of its own."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                session = int(stat.read_text().rpartition(")")[2].split()[3])
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
            if session == self._process.pid:
                found.append(int(stat.parent.name))
        return found

    def signal(self, number: int) -> None:
        """Send a signal to the whole environment, as a freeze, thaw or kill does."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> bool:
        """SIGKILL, and wait until everything is gone; false if it was already."""
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
        """Milliseconds from each invocation's start until its caller had the response."""
        lines = [line for line in self.log if "INVOKE RTDONE" in line]
        return [
            float(found.group(1)) for line in lines if (found := re.search(r"duration: ([\d.]+)ms", line))
        ]
