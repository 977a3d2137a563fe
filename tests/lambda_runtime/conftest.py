"""Fixtures that start sandboxes, and kill them after the test.

A sandbox is AWS's runtime client in a process of its own, with a handler of this directory, such as
`handlers.capture`. It runs in AWS's emulator (`start`, see `emulator.py`) or with the Runtime API of the tests
(`start_api`, see `runtime_api.py`). The function sends its events over HTTP to a `FaultServer` in the process of the
test. A test invokes the function, and asserts what the server has received by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lambda_runtime.emulator import HERE, Emulator
from tests.lambda_runtime.runtime_api import RuntimeApi
from tests.support.fault_server import FaultServer

Start = Callable[..., Emulator]
StartApi = Callable[..., RuntimeApi]


@pytest.fixture
def environment(server: FaultServer) -> dict[str, str]:
    """The environment variables of all sandboxes."""
    return {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start a sandbox in the emulator: the handler's name, the timeout in seconds, and more variables."""
    running: list[Emulator] = []

    def start(handler: str, timeout: int = 10, **variables: str) -> Emulator:
        running.append(Emulator(handler, HERE, environment | variables, timeout))
        return running[-1]

    yield start
    for emulator in running:
        emulator.kill()


@pytest.fixture
def start_api(environment: dict[str, str]) -> Iterator[StartApi]:
    """Start a sandbox with the Runtime API of the tests: the handler's name, options of `RuntimeApi`, and variables."""
    running: list[RuntimeApi] = []

    def start_api(handler: str, refusal: tuple[int, str] | None = None, **variables: str) -> RuntimeApi:
        running.append(RuntimeApi(handler, HERE, environment | variables, refusal))
        return running[-1]

    yield start_api
    for api in running:
        api.stop()


def identities(events: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return what an event and its retry have in common, of each event."""
    return [tuple(event[name] for name in ("event", "uuid", "timestamp", "distinct_id")) for event in events]


def invocation_numbers(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the request id and the number of each event that `handlers.capture` captured, sorted."""
    return sorted(
        (event["properties"]["faas.invocation_id"], event["properties"]["number"]) for event in events
    )
