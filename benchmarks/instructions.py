"""Counts the instructions of calls with valgrind's callgrind. The result is the same on a busy machine.

`python instructions.py` prints a table; `python instructions.py ROW REPETITIONS` runs one row. Each row runs
with few and with many repetitions. The difference, divided by the difference of repetitions, has no imports
and no set-up. The hash seed is fixed, bytecode is compiled before, and the garbage collector is off.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WARM, FEW, MANY = 20, 10, 70
"""Together fewer than 100 repetitions, because a scope sends after 100 events."""


sys.path.insert(0, str(HERE))

from server import running
from workload import KEY, NAME, PROPERTIES, WHO, failing_call

TAGS = {
    "faas.name": "orders",
    "faas.version": "$LATEST",
    "faas.invocation_id": "8f507cfc-xmpl-4697-b07a-ac58fc914c95",
    "faas.coldstart": False,
    "cloud.provider": "aws",
    "cloud.region": "eu-west-1",
}
HTTP_EVENT: dict[str, Any] = {
    "version": "2.0",
    "rawPath": "/checkout",
    "rawQueryString": "step=2",
    "headers": {
        "host": "shop.example.com",
        "user-agent": "Mozilla/5.0",
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-proto": "https",
        "x-leanbase-distinct-id": "user_42",
        "x-leanbase-session-id": "0198c0de-0000-7000-8000-000000000abc",
    },
    "requestContext": {"http": {"method": "POST", "path": "/checkout"}, "domainName": "shop.example.com"},
}


class LambdaContext:
    function_name = "orders"
    function_version = "$LATEST"
    aws_request_id = "8f507cfc-xmpl-4697-b07a-ac58fc914c95"

    def get_remaining_time_in_millis(self) -> int:
        return 3000


def nowhere() -> Any:
    """Return a transport of Leanbase that discards all events."""
    from leanbase import Receipt
    from leanbase.transports import BaseTransport

    class Nowhere(BaseTransport):
        def send(self, events: Any, *, deadline: Any) -> Receipt:
            return Receipt(delivered=len(events))

    return Nowhere()


def client(**options: Any) -> Any:
    from leanbase import Leanbase

    return Leanbase(KEY, transport=nowhere(), **options)


@contextlib.contextmanager
def in_scope(**tags: Any) -> Iterator[Any]:
    """Return a client inside an open delivery scope, as in a handler."""
    ours = client()
    with ours.delivery_scope():
        if tags:
            with ours.new_context():
                for name, value in tags.items():
                    ours.tag(name, value)
                yield ours
        else:
            yield ours


@contextlib.contextmanager
def capture() -> Iterator[Callable[[], Any]]:
    with in_scope() as ours:
        yield lambda: ours.capture(NAME, distinct_id=WHO, properties=PROPERTIES)


@contextlib.contextmanager
def capture_in_context() -> Iterator[Callable[[], Any]]:
    with in_scope(**TAGS) as ours:
        yield lambda: ours.capture(NAME, distinct_id=WHO, properties=PROPERTIES)


@contextlib.contextmanager
def capture_with_datetime() -> Iterator[Callable[[], Any]]:
    properties = {**PROPERTIES, "ordered_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)}
    with in_scope() as ours:
        yield lambda: ours.capture(NAME, distinct_id=WHO, properties=properties)


@contextlib.contextmanager
def capture_without_properties() -> Iterator[Callable[[], Any]]:
    with in_scope() as ours:
        yield lambda: ours.capture(NAME, distinct_id=WHO)


@contextlib.contextmanager
def handwritten() -> Iterator[Callable[[], Any]]:
    yield handwritten_with(None)


@contextlib.contextmanager
def handwritten_in_context() -> Iterator[Callable[[], Any]]:
    yield handwritten_with(TAGS)


def handwritten_with(tags: dict[str, Any] | None) -> Callable[[], Any]:
    from handwritten import Handwritten

    from leanbase.transports import MemoryTransport

    memory = MemoryTransport()
    from leanbase import Leanbase

    Leanbase(KEY, transport=memory).capture(NAME, distinct_id=WHO)
    by_hand = Handwritten(memory.events[0]["properties"], tags)
    return lambda: by_hand.capture(NAME, distinct_id=WHO, properties=PROPERTIES)


@contextlib.contextmanager
def posthog_to_its_queue() -> Iterator[Callable[[], Any]]:
    theirs = posthog()
    yield lambda: theirs.capture(NAME, distinct_id=WHO, properties=PROPERTIES)


@contextlib.contextmanager
def empty_scope() -> Iterator[Callable[[], Any]]:
    ours = client()

    def scope() -> None:
        with ours.delivery_scope():
            pass

    yield scope


@contextlib.contextmanager
def lambda_wrapper() -> Iterator[Callable[[], Any]]:
    import leanbase

    @leanbase.lambda_handler(client=client())
    def handler(event: Any, context: Any) -> None:
        pass

    context = LambdaContext()
    yield lambda: handler(HTTP_EVENT, context)


@contextlib.contextmanager
def synchronous_send() -> Iterator[Callable[[], Any]]:
    from leanbase import Leanbase

    with running() as url:
        ours = Leanbase(KEY, url)
        yield lambda: ours.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
        assert not ours.stats()["retained"]


@contextlib.contextmanager
def bare_urllib3() -> Iterator[Callable[[], Any]]:
    import urllib3
    from workload import body

    data, headers = body(1), {"Content-Type": "application/json", "User-Agent": "benchmark"}
    with running() as url:
        pool = urllib3.PoolManager()
        yield lambda: pool.request("POST", f"{url}/batch/", body=data, headers=headers)


@contextlib.contextmanager
def posthog_synchronous() -> Iterator[Callable[[], Any]]:
    from posthog import Posthog

    with running() as url:
        theirs = Posthog(KEY, host=url, sync_mode=True)
        yield lambda: theirs.capture(NAME, distinct_id=WHO, properties=PROPERTIES)


@contextlib.contextmanager
def exceptions(make: Callable[..., Any], **options: Any) -> Iterator[Callable[[], Any]]:
    """Return a function that captures an exception of 30 frames with the client that `make` makes."""
    with tempfile.TemporaryDirectory() as directory:
        # Write the files before the client exists: the client compiles files that change later, to compare.
        fail = failing_call(Path(directory), 30)
        ours = make(project_root=directory, **options)
        yield lambda: ours.capture_exception(fail(), distinct_id=WHO)


def posthog(**options: Any) -> Any:
    from posthog import Posthog

    return Posthog(KEY, host="http://127.0.0.1:9", send=False, **options)


def web_row(name: str) -> Callable[[], contextlib.AbstractContextManager[Callable[[], Any]]]:
    """Return the row of a middleware. The application's own part is subtracted below."""

    @contextlib.contextmanager
    def row() -> Iterator[Callable[[], Any]]:
        import web

        make = getattr(web, name)
        yield make(client()) if name.startswith("our_") else make()

    return row


