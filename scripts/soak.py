"""A soak test: all faults at once, for minutes. Afterwards each event must be accounted for.

    python -m scripts.soak --minutes 10

It has three processes:

* one whose threads capture without a scope, in scopes and into a buffer. Its main thread gets a signal every
  3 ms, whose handler captures, flushes or raises. Each second it forks a child that captures and ends;
* one with a pool of recycled workers, each with a buffer;
* the server, which switches between faults at random. It records the id of each event for which it begins a
  2xx response.

At the end every event whose `capture()` returned an id must have arrived, or `on_error` must have been called
with it. No event may have arrived under two ids. The memory, threads and descriptors of the first process are
printed every 10 s, and must not grow.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leanbase import Leanbase
from leanbase.errors import DroppedError, RejectedError
from leanbase.events.ids import uuid7
from leanbase.transports._http import breaker
from tests.support.fault_server import Behaviour, FaultServer, Request

breaker.FIRST_PAUSE_SECONDS = 0.3  # with longer pauses, the test would mostly wait
breaker.LONGEST_PAUSE_SECONDS = 1.0
breaker.BRIEF_EVERY_SECONDS = 1.0

FAULTS = [
    Behaviour(),
    Behaviour(),
    Behaviour(delay=0.05),
    Behaviour(interim=103),
    Behaviour(close_after=True),
    Behaviour(status=500),
    Behaviour(status=503, headers={"Retry-After": "0.2"}),
    Behaviour(status=429),
    Behaviour(status=407),
    Behaviour(status=413),
    Behaviour(status=401),
    Behaviour(status=302, headers={"Location": "http://127.0.0.1:9/"}),
    Behaviour(instead="reset"),
    Behaviour(instead="close"),
    Behaviour(instead="half"),
    Behaviour(delay=2.0),
    Behaviour(trickle=0.002),
]
OPTIONS: dict[str, Any] = {
    "send_deadline": 1.0,
    "timeout": 0.5,
    "max_retries": 1,
    "max_queue_size": 500,
    "flush_at": 50,
    "flush_interval": 0.2,
}


class Lines:
    """A file to which several processes append lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def add(self, *lines: str) -> None:
        if lines:
            os.write(self._file, "".join(f"{line}\n" for line in lines).encode())


class Home:
    """The files of one run: events captured, reported to `on_error` (`told`), and arrived."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.captured = Lines(self.path / "captured")
        self.told = Lines(self.path / "told")
        self.arrived = Lines(self.path / "arrived")

    def client(self, url: str, **options: Any) -> Leanbase:
        return Leanbase("k", url, on_error=self._tell, **{**OPTIONS, **options})

    def _tell(self, error: Exception, events: list[dict[str, Any]]) -> None:
        if isinstance(error, (DroppedError, RejectedError)):
            self.told.add(*(event["uuid"] for event in events))

    def capture(self, client: Leanbase, source: str) -> None:
        """Capture an event with a new id, and record the id if the call returns it."""
        uuid = uuid7()
        if client.capture("e", distinct_id="u", properties={"key": f"{source} {uuid}"}, uuid=uuid):
            self.captured.add(f"{uuid} {source}")


# --- the server ----------------------------------------------------------------------------------------


class Arrivals(list[Request]):
    """Replaces a server's list of requests, which would grow. Writes the events to a file instead."""

    def __init__(self, lines: Lines | None) -> None:
        super().__init__()
        self._lines = lines

    def append(self, request: Request) -> None:
        if self._lines is not None:
            self._lines.add(*(f"{each['uuid']} {each['properties']['key']}" for each in request.events))


def serve(home: Home) -> None:
    server = FaultServer()
    server.requests, server.accepted = Arrivals(None), Arrivals(home.arrived)
    print(server.url, flush=True)
    flapping = threading.Event()
    threading.Thread(target=_flap, args=(server, flapping), daemon=True).start()
    sys.stdin.readline()  # the workers have finished: end the faults
    flapping.set()
    time.sleep(0.5)
    server.always(Behaviour())
    sys.stdin.readline()


