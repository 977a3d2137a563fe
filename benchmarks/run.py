"""`make bench`: Leanbase side by side with other SDKs and with bare urllib3, in one run.

Everything that is compared is measured in turns, round by round, so that a machine that slows down slows
all of them down. Tables show the median and the middle half of the rounds; read the ratios, not the
milliseconds. Writes results.md beside this file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import urllib3

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import instructions
from server import running
from workload import KEY, NAME, PROPERTIES, WHO, body, failing_call

from tests.lambda_runtime.emulator import Emulator

Samples = dict[str, list[float]]


def in_turns(subjects: Mapping[str, Callable[[], float]], rounds: int, warm: int = 1) -> Samples:
    """Measure each subject once a round, in a new order each time; the first rounds do not count."""
    samples: Samples = {name: [] for name in subjects}
    order = list(subjects)
    shuffle = random.Random(1).shuffle
    for number in range(rounds + warm):
        shuffle(order)  # whatever ran before leaves the caches to the next
        for name in order:
            value = subjects[name]()
            if number >= warm:
                samples[name].append(value)
    return samples


def wall(work: Callable[[], Any]) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measure


def table(samples: Samples, base: str, unit: str, scale: float) -> str:
    """A Markdown table: median, middle half, and the ratio of the medians to `base`'s."""
    reference = statistics.median(samples[base])
    rows = [f"| | median, {unit} | middle half | ÷ {base} |", "|---|---:|---:|---:|"]
    for name, values in samples.items():
        low, median, high = (value * scale for value in statistics.quantiles(values, n=4))
        ratio = median / scale / reference
        rows.append(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {ratio:.2f} |")
    return "\n".join(rows)


def imports() -> str:
    """Whole processes that do nothing but import."""
    # With bytecode files, as an installed package has them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def process(code: str) -> Callable[[], float]:
        return wall(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment))

    subjects = {
        "bare interpreter": process("pass"),
        "json, logging": process("import json, logging"),
        "leanbase": process("import leanbase"),
        "posthog": process("import posthog"),
        "segment": process("import segment.analytics"),
    }
    samples = in_turns(subjects, rounds=20)
    bare = statistics.median(samples["bare interpreter"])
    over = {name: statistics.median(values) - bare for name, values in samples.items()}
    ratio = over["leanbase"] / over["json, logging"]
    return (
        table(samples, "json, logging", "ms", 1000)
        + f"\n\nOver a bare interpreter, leanbase takes {ratio:.2f} times what `import json, logging` does."
    )


def one_capture() -> str:
    """One event, sent and answered, on a warm connection."""
    from posthog import Posthog
    from segment.analytics.client import Client as Segment

    from leanbase import Leanbase

    with running() as url:
        pool, data = urllib3.PoolManager(), body(1)
        headers = {"Content-Type": "application/json", "User-Agent": "benchmark"}
        ours = Leanbase(KEY, url)
        # The bytes on the wire are the same: below 1 KiB nothing is compressed by default.
        posthog = Posthog(KEY, host=url, sync_mode=True)
        segment = Segment(KEY, host=url, sync_mode=True)
        subjects = {
            "bare urllib3": wall(lambda: pool.request("POST", f"{url}/batch/", body=data, headers=headers)),
            "leanbase": wall(lambda: ours.capture(NAME, distinct_id=WHO, properties=PROPERTIES)),
            "posthog sync_mode": wall(lambda: posthog.capture(NAME, distinct_id=WHO, properties=PROPERTIES)),
            "segment sync_mode": wall(lambda: segment.track(WHO, NAME, PROPERTIES)),
        }
        samples = in_turns(subjects, rounds=600, warm=50)
        assert len(data) < 1024
        assert ours.stats()["delivered"] == 650
        ratio = statistics.median(samples["leanbase"]) / statistics.median(samples["posthog sync_mode"])
        return (
            table(samples, "bare urllib3", "ms", 1000)
            + f"\n\nleanbase takes {ratio:.2f} times what posthog does."
        )