@contextlib.contextmanager
def imports() -> Iterator[Callable[[], Any]]:
    yield lambda: None


ROWS: dict[str, Callable[[], contextlib.AbstractContextManager[Callable[[], Any]]]] = {
    "capture in a scope": capture,
    "the same event by hand": handwritten,
    "posthog, to its queue": posthog_to_its_queue,
    "capture in a context with six tags": capture_in_context,
    "the same event by hand, with tags": handwritten_in_context,
    "capture with one datetime": capture_with_datetime,
    "capture without properties": capture_without_properties,
    "an empty scope": empty_scope,
    "the Lambda wrapper, HTTP event": lambda_wrapper,
    "a synchronous send": synchronous_send,
    "bare urllib3": bare_urllib3,
    "posthog, synchronous": posthog_synchronous,
    "an exception, 30 frames": partial(exceptions, client),
    "an exception with variables": partial(exceptions, client, capture_exception_code_variables=True),
    "posthog, an exception": partial(exceptions, posthog),
    "posthog, an exception with variables": partial(
        exceptions, posthog, capture_exception_code_variables=True
    ),
}
BARE = {"WSGI": web_row("bare_wsgi"), "ASGI": web_row("bare_asgi"), "Django": web_row("bare_django")}
"""Requests without a middleware."""

