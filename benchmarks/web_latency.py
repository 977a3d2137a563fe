"""Measures how a silent ingestion server delays web requests: `python -m benchmarks.web_latency`.

The ingestion server accepts each request and never responds, so each send takes its maximum time. Each web
server first handles the same requests without Leanbase.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3

from tests.support.fault_server import Behaviour, FaultServer
from tests.support.web_servers import WebServer, gunicorn, serving, uvicorn

REQUESTS = 2000
AT_A_TIME = 8
APPS = "tests.integrations.apps"

SERVERS: dict[str, tuple[list[str], str, dict[str, Any]]] = {
    "uvicorn, FastAPI": (uvicorn(f"{APPS}.web_fastapi:app"), "/orders/7", {}),
    "uvicorn, Django": (uvicorn(f"{APPS}.web_django:app"), "/async", {"DJANGO_ASYNC": "1"}),
    "gunicorn, 8 threads, WSGI": (gunicorn(f"{APPS}.web_wsgi:app", "--threads", "8"), "/index", {}),
    "gunicorn, 8 threads, Django": (gunicorn(f"{APPS}.web_django:app", "--threads", "8"), "/", {}),
    "gunicorn, gevent, WSGI": (gunicorn(f"{APPS}.web_wsgi:app", "--worker-class", "gevent"), "/index", {}),
    "gunicorn, synchronous, WSGI": (gunicorn(f"{APPS}.web_wsgi:app"), "/index", {}),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "without": {"BARE": "1"},
    "with": {},
    "with a buffer": {"SYNC_MODE": "false"},
}


def milliseconds(server: WebServer, path: str) -> list[float]:
    """Return the duration of each request in milliseconds, sorted."""
    pool = urllib3.PoolManager(maxsize=AT_A_TIME)

    def ask(_: int) -> float:
        before = time.perf_counter()
        response = pool.request("GET", f"{server.url}{path}", timeout=60, retries=3)
        assert response.status == 200
        return (time.perf_counter() - before) * 1000

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        list(threads.map(ask, range(50)))  # the first requests import modules
        return sorted(threads.map(ask, range(REQUESTS)))


def main() -> None:
    print("| server | Leanbase | median | 99 % | slowest |\n|---|---|---:|---:|---:|")
    for name, (command, path, variables) in SERVERS.items():
        for variant, options in VARIANTS.items():
            silent = FaultServer()
            silent.always(Behaviour(instead="silence"))
            with tempfile.TemporaryDirectory() as folder:
                environment: dict[str, Any] = {"INGESTION": silent.url, "DJANGO_DATABASE": f"{folder}/db"}
                with serving(command, stops=False, **environment, **variables, **options) as server:
                    took = milliseconds(server, path)
            silent.stop()
            middle, late = took[len(took) // 2], took[int(len(took) * 0.99)]
            print(f"| {name} | {variant} | {middle:.1f} ms | {late:.1f} ms | {took[-1]:.1f} ms |", flush=True)


if __name__ == "__main__":
    main()
