"""A server that has flags: `/flags/` and `/flags/definitions` answer as `flags` says, everything else is ingestion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.feature_flags import breaker
from leanbase.feature_flags import flags as flags_module
from tests.support.fault_server import Behaviour, FaultServer, Request

EVERYBODY: dict[str, Any] = {"groups": [{"properties": [], "rollout_percentage": 100}]}
PRO = {"key": "plan", "value": "pro", "operator": "exact", "type": "person"}


def flag(key: str, filters: Any = EVERYBODY, **more: Any) -> dict[str, Any]:
    return {"id": 1, "key": key, "active": True, "version": 3, "filters": filters, **more}


class FlagServer(FaultServer):
    """Answers with `definitions` and `remote`, until a test sets other routes."""

    def __init__(self) -> None:
        super().__init__()
        self.definitions: dict[str, Any] = {"flags": [flag("beta")]}
        self.etag = '"v1"'
        self.remote: dict[str, Any] = {}
        self.answer: dict[str, Any] = {"requestId": "r-1", "evaluatedAt": 1_700_000_000_000}
        self.serve_definitions()
        self.routes["/flags/?"] = Behaviour(respond=self._evaluate)

    def serve_definitions(self, **behaviour: Any) -> None:
        fields = {"headers": {"ETag": self.etag}, "respond": self._define, **behaviour}
        self.routes["/flags/definitions"] = Behaviour(**fields)

    def _define(self, request: Request) -> bytes:
        return json.dumps(self.definitions).encode()

    def _evaluate(self, request: Request) -> bytes:
        wanted = json.loads(request.text).get("flag_keys_to_evaluate")
        flags = {key: value for key, value in self.remote.items() if wanted is None or key in wanted}
        return json.dumps({"flags": flags, **self.answer}).encode()

    def to(self, path: str) -> list[Request]:
        """The requests whose path begins so."""
        return [each for each in list(self.requests) if each.line.split()[1].startswith(path)]

    @property
    def called(self) -> list[dict[str, Any]]:
        """The events about flags that arrived."""
        names = ("$feature_flag_called", "$experiment_exposure")
        return [event for each in self.to("/batch/") for event in each.events if event["event"] in names]


@pytest.fixture
def flags() -> Iterator[FlagServer]:
    running = FlagServer()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def new_stores() -> Iterator[None]:
    flags_module.forget_stores()
    breaker._breakers.clear()
    yield
    flags_module.forget_stores()


@pytest.fixture
def client_of(tmp_path: Path) -> Iterator[Callable[..., Leanbase]]:
    """Makes clients of a server, with a directory of their own for what processes share."""
    made: list[Leanbase] = []

    def make(server: FaultServer, **options: Any) -> Leanbase:
        options.setdefault("spool_directory", str(tmp_path / "shared"))
        made.append(Leanbase("phc_test", server.url, **options))
        return made[-1]

    yield make
    for each in made:
        each.shutdown(timeout=0.5)