def _flap(server: FaultServer, over: threading.Event) -> None:
    while not over.wait(random.uniform(0.02, 0.3)):
        server.always(random.choice(FAULTS))
        if random.random() < 0.1:
            server.reset_connections(2)
        if random.random() < 0.1:
            server.close_connections()


# --- threads, signals, forks ---------------------------------------------------------------------------


class TimeLimit(Exception):
    """Raised by the signal handler."""


def work(home: Home, url: str, seconds: float, threads: int) -> None:
    until = time.monotonic() + seconds
    clients = [home.client(url), home.client(url, sync_mode=False)]
    running = [
        threading.Thread(target=_capture, args=(home, clients[number % 2], number, until))
        for number in range(threads)
    ]
    for thread in running:
        thread.start()
    _be_interrupted(home, clients, until)
    for thread in running:
        thread.join()
    print(json.dumps({"over": True}), flush=True)
    sys.stdin.readline()  # the server has no faults any more
    ended = time.monotonic() + 30
    while any(client.stats()["retained"] for client in clients) and time.monotonic() < ended:
        for client in clients:
            client.flush()
    for client in clients:
        print(json.dumps({"stats": client.stats()}), flush=True)
        client.shutdown()


def _capture(home: Home, client: Leanbase, number: int, until: float) -> None:
    while time.monotonic() < until:
        if random.random() < 0.3:
            with client.delivery_scope():
                for _ in range(random.randint(1, 10)):
                    home.capture(client, f"scope {number}")
        else:
            home.capture(client, f"thread {number}")
        if random.random() < 0.02:
            client.flush(timeout=0.3)
        time.sleep(random.uniform(0.01, 0.05))


def _be_interrupted(home: Home, clients: list[Leanbase], until: float) -> None:
    may_raise = False

    def strike(number: int, frame: object) -> None:
        nonlocal may_raise
        chance = random.random()
        if chance < 0.02:
            random.choice(clients).flush(timeout=0.05)
        elif chance < 0.2:
            home.capture(random.choice(clients), "handler")
        elif chance < 0.5 and may_raise:
            may_raise = False  # raise once for each block of captures
            raise TimeLimit

    signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    measured = forked = time.monotonic()
    while time.monotonic() < until:
        try:
            may_raise = True
            client = random.choice(clients)
            if random.random() < 0.3:
                with client.delivery_scope():
                    for _ in range(5):
                        home.capture(client, "main, scope")
            home.capture(client, "main")
        except TimeLimit:
            pass
        finally:
            may_raise = False
        now = time.monotonic()
        if now - forked > 1:
            forked = now
            _fork(home, random.choice(clients))
        if now - measured > 10:
            measured = now
            print(json.dumps(_measured()), flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _fork(home: Home, client: Leanbase) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    pid = os.fork()
    if not pid:
        # Another thread may have had the lock of a log handler's stream (python/cpython#84579).
        logging.disable(logging.CRITICAL)
        for _ in range(5):
            home.capture(client, "fork")
        client.shutdown(timeout=3)
        os._exit(0)
    ended = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > ended:
            print(json.dumps({"hangs": pid}), flush=True)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)


def _measured() -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "KiB": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


# --- a pool whose workers are recycled -----------------------------------------------------------------