def cpu_per_event() -> str:
    """CPU of the whole process, all threads, until everything is delivered."""
    from posthog import Posthog
    from segment.analytics.client import Client as Segment

    from leanbase import Leanbase

    events = 1000

    def cpu(work: Callable[[], Any]) -> Callable[[], float]:
        def measure() -> float:
            started = time.process_time()
            work()
            return (time.process_time() - started) / events

        return measure

    with running() as url:
        ours = Leanbase(KEY, url)
        posthog = Posthog(KEY, host=url)
        segment = Segment(KEY, host=url)

        def leanbase_scope() -> None:
            with ours.delivery_scope():
                for _ in range(events):
                    ours.capture(NAME, distinct_id=WHO, properties=PROPERTIES)

        def posthog_queue() -> None:
            for _ in range(events):
                posthog.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
            posthog.flush()

        def segment_queue() -> None:
            for _ in range(events):
                segment.track(WHO, NAME, PROPERTIES)
            segment.flush()

        subjects = {
            "leanbase in a scope": cpu(leanbase_scope),
            "posthog to its queue, with its worker": cpu(posthog_queue),
            "segment to its queue, with its worker": cpu(segment_queue),
        }
        samples = in_turns(subjects, rounds=15, warm=2)
        assert ours.stats()["delivered"] == 17 * events
        return table(samples, "posthog to its queue, with its worker", "µs", 1e6)


FIRST_SEND = """
import sys, time
from workload import KEY, NAME, PROPERTIES, WHO
from leanbase import Leanbase
started = time.process_time()
client = Leanbase(KEY, sys.argv[1], transport=sys.argv[2], queue_url=f"{sys.argv[1]}/123456789012/events")
with client.delivery_scope() as scope:
    for _ in range(10):
        client.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
print(time.process_time() - started)
assert scope.receipt.delivered + scope.receipt.handed_off == 10, scope.receipt
assert not {"boto3", "botocore"} & set(sys.modules)
"""


