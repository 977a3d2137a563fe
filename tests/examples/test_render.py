"""The programs of `examples/render`, each as a process with Render's variables, which gets SIGTERM in mid-work.

A program prints a line when it has captured the events of a piece of work, or its client has a response. Each such
piece must have its events at the ingestion server, a `FaultServer`, however early or late the signal came.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from tests.handlers.test_platforms import RENDER, RENDER_TAGS
from tests.support.fault_server import FaultServer
from tests.support.waiting import wait_until
from tests.support.web_servers import gunicorn, serving

FOLDER = Path(__file__).parents[2] / "examples" / "render"
MOMENTS = 50
AT_ONCE = 4

pytestmark = pytest.mark.slow


def environment(server: FaultServer, **others: str) -> dict[str, Any]:
    return {"LEANBASE_API_KEY": "phc_test", "LEANBASE_HOST": server.url, **RENDER, **others}


def start(program: str, server: FaultServer, **others: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program],
        cwd=FOLDER,
        env={**os.environ, **environment(server, **others)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def at_random_moments(run: Callable[[float], None], longest: float) -> None:
    """Call `run` with random seconds up to `longest`, several at a time."""
    moments = [random.uniform(0, longest) for _ in range(MOMENTS)]
    print("moments:", moments)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in [pool.submit(run, moment) for moment in moments]:
            each.result()


def values(server: FaultServer, event: str, name: str) -> list[Any]:
    """Return a property of all events of a name that the server has accepted.

    Events accepted twice count once: SIGTERM in the middle of a send makes the client send them again.
    """
    accepted = {each["uuid"]: each for request in server.accepted for each in request.events}
    return [each["properties"][name] for each in accepted.values() if each["event"] == event]


def names_of(lines: str, prefix: str) -> list[str]:
    return [
        line.removeprefix(prefix).partition(":")[0] for line in lines.splitlines() if line.startswith(prefix)
    ]


# --- the blueprint ------------------------------------------------------------------------------------------


def test_the_blueprint_starts_the_programs_of_this_folder() -> None:
    services = yaml.safe_load((FOLDER / "render.yaml").read_text())["services"]
    assert [service["type"] for service in services] == ["cron", "worker", "web"]
    for service in services:
        program = service["startCommand"].split()[-1].partition(":")[0].removesuffix(".py")
        assert (FOLDER / f"{program}.py").exists()
        assert {"rootDir", "runtime", "plan", "buildCommand"} <= set(service)
        variables = {each.get("key"): each.get("value") for each in service["envVars"]}
        assert {"fromGroup": "leanbase"} in service["envVars"]
        assert variables.get("LEANBASE_SIGTERM_GRACE") == service.get("maxShutdownDelaySeconds")
        assert "LEANBASE_API_KEY" not in variables
        assert "PYTHON_VERSION" in variables


# --- the cron job -------------------------------------------------------------------------------------------


def test_the_cron_job_captures_its_work_with_renders_tags(server: FaultServer) -> None:
    process = start("nightly.py", server)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, names_of(output, "billed ")) == (0, ["acme", "globex"])
    assert [event["event"] for event in server.events] == [
        *["invoice sent", "$groupidentify"] * 2,
        "billing finished",
    ]
    assert len(server.requests) == 1
    assert RENDER_TAGS.items() <= server.events[0]["properties"].items()


@pytest.mark.rule("P-2")
def test_a_cron_job_that_gets_sigterm_at_any_moment_loses_nothing(
    server: FaultServer, tmp_path: Path
) -> None:
    usage = tmp_path / "usage.csv"
    usage.write_text("company,amount\n" + "".join(f"company-{n},1.5\n" for n in range(100_000)))

    def run(moment: float) -> None:
        process = start("nightly.py", server, USAGE_FILE=str(usage))
        time.sleep(moment)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGTERM, output
        assert "Traceback" not in output
        billed.append(len(names_of(output, "billed ")))

    billed: list[int] = []
    at_random_moments(run, 1.5)
    assert sum(billed) > MOMENTS, "most signals come in mid-work"
    # Every process bills the companies in the same order. What was captured may not have been printed.
    arrived = Counter(groups["company"] for groups in values(server, "invoice sent", "$groups"))
    for number in range(max(billed)):
        assert arrived[f"company-{number}"] >= sum(each > number for each in billed)


# --- the background worker ----------------------------------------------------------------------------------


class Site(BaseHTTPRequestHandler):
    """A site that the worker checks."""

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_worker_sends_each_round_when_it_ends(server: FaultServer, site: str) -> None:
    """It then waits for a minute, during which nothing is left to send."""
    process = start("worker.py", server, SITES=f"{site}/a,{site}/b,http://127.0.0.1:9/", INTERVAL="60")
    try:
        wait_until(lambda: len(values(server, "site checked", "status")) == 3, 20)
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output.splitlines()[-1]) == (0, "stopped")
    assert values(server, "site checked", "site") == [
        f"{site}/a",
        f"{site}/b",
        "http://127.0.0.1:9/",
    ]
    assert values(server, "$exception", "site") == ["http://127.0.0.1:9/"]
    assert set(values(server, "site checked", "render.service.type")) == {"background_worker"}


@pytest.mark.rule("P-2")
def test_a_worker_that_gets_sigterm_at_any_moment_finishes_its_round_and_loses_nothing(
    server: FaultServer, site: str
) -> None:
    sites = [f"{site}/{number}" for number in range(20)]

    def run(moment: float) -> None:
        process = start("worker.py", server, SITES=",".join(sites), INTERVAL="0.05")
        assert process.stdout is not None
        first = process.stdout.readline()  # the handler of SIGTERM is installed now
        time.sleep(moment)
        process.send_signal(signal.SIGTERM)
        output = process.stdout.read()  # not communicate(): it would miss what readline() has read ahead
        process.wait(30)
        process.stdout.close()
        assert process.returncode == 0, output
        lines = [line for line in (first + output).splitlines() if line.startswith("http")]
        assert len(lines) % len(sites) == 0, "the last round is whole"
        printed.append(len(lines))

    printed: list[int] = []
    at_random_moments(run, 0.6)
    assert len(values(server, "site checked", "status")) == sum(printed)


@pytest.mark.rule("Q-51")
def test_a_job_that_loops_sends_on_time(server: FaultServer) -> None:
    """Without a scope of its own in the loop: the events of a job leave after `flush_interval`."""
    program = (
        "import time, leanbase\n"
        "@leanbase.job\n"
        "def main():\n"
        "    while True:\n"
        "        leanbase.capture('tick', properties={'at': time.time()})\n"
        "        time.sleep(0.02)\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **environment(server, LEANBASE_FLUSH_INTERVAL="0.3", LEANBASE_FLUSH_AT="1000")},
    )
    try:
        wait_until(lambda: len(server.requests) >= 4, 20)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    for request in server.requests[:-1]:
        times = [event["properties"]["at"] for event in request.events]
        assert times[-1] - times[0] < 2.0, "a request has the events of one interval"


# --- the web service ----------------------------------------------------------------------------------------


def order(pool: urllib3.PoolManager, url: str, sku: str = "tea") -> urllib3.BaseHTTPResponse:
    return pool.request(
        "POST", f"{url}/orders", json={"sku": sku, "quantity": 2}, retries=False, timeout=urllib3.Timeout(10)
    )


def test_the_web_service_captures_orders_and_failures_with_renders_tags(server: FaultServer) -> None:
    with serving(
        gunicorn("shop:app", "--threads", "8"), cwd=FOLDER, stops=False, **environment(server)
    ) as web:
        with urllib3.PoolManager() as pool:
            assert order(pool, web.url).status == 201
            assert order(pool, web.url, "water").status == 500
            assert pool.request("GET", f"{web.url}/health").status == 200
        wait_until(lambda: len(server.events) >= 2, 10)
    assert [event["event"] for event in server.events] == ["order created", "$exception"]
    assert values(server, "$exception", "$exception_type") == ["KeyError"]
    assert RENDER_TAGS.items() <= server.events[0]["properties"].items()


@pytest.mark.rule("P-2")
def test_a_web_service_that_gets_sigterm_at_any_moment_loses_no_order(server: FaultServer) -> None:
    def run(moment: float) -> None:
        with serving(gunicorn("shop:app", "--threads", "4"), cwd=FOLDER, **environment(server)) as web:

            def keep_ordering() -> None:
                with urllib3.PoolManager() as pool:
                    try:
                        while True:
                            response = order(pool, web.url)
                            if response.status == 201:
                                ordered.append(response.json()["order"])
                    except (urllib3.exceptions.HTTPError, OSError):
                        pass  # the service has stopped

            customers = [threading.Thread(target=keep_ordering) for _ in range(3)]
            for customer in customers:
                customer.start()
            time.sleep(moment)
            web.stop()
            for customer in customers:
                customer.join()
        assert web.process.returncode == 0, web.output

    ordered: list[str] = []
    at_random_moments(run, 0.8)
    assert len(ordered) > MOMENTS
    assert set(ordered) <= set(values(server, "order created", "order"))