def pool(home: Home, url: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with multiprocessing.get_context("fork").Pool(
            2, _begin, (home.path, url), maxtasksperchild=7
        ) as workers:
            workers.map(_task, range(100), chunksize=1)


_of_worker: list[tuple[Home, Leanbase]] = []


def _begin(path: Path, url: str) -> None:
    home = Home(str(path))
    _of_worker.append((home, home.client(url, sync_mode=False)))


def _task(number: int) -> None:
    home, client = _of_worker[0]
    for _ in range(3):
        home.capture(client, "worker")


# --- all of it -----------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="A soak; see the first lines of this file.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--part", choices=["serve", "work", "pool"], help=argparse.SUPPRESS)
    parser.add_argument("--home", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("leanbase").addHandler(logging.NullHandler())
    logging.getLogger("leanbase").propagate = False
    seconds = options.minutes * 60
    if options.part == "serve":
        serve(Home(options.home))
    elif options.part == "work":
        work(Home(options.home), options.url, seconds, options.threads)
    elif options.part == "pool":
        pool(Home(options.home), options.url, seconds)
    else:
        with tempfile.TemporaryDirectory() as home:
            return _run(home, options)
    return 0


def _run(home: str, options: argparse.Namespace) -> int:
    server = _part("serve", home)
    assert server.stdin
    assert server.stdout
    url = server.stdout.readline().strip()
    common = ["--url", url, "--minutes", str(options.minutes), "--threads", str(options.threads)]
    worker, pools = _part("work", home, *common), _part("pool", home, *common)
    assert worker.stdin
    assert worker.stdout
    measured, stats, hangs = [], [], 0
    for line in worker.stdout:
        told = json.loads(line)
        if "KiB" in told:
            measured.append(told)
            print(
                f"{told['KiB']:9} KiB {told['threads']:4} threads {told['descriptors']:4} descriptors",
                flush=True,
            )
        elif "over" in told:
            pools.wait()
            server.stdin.write("\n")
            server.stdin.flush()
            time.sleep(3)  # the server is still handling requests
            worker.stdin.write("\n")
            worker.stdin.flush()
        elif "stats" in told:
            stats.append(told["stats"])
        else:
            hangs += 1
    codes = worker.wait(), pools.wait()
    server.stdin.write("\n")
    server.stdin.flush()
    server.wait()
    return _judge(Path(home), measured, stats, hangs, codes)


def _part(part: str, home: str, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "scripts.soak",
        "--part",
        part,
        "--home",
        home,
        *arguments,
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _judge(
    home: Path, measured: list[dict[str, int]], stats: list[Any], hangs: int, codes: tuple[int, int]
) -> int:
    sources = dict(line.split(" ", 1) for line in (home / "captured").read_text().splitlines())
    captured, told = set(sources), set((home / "told").read_text().splitlines())
    ids: dict[str, set[str]] = {}
    arrivals = 0
    for line in (home / "arrived").read_text().splitlines():
        uuid, key = line.split(" ", 1)
        ids.setdefault(key, set()).add(uuid)
        arrivals += 1
    arrived = {uuid for each in ids.values() for uuid in each}
    lost = captured - arrived - told
    twice = [key for key, each in ids.items() if len(each) > 1]
    dropped = captured & told - arrived
    print(f"{len(captured)} events were captured, {len(captured & arrived)} of them arrived,")
    print(f"{len(dropped)} are told of as dropped, {len(lost)} are lost, {len(twice)} have two ids;")
    print(
        f"{arrivals - len(arrived)} arrived again under their id; {hangs} children hung; exit codes {codes}"
    )
    for each in stats:
        print("books:", json.dumps(each))
    unbalanced = [each for each in stats if each["captured"] != _sum(each)]
    grown = list(_grown(measured))
    print("grown:", ", ".join(grown) or "nothing")
    for source, count in Counter(sources[uuid] for uuid in lost).most_common():
        print("lost:", count, "of", source)
    return 1 if lost or twice or hangs or unbalanced or grown or any(codes) else 0


def _sum(stats: Any) -> int:
    passed_on: int = stats["delivered"] + stats["handed_off"] + stats["spooled"] + stats["retained"]
    dropped: int = sum(stats["dropped"].values())
    return passed_on + dropped


def _grown(measured: list[dict[str, int]]) -> Iterator[str]:
    """Yield the measures that grew from the second third of the time to the last. The first is a warm-up."""
    third = len(measured) // 3
    if not third:
        return
    for what, share in (("KiB", 1.1), ("threads", 1.2), ("descriptors", 1.2)):
        before = max(each[what] for each in measured[third : 2 * third])
        after = max(each[what] for each in measured[2 * third :])
        if after > before * share + 2:
            yield f"{what} from {before} to {after}"


if __name__ == "__main__":
    sys.exit(main())