def first_send() -> str:
    """CPU of the first send of a process: imports, connection, ten events."""
    credentials = {
        "AWS_ACCESS_KEY_ID": "an id",
        "AWS_SECRET_ACCESS_KEY": "a secret",
        "AWS_REGION": "eu-west-1",
    }
    environment = {**os.environ, **credentials, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    with running() as url:

        def measure(transport: str) -> Callable[[], float]:
            command = [sys.executable, "-c", FIRST_SEND, url, transport]
            # The line of the log transport comes before the figure.
            return lambda: float(
                subprocess.check_output(command, env=environment, text=True).splitlines()[-1]
            )

        subjects = {transport: measure(transport) for transport in ("http", "sqs", "log")}
        return table(in_turns(subjects, rounds=20), "http", "ms", 1000)


def hand_off() -> str:
    """CPU of the whole process for events that are handed off, in scopes of ten as in an invocation."""
    from leanbase import Leanbase
    from leanbase.transports import LogTransport, SpoolTransport

    events = 1000

    def cpu(client: Leanbase) -> Callable[[], float]:
        def measure() -> float:
            started = time.process_time()
            for _ in range(events // 10):
                with client.delivery_scope():
                    for _ in range(10):
                        client.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
            return (time.process_time() - started) / events

        return measure

    with running() as url, tempfile.TemporaryDirectory() as directory, open(os.devnull, "wb") as log:
        os.environ.update(AWS_ACCESS_KEY_ID="an id", AWS_SECRET_ACCESS_KEY="a secret", AWS_REGION="eu-west-1")
        clients = {
            "http": Leanbase(KEY, url),
            "log": Leanbase(transport=LogTransport(log.fileno())),
            "sqs": Leanbase(transport="sqs", queue_url=f"{url}/123456789012/events"),
            "spool, written only": Leanbase(transport=SpoolTransport(os.path.join(directory, "spool"))),
        }
        samples = in_turns({name: cpu(client) for name, client in clients.items()}, rounds=15, warm=2)
        assert clients["log"].stats()["handed_off"] == clients["sqs"].stats()["handed_off"] == 17 * events
        return table(samples, "http", "µs", 1e6)


def invocation(delay_ms: int) -> str:
    """Ten events in one warm invocation, in AWS's emulator, until the caller has the response."""
    functions = ["nothing", "urllib3", "leanbase", "leanbase after_response"]
    functions += ["posthog flush", "segment flush", "posthog sync_mode"]
    with running(delay_ms) as url, contextlib.ExitStack() as stack:
        emulators: dict[str, Emulator] = {}
        counts: Counter[Emulator] = Counter()
        for name in functions:
            environment = {"BENCHMARK_HOST": url, "BENCHMARK_FUNCTION": name}
            emulators[name] = Emulator("lambda_functions.handler", HERE, environment, timeout=30)
            stack.callback(emulators[name].kill)

        def invoke(emulator: Emulator) -> float:
            answer = emulator.invoke({})
            assert answer.body == "done", answer
            counts[emulator] += 1
            while len(durations := emulator.durations()) < counts[emulator]:
                time.sleep(0.001)  # the log line comes after the response
            return durations[-1] / 1000

        subjects = {name: functools.partial(invoke, emulator) for name, emulator in emulators.items()}
        return table(in_turns(subjects, rounds=30, warm=3), "urllib3", "ms", 1000)


def one_exception() -> str:
    """CPU of one call in its thread: frames with source, and variables; nothing is sent."""
    from posthog import Posthog

    from leanbase import Leanbase, Receipt
    from leanbase.transports import BaseTransport

    class Nowhere(BaseTransport):
        def send(self, events: Any, *, deadline: Any) -> Receipt:
            return Receipt(delivered=len(events))

    def cpu(client: Any, error: Callable[[], Exception]) -> Callable[[], float]:
        def measure() -> float:
            exception = error()  # a new one each time: one is captured but once
            started = time.thread_time()
            uuid = client.capture_exception(exception, distinct_id=WHO)
            spent = time.thread_time() - started
            assert uuid
            return spent

        return measure

    with tempfile.TemporaryDirectory() as directory:
        fail = failing_call(Path(directory), 30)
        depth, traceback = 0, fail().__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        assert depth == 30, depth
        options: dict[str, Any] = {"project_root": directory}
        with_variables = {**options, "capture_exception_code_variables": True}
        nowhere = "http://127.0.0.1:9"
        subjects = {
            "leanbase": cpu(Leanbase(KEY, transport=Nowhere(), **options), fail),
            "leanbase with variables": cpu(Leanbase(KEY, transport=Nowhere(), **with_variables), fail),
            "posthog": cpu(Posthog(KEY, host=nowhere, send=False, **options), fail),
            "posthog with variables": cpu(Posthog(KEY, host=nowhere, send=False, **with_variables), fail),
        }
        return table(in_turns(subjects, rounds=200, warm=20), "posthog", "ms", 1000)


def counted_instructions() -> str:
    """The same whatever else the machine is doing; see instructions.py for what each row is."""
    return instructions.table([]) if instructions.available() else "valgrind is not installed: not counted."


QUESTIONS: dict[str, Callable[[], str]] = {
    "How many instructions do calls take? (callgrind)": counted_instructions,
    "What does importing cost? (whole process)": imports,
    "What does one synchronous capture cost? (server on loopback, warm)": one_capture,
    "What does an event cost in CPU? (1000 events, until all are delivered)": cpu_per_event,
    "What does the first send of a process cost in CPU? (ten events, imports included)": first_send,
    "What does an event cost in CPU that is handed off? (ten at a time, as in an invocation)": hand_off,
    "What does an exception cost in CPU? (30 frames with source; captured, not sent)": one_exception,
    "What do ten events add to an invocation? (in AWS's emulator, server 0 ms away)": lambda: invocation(0),
    "What do ten events add to an invocation? (in AWS's emulator, server 50 ms away)": lambda: invocation(50),
}


def main() -> None:
    packages = ("leanbase", "urllib3", "posthog", "segment-analytics-python", "awslambdaric")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    sections = []
    for question, measure in QUESTIONS.items():
        sections.append(f"## {question}\n\n{measure()}\n")
        print(f"\n{sections[-1]}", flush=True)
    (HERE / "results.md").write_text(
        "# Benchmarks\n\n"
        f"Written by `make bench`: {versions}; CPython {platform.python_version()}, {os.cpu_count()} cores. "
        "All rows of a table were measured in turns in one run; compare the ratios.\n\n" + "\n".join(sections)
    )


if __name__ == "__main__":
    main()
