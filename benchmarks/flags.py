"""Feature flags: the cost of an evaluation, the cost of a dead endpoint, and the number of requests."""

from __future__ import annotations

import json
import random
import socket
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from workload import KEY, WHO

PROPERTIES = {"plan": "pro", "country": "DE", "email": "jo@shop.example"}


def _condition(percentage: int, key: str, operator: str, value: Any) -> dict[str, Any]:
    filters = [{"key": key, "operator": operator, "value": value, "type": "person"}]
    return {"properties": filters, "rollout_percentage": percentage}


def definitions(flags: int) -> dict[str, Any]:
    """Return flags with two conditions each. The first condition does not match."""
    return {
        "flags": [
            {
                "id": number,
                "key": f"flag-{number}",
                "active": True,
                "version": 1,
                "filters": {
                    "groups": [
                        _condition(50, "email", "icontains", "@example.org"),
                        _condition(60, "plan", "exact", ["pro", "max"]),
                    ]
                },
            }
            for number in range(flags)
        ],
        "group_type_mapping": {},
        "cohorts": {},
    }


class Provider:
    """Provides definitions to posthog without a server."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def should_fetch_flag_definitions(self) -> bool:
        return False

    def get_flag_definitions(self) -> dict[str, Any]:
        return self.data

    def on_flag_definitions_received(self, data: Any) -> None: ...

    def shutdown(self) -> None: ...


def evaluations() -> dict[str, Callable[[], float]]:
    """Return functions that measure the CPU seconds of one evaluation, by its kind and SDK."""
    from posthog import Posthog

    from leanbase import Leanbase

    data = definitions(100)
    path = Path(tempfile.mkdtemp()) / "flags.json"
    path.write_text(json.dumps(data))
    ours = Leanbase(KEY, "http://127.0.0.1:9", flag_definitions=f"file:{path}")
    theirs = Posthog(
        KEY,
        host="http://127.0.0.1:9",
        send=False,
        personal_api_key="phx",
        enable_local_evaluation=False,
        flag_definition_cache_provider=Provider(data),
    )
    theirs.load_feature_flags()

    def cpu(client: Any, repetitions: int, **options: Any) -> Callable[[], float]:
        options |= {"person_properties": PROPERTIES, "only_evaluate_locally": True}
        assert client.evaluate_flags(WHO, **options).keys

        def measure() -> float:
            started = time.process_time()
            for _ in range(repetitions):
                client.evaluate_flags(WHO, **options)
            return (time.process_time() - started) / repetitions

        return measure

    return {
        "one flag, leanbase": cpu(ours, 200, flag_keys=["flag-7"]),
        "one flag, posthog": cpu(theirs, 200, flag_keys=["flag-7"]),
        "100 flags, leanbase": cpu(ours, 10),
        "100 flags, posthog": cpu(theirs, 10),
    }


@contextmanager
def silent_server() -> Iterator[str]:
    """Start a server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def outage() -> str:
    """Measure reads, in seconds, while the definitions endpoint does not respond. Only local evaluation."""
    from posthog import Posthog

    from leanbase import Leanbase

    rows = ["| | first read, s | second read, s | each of the next 100 reads, ms |", "|---|---:|---:|---:|"]
    with silent_server() as url, tempfile.TemporaryDirectory() as directory:
        clients: dict[str, Any] = {
            "leanbase": Leanbase(KEY, url, secret_key="phs", spool_directory=directory),
            "posthog": Posthog(
                KEY, host=url, send=False, personal_api_key="phx", enable_local_evaluation=False
            ),
        }
        for name, client in clients.items():
            spent = []
            for _ in range(2):
                started = time.perf_counter()
                client.evaluate_flags(WHO, only_evaluate_locally=True)
                spent.append(time.perf_counter() - started)
            after = "-"
            if spent[1] < 1:
                started = time.perf_counter()
                for _ in range(100):
                    client.evaluate_flags(WHO, only_evaluate_locally=True)
                after = f"{(time.perf_counter() - started) * 10:.3f}"
            rows.append(f"| {name} | {spent[0]:.2f} | {spent[1]:.3f} | {after} |")
    return "\n".join(rows)


def memory() -> str:
    """Measure the memory of a full record of reported reads."""
    from leanbase.feature_flags.exposures import MAX_REPORTED, Reported

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    reported = Reported()
    for number in range(MAX_REPORTED):
        reported.once(number.to_bytes(8, "big"), lambda: True)
    taken = (tracemalloc.get_traced_memory()[0] - before) / 2**20
    tracemalloc.stop()
    return f"The record of {MAX_REPORTED:,} reported reads takes {taken:.2f} MiB of memory."


TRAFFIC = {
    "1000 in 10 s": 100.0,
    "10 a second": 10.0,
    "1 a second": 1.0,
    "1 in 86 s": 1 / 86,
    "1 in 10 min": 1 / 600,
}
"""Invocations a second. Each simulation has `INVOCATIONS` of them."""

INVOCATIONS, SECONDS_OF_ONE, SECONDS_TO_LIVE = 1000, 0.3, 360.0


def requests() -> str:
    """Count the requests of 1000 invocations, with a real store for each sandbox, on a simulated clock."""
    rows = [
        "| invocations | sandboxes | `api`: requests | `api` with a bundle: responses with definitions |",
        "|---|---:|---:|---:|",
    ]
    for name, rate in TRAFFIC.items():
        sandboxes, asked, _ = _simulated(rate, bundled=False)
        _, _, whole = _simulated(rate, bundled=True)
        rows.append(f"| {name} | {sandboxes} | {asked} | {whole} |")
    return "\n".join(rows)


def _simulated(rate: float, *, bundled: bool) -> tuple[int, int, int]:
    """Return the numbers of sandboxes, of requests, and of responses with definitions."""
    from leanbase.feature_flags import Definitions, DefinitionsSource
    from leanbase.feature_flags.store import DefinitionsStore

    asked = whole = 0
    data = definitions(1)

    class Api(DefinitionsSource):
        def load(self, known: Definitions | None, *, deadline: Any) -> Definitions | None:
            nonlocal asked, whole
            asked += 1
            if known is not None:
                return None
            whole += 1
            return Definitions.from_json(data, etag="1")

    class Bundle(DefinitionsSource):
        is_local = True

        def load(self, known: Definitions | None, *, deadline: Any) -> Definitions | None:
            return Definitions.from_json(data, etag="1", fetched_at=0.0)

    clock = [1e9]
    shuffled = random.Random(1)
    idle: list[tuple[float, DefinitionsStore]] = []  # sorted by the time until which each works
    sandboxes = 0

    def now_simulated() -> float:
        return clock[0]

    with mock.patch("time.time", now_simulated), mock.patch("time.monotonic", now_simulated):
        for _ in range(INVOCATIONS):
            clock[0] += shuffled.expovariate(rate)
            now = clock[0]
            free = [each for each in idle if each[0] <= now and now - each[0] < SECONDS_TO_LIVE]
            if free:
                latest = free[-1]
                idle.remove(latest)
                store = latest[1]
            else:
                sandboxes += 1
                store = DefinitionsStore([Api(), Bundle()] if bundled else [Api()], ttl=60.0, max_age=300.0)
            assert store.pinned().definitions is not None
            idle.append((now + SECONDS_OF_ONE, store))
            idle.sort(key=lambda each: each[0])
    return sandboxes, asked, whole
