"""`make bench`: compares Leanbase with other SDKs and with bare urllib3, in one run.

All subjects of a table are measured in turns, round by round, so a machine that slows down affects all of
them. Tables show the median and the middle half of the rounds; read the ratios, not the milliseconds. Writes
results.md beside this file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3

HERE = Path(__file__).parent
CSV_ROWS = 300_000
sys.path[:0] = [str(HERE.parent), str(HERE)]

import flags
import instructions
from bulk_import import SDKS
from csv_import import SDKS as CSV_SDKS
from csv_import import write as write_csv
from server import running
from workload import KEY, NAME, PROPERTIES, WHO, body, failing_call

from tests.lambda_runtime.emulator import Emulator

Samples = dict[str, list[float]]


def in_turns(subjects: Mapping[str, Callable[[], float]], rounds: int, warm: int = 1) -> Samples:
    """Measure each subject once a round, in a new order. The first `warm` rounds do not count."""
    samples: Samples = {name: [] for name in subjects}
    order = list(subjects)
    shuffle = random.Random(1).shuffle
    for number in range(rounds + warm):
        shuffle(order)  # a subject finds the CPU caches as the previous subject left them
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
    """Return a Markdown table: median, middle half, and the ratio of the median to the median of `base`."""
    reference = statistics.median(samples[base])
    rows = [f"| | median, {unit} | middle half | ÷ {base} |", "|---|---:|---:|---:|"]
    for name, values in samples.items():
        low, median, high = (value * scale for value in statistics.quantiles(values, n=4))
        ratio = median / scale / reference
        rows.append(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {ratio:.2f} |")
    return "\n".join(rows)


def imports() -> str:
    """Measure whole processes that only import."""
    # With bytecode files, like an installed package.
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
        + f"\n\nWithout the time of the bare interpreter, leanbase takes {ratio:.2f} times as long as "
        "`import json, logging`."
    )


def one_capture() -> str:
    """Measure one event, until its response, on a warm connection."""
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
            + f"\n\nleanbase takes {ratio:.2f} times as long as posthog."
        )


def cpu_per_event() -> str:
    """Measure the CPU time of the process with all threads, until all events are delivered."""
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
    """Measure the CPU time of the first send of a process: imports, connection, ten events."""
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
            # The log transport prints its line before the figure.
            return lambda: float(
                subprocess.check_output(command, env=environment, text=True).splitlines()[-1]
            )

        subjects = {transport: measure(transport) for transport in ("http", "sqs", "log")}
        return table(in_turns(subjects, rounds=20), "http", "ms", 1000)


def hand_off() -> str:
    """Measure the CPU time of the process for a hand-off of events, in scopes of ten as in an invocation."""
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
            "spool, without delivery": Leanbase(transport=SpoolTransport(os.path.join(directory, "spool"))),
        }
        samples = in_turns({name: cpu(client) for name, client in clients.items()}, rounds=15, warm=2)
        assert clients["log"].stats()["handed_off"] == clients["sqs"].stats()["handed_off"] == 17 * events
        return table(samples, "http", "µs", 1e6)


FUNCTIONS = (
    "nothing",
    "urllib3",
    "leanbase",
    "leanbase after_response",
    "leanbase log",
    "posthog flush",
    "segment flush",
    "posthog sync_mode",
)


@functools.cache
def bundle_of_flags() -> Path:
    """Return the path of a bundle of 100 flags."""
    path = Path(tempfile.mkdtemp()) / "flags.json"
    path.write_text(json.dumps(flags.definitions(100)))
    return path


def emulator_of(function: str, url: str, events: int = 10) -> Emulator:
    environment = {
        "BENCHMARK_HOST": url,
        "BENCHMARK_FUNCTION": function,
        "BENCHMARK_EVENTS": str(events),
        "BENCHMARK_FLAGS": str(bundle_of_flags()),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return Emulator("lambda_functions.handler", HERE, environment, timeout=60)


def invoked(emulator: Emulator, count: int) -> float:
    """Invoke a function for the `count`th time, and return the seconds until its response."""
    answer = emulator.invoke({})
    assert answer.body == "done", answer
    while len(durations := emulator.durations()) < count:
        time.sleep(0.001)  # the log line comes after the response
    return durations[-1] / 1000


def invocation(
    delay_ms: int, events: int = 10, rounds: int = 100, functions: Sequence[str] = FUNCTIONS
) -> str:
    """Measure warm invocations with events, in AWS's emulator, until the response."""
    with running(delay_ms) as url, contextlib.ExitStack() as stack:
        emulators: dict[str, Emulator] = {}
        counts: Counter[Emulator] = Counter()
        for name in functions:
            emulators[name] = emulator_of(name, url, events)
            stack.callback(emulators[name].kill)

        def invoke(emulator: Emulator) -> float:
            counts[emulator] += 1
            return invoked(emulator, counts[emulator])

        subjects = {name: functools.partial(invoke, emulator) for name, emulator in emulators.items()}
        return table(in_turns(subjects, rounds, warm=3), "urllib3", "ms", 1000)