MIDDLEWARES = {
    "an empty request, WSGI": web_row("our_wsgi"),
    "sentry, WSGI": web_row("sentry_wsgi"),
    "an empty request, ASGI": web_row("our_asgi"),
    "posthog, ASGI": web_row("posthog_asgi"),
    "sentry, ASGI": web_row("sentry_asgi"),
    "an empty request, Django": web_row("our_django"),
    "posthog, Django": web_row("posthog_django"),
}
"""The cost that a middleware adds to a request."""

IMPORTS = {
    "a process that imports leanbase": "import leanbase",
    "a process that imports posthog": "import posthog",
}


ALL = {**ROWS, **BARE, **MIDDLEWARES}


def run(row: str, repetitions: int) -> None:
    """Run one row, under callgrind."""
    gc.disable()
    with ALL[row]() as call:
        for _ in range(WARM + repetitions):
            call()


def environment() -> dict[str, str]:
    ours = {**os.environ, "PYTHONHASHSEED": "0"}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours


def counted(command: list[str]) -> int:
    """Return the number of instructions of a process and its threads."""
    with tempfile.TemporaryDirectory() as directory:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [*valgrind, sys.executable, *command],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"{command} under valgrind: {done.stderr[-2000:]}")
    return int(found[1])


def of_row(row: str) -> float:
    """Return the number of instructions of one call."""
    subprocess.run([sys.executable, __file__, row, "1"], env=environment(), check=True)  # compiles
    counts = [counted([__file__, row, str(repetitions)]) for repetitions in (FEW, MANY)]
    return (counts[1] - counts[0]) / (MANY - FEW)


def available() -> bool:
    """Return True if valgrind is installed."""
    return shutil.which("valgrind") is not None


def figures(words: list[str]) -> dict[str, float]:
    """Return the instructions of each row with one of the words in its name; without words, of all rows."""

    def wanted(row: str) -> bool:
        return not words or any(word in row for word in words)

    for code in IMPORTS.values():
        subprocess.run([sys.executable, "-c", code], env=environment(), check=False)  # compiles
    bare = counted(["-c", "pass"])
    found = {}
    for row in filter(wanted, ROWS):
        found[row] = of_row(row)
        print(f"{row}: {found[row]:,.0f}", file=sys.stderr, flush=True)
    for row in filter(wanted, MIDDLEWARES):
        found[row] = of_row(row) - of_row(row.rpartition(" ")[2])
        print(f"{row}: {found[row]:,.0f}", file=sys.stderr, flush=True)
    for row in filter(wanted, IMPORTS):
        found[row] = float(counted(["-c", IMPORTS[row]]) - bare)
        print(f"{row}: {found[row]:,.0f}", file=sys.stderr, flush=True)
    return found


def table(words: list[str]) -> str:
    """Return a Markdown table, in thousands of instructions."""
    rows = [f"| {row} | {count / 1000:,.1f} |" for row, count in figures(words).items()]
    return "\n".join(["| | thousand instructions |", "|---|---:|", *rows])


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in ALL and sys.argv[2].isdecimal():
        return run(sys.argv[1], int(sys.argv[2]))
    if not available():
        sys.exit("valgrind is not installed")
    print(f"CPython {sys.version.split()[0]}, posthog {importlib.metadata.version('posthog')}\n")
    print(table(sys.argv[1:]))


if __name__ == "__main__":
    main()