def cold_start() -> str:
    """Measure new sandboxes in AWS's emulator: initialization, first invocation, and memory after it."""
    functions = [name for name in FUNCTIONS if name != "posthog sync_mode"]
    functions.insert(3, "leanbase with 100 flags")
    initialisation: Samples = {name: [] for name in functions}
    memory: Samples = {name: [] for name in functions}
    with running() as url:

        def start(function: str) -> float:
            emulator = emulator_of(function, url)
            try:
                seconds = invoked(emulator, 1)
                reported = re.search(r"INIT REPORT\(durationMs: ([\d.]+)\)", "\n".join(emulator.log))
                assert reported
                initialisation[function].append(float(reported[1]) / 1000)
                memory[function].append(max(map(peak_mib, emulator.processes()[1:])))
            finally:
                emulator.kill()
            return seconds

        first = in_turns({name: functools.partial(start, name) for name in functions}, rounds=10, warm=0)
    return "\n\n".join(
        f"{title}:\n\n{table(samples, 'nothing', unit, scale)}"
        for title, samples, unit, scale in (
            ("Initialisation", initialisation, "ms", 1000),
            ("First invocation, with ten events", first, "ms", 1000),
            ("Peak memory of the function", memory, "MiB", 1),
        )
    )


def peak_mib(process: int) -> float:
    """Return the peak memory of a process in MiB, from Linux."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def bulk_import() -> str:
    """Measure whole processes that import past events, until all are delivered to a server on loopback."""
    rows = [
        "| | 50,000: events/s | 200,000: events/s | ÷ posthog | 50,000: peak memory, MiB "
        "| 200,000: peak memory, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with running() as url:

        def run(sdk: str, events: int) -> float:
            command = [sys.executable, str(HERE / "bulk_import.py"), sdk, url, str(events)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, mib = map(float, done.stdout.split())
            measured.setdefault((sdk, events), []).append((events / seconds, mib))
            return seconds

        for events in (50_000, 200_000):
            subjects = {sdk: functools.partial(run, sdk, events) for sdk in SDKS}
            in_turns(subjects, rounds=3 if events < 100_000 else 1, warm=0)
    middle = {
        key: [statistics.median(each) for each in zip(*values, strict=True)]
        for key, values in measured.items()
    }
    for sdk in SDKS:
        (few, few_mib), (many, many_mib) = middle[sdk, 50_000], middle[sdk, 200_000]
        ratio = many / middle["posthog", 200_000][0]
        rows.append(f"| {sdk} | {few:,.0f} | {many:,.0f} | {ratio:.2f} | {few_mib:.1f} | {many_mib:.1f} |")
    return "\n".join(rows)


def csv_import() -> str:
    """Measure whole processes that import a CSV file, until all is delivered to a server on loopback."""
    rows = [
        "| | events/s | ÷ posthog | memory before, MiB | peak memory, MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    measured: dict[str, list[tuple[float, float, float]]] = {}
    with running() as url, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.csv"
        write_csv(path, CSV_ROWS)

        def run(sdk: str) -> float:
            path.with_name(path.name + ".checkpoint").unlink(missing_ok=True)
            command = [sys.executable, str(HERE / "csv_import.py"), sdk, url, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, before, peak = map(float, done.stdout.splitlines()[-1].split())
            measured.setdefault(sdk, []).append((CSV_ROWS / seconds, before, peak))
            return seconds

        in_turns({sdk: functools.partial(run, sdk) for sdk in CSV_SDKS}, rounds=2, warm=0)
    middle = {
        sdk: [statistics.median(each) for each in zip(*values, strict=True)]
        for sdk, values in measured.items()
    }
    for sdk, (speed, before, peak) in middle.items():
        rows.append(
            f"| {sdk} | {speed:,.0f} | {speed / middle['posthog'][0]:.2f} | {before:.1f} | {peak:.1f} |"
        )
    return "\n".join(rows)


def growth() -> str:
    """Measure the CPU time of one capture by the number of events in one scope or one buffer."""
    from leanbase import Leanbase
    from leanbase.transports import BufferedTransport

    def cpu(events: int, collected: bool) -> float:
        buffer = BufferedTransport(
            instructions.nowhere(), flush_at=10**6, max_queue_size=10**6, max_queue_bytes=10**9
        )
        client = Leanbase(KEY, transport=instructions.nowhere() if collected else buffer, flush_at=10**6)
        client.capture(NAME, distinct_id=WHO, properties=PROPERTIES)  # imports
        client.flush()
        started = time.process_time()
        with client.delivery_scope() if collected else contextlib.nullcontext():
            for _ in range(events):
                client.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
        client.flush()
        return (time.process_time() - started) / events

    subjects = {}
    for events in (1, 10, 1000, 100_000):
        subjects[f"{events:,} in a scope"] = functools.partial(cpu, events, True)
        subjects[f"{events:,} in a buffer"] = functools.partial(cpu, events, False)
    return table(in_turns(subjects, rounds=5), "1,000 in a scope", "µs", 1e6)


def contexts() -> str:
    """Measure the CPU time to enter and exit a context, by the number of contexts that are already open."""
    client = instructions.client()
    repetitions = 1000

    def at(depth: int) -> Callable[[], float]:
        def measure() -> float:
            with contextlib.ExitStack() as stack:
                for _ in range(depth):
                    stack.enter_context(client.new_context())
                started = time.process_time()
                for _ in range(repetitions):
                    with client.new_context():
                        pass
                return (time.process_time() - started) / repetitions

        return measure

    subjects = {f"{depth} open": at(depth) for depth in (0, 1, 10, 100)}
    return table(in_turns(subjects, rounds=30), "0 open", "µs", 1e6)


def one_exception() -> str:
    """Measure the CPU time of one exception: frames with source, and variables. Nothing is sent."""
    from posthog import Posthog

    from leanbase import Leanbase, Receipt
    from leanbase.transports import BaseTransport

    class Nowhere(BaseTransport):
        def send(self, events: Any, *, deadline: Any) -> Receipt:
            return Receipt(delivered=len(events))

    def cpu(client: Any, error: Callable[[], Exception]) -> Callable[[], float]:
        def measure() -> float:
            exception = error()  # a new exception each time: a client captures an exception only once
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


def flag_evaluation() -> str:
    """Measure the CPU time of local evaluations: two conditions a flag, the first does not match."""
    samples = in_turns(flags.evaluations(), rounds=50, warm=5)
    median = {name: statistics.median(values) for name, values in samples.items()}
    ratios = ", ".join(
        f"{what} {median[f'{what}, leanbase'] / median[f'{what}, posthog']:.2f}"
        for what in ("one flag", "100 flags")
    )
    return (
        table(samples, "one flag, posthog", "µs", 1e6)
        + f"\n\nleanbase ÷ posthog: {ratios}.\n\n{flags.memory()}"
    )


def counted_instructions() -> str:
    """Count instructions, which do not depend on the load of the machine. See instructions.py."""
    return (
        instructions.table([])
        if instructions.available()
        else "valgrind is not installed, so no instructions were counted."
    )


QUESTIONS: dict[str, Callable[[], str]] = {
    "How many instructions do calls take? (callgrind)": counted_instructions,
    "What does importing cost? (whole process)": imports,
    "What does one synchronous capture cost? (server on loopback, warm)": one_capture,
    "What does an event cost in CPU? (1000 events, until all are delivered)": cpu_per_event,
    "What does the first send of a process cost in CPU? (ten events, imports included)": first_send,
    "What does a handed-off event cost in CPU? (ten at a time, as in an invocation)": hand_off,
    "What does an exception cost in CPU? (30 frames with source; captured, not sent)": one_exception,
    "What do ten events add to an invocation? (in AWS's emulator, server delay 0 ms)": lambda: invocation(0),
    "What do ten events add to an invocation? (in AWS's emulator, server delay 50 ms)": lambda: invocation(
        50, rounds=30
    ),
    "What do a hundred events add to an invocation? (in AWS's emulator, server delay 0 ms)": lambda: (
        invocation(0, events=100, rounds=20)
    ),
    "What does a cold start cost? (in AWS's emulator, server on loopback)": cold_start,
    "How fast is an import of the past? (by number of events; buffered, server on loopback)": bulk_import,
    "How fast is an import of a CSV file? (300,000 rows, `leanbase import`, server on loopback)": csv_import,
    "Does an event cost more CPU if there are many events? (until all are sent)": growth,
    "What does it cost to enter and exit a context? (by the number of open contexts)": contexts,
    "What does an evaluation of feature flags cost in CPU? (definitions in the process)": flag_evaluation,
    "How long do reads of flags take while the endpoint of definitions does not respond?": flags.outage,
    "How many requests for definitions do 1000 invocations make? (simulated)": flags.requests,
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
        "`make bench` writes this page.\n\n"
        f"- Versions: {versions}\n"
        f"- Machine: CPython {platform.python_version()}, {os.cpu_count()} cores\n\n"
        "All rows of a table were measured in turns in one run, so compare the ratios, not the times. "
        "The *middle half* is the\nrange between the first and the third quartile. "
        "A column such as *÷ posthog* is the ratio to the median of that row.\n\n" + "\n".join(sections)
    )


if __name__ == "__main__":
    main()
