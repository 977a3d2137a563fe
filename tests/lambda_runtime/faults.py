"""The fault matrix: what happens to an invocation of a Lambda function, and what becomes of its events.

A row is a `Fault`. A column is a transport with a flush policy. `test_faults.py` runs each cell in AWS's emulator,
with the code of `cell.py`. `python -m scripts.guarantees_page` makes a page of the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.fault_server import Behaviour

if TYPE_CHECKING:
    from tests.lambda_runtime.cell import Cell

FLUSHES = ("end", "each", "after_response")
"""The flush policies: the values of `lambda_handler(flush=...)`."""

SENT = "sent"
"""Sent before the caller has the response; with `after_response`, before the sandbox is frozen."""

NEXT = "next"
"""Sent by the next invocation in the same process."""

DISK = "disk"
"""Sent by the first invocation of the next process that has the same directory."""

LOST = "lost"
"""An event can be lost."""

NEVER = "never"
"""The fault cannot happen with this flush policy."""

WAYS: dict[str, dict[str, str]] = {
    "http": {},
    "http, fallback spool": {"LEANBASE_FALLBACK": "spool"},
    "spool": {"LEANBASE_TRANSPORT": "spool"},
    "sqs": {"LEANBASE_TRANSPORT": "sqs"},
    "log": {"LEANBASE_TRANSPORT": "log"},
}
"""The transports, with the environment variables that choose them."""

OVER_A_NETWORK = ("http", "http, fallback spool", "spool", "sqs")
TO_THE_SERVER = ("http", "http, fallback spool", "spool")


@dataclass(frozen=True)
class Fault:
    """One row: what happens to an invocation that captures events.

    Attributes:
        name: What happens, as the page says it.
        expected: The outcome by transport, by flush policy, or by both (`"http end"`); `"*"` for all others.
        why: The reason why an event can be lost, if one can.
        ways: The transports that the fault can happen to.
        events: The number of events that the handler captures.
        event: The Lambda event, which says what `fault_handler.py` does besides that.
        timeout: The timeout of the function in seconds.
        script: How the server treats the next requests.
        always: How the server treats all requests, until the fault is over.
        environment: More environment variables of the first process. The next process does not have them.
        settings: Options of both processes, as environment variables. `{flags}` is a bundle of definitions.
        definitions: How the server treats requests for flag definitions.
        before: Called before the invocation.
        during: Called in another thread while the invocation runs.
        after: Called when the invocation has ended.
        is_warm: Whether the process has had an invocation before.
        ends_process: Whether the fault ends the process, so that the next invocation is in a new one.
    """

    name: str
    expected: Mapping[str, str] = field(default_factory=lambda: {"*": SENT})
    why: str = ""
    ways: tuple[str, ...] = tuple(WAYS)
    events: int = 5
    event: Mapping[str, Any] = field(default_factory=dict)
    timeout: int = 5
    script: tuple[Behaviour, ...] = ()
    always: Behaviour | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    definitions: Behaviour | None = None
    before: Callable[[Cell], None] | None = None
    during: Callable[[Cell], None] | None = None
    after: Callable[[Cell], None] | None = None
    is_warm: bool = True
    ends_process: bool = False

    def outcome(self, way: str, flush: str) -> str:
        """Return the expected outcome of a cell."""
        for key in (f"{way} {flush}", way, flush, "*"):
            if key in self.expected:
                return self.expected[key]
        raise KeyError(f"{self.name}: {way} {flush}")


def kill(cell: Cell) -> None:
    cell.kill()


def kill_while_sending(cell: Cell) -> None:
    cell.wait_for_request()
    cell.kill()


def freeze_while_sending(cell: Cell) -> None:
    cell.wait_for_request()
    cell.freeze(0.6)


def freeze_while_refreshing(cell: Cell) -> None:
    cell.wait_for_request("/flags/definitions")
    cell.freeze(0.6)


def freeze_after_a_moment(cell: Cell) -> None:
    cell.sleep(0.3)
    cell.freeze(0.5)


def close_connections_and_freeze(cell: Cell) -> None:
    cell.server.close_connections()
    cell.freeze(0.3)


def reset_the_next_connection(cell: Cell) -> None:
    cell.server.close_connections()
    cell.server.reset_connections(1)


def terminate_after_a_moment(cell: Cell) -> None:
    cell.sleep(0.5)
    cell.terminate()


STILL_COLLECTED = (
    'The events were still collected in memory. With `flush="each"`, each capture sends its event at once.'
)
RETAINED = (
    "The events were retained in memory when the process ended. A fallback, such as the spool, keeps them."
)
NOT_ACCEPTED = (
    "The server had not accepted the request when the process ended. "
    '`transport="spool"` writes events to disk before it sends them.'
)
LASTING_SILENCE = Behaviour(instead="silence")
"""The server sends no response within any deadline."""

READS_FLAGS = {"LEANBASE_FLAG_DEFINITIONS": "file:{flags}"}
DEFINITIONS = b'{"flags": [{"key": "beta", "active": true, "filters": {"groups": [{}]}}]}'

FAULTS = (
    Fault("no fault occurs"),
    # --- what happens to the process
    Fault("the process is killed right after the response", after=kill, ends_process=True),
    Fault(
        "the process is killed while its request is in flight",
        {"*": LOST, "spool": DISK},
        NOT_ACCEPTED,
        OVER_A_NETWORK,
        events=1,
        always=LASTING_SILENCE,
        during=kill_while_sending,
        ends_process=True,
    ),
    Fault("the process is frozen while it initialises", is_warm=False, during=freeze_after_a_moment),
    Fault(
        "the process is frozen while the handler runs",
        event={"then": "sleep", "seconds": 0.5},
        during=freeze_after_a_moment,
    ),
    Fault(
        "the process is frozen while its request is in flight",
        ways=OVER_A_NETWORK,
        script=(Behaviour(delay=0.3),),
        during=freeze_while_sending,
    ),
    Fault(
        "the process is frozen while its request is in flight, and the server closes the connection",
        ways=OVER_A_NETWORK,
        script=(Behaviour(delay=0.3, instead="close"),),
        during=freeze_while_sending,
    ),
    Fault(
        "the process is frozen between invocations, and the server closes its connections",
        after=close_connections_and_freeze,
    ),
    Fault("the handler raises an exception", event={"then": "raise"}),
    Fault(
        "the function times out",
        {"end": LOST, "each": SENT, "after_response": SENT},
        f"{STILL_COLLECTED} With `after_response` the function has an extension, so Lambda sends SIGTERM first. "
        "A function can handle SIGTERM from Python 3.12 on. "
        "With `timeout_warning=True` the events are sent before the timeout.",
        event={"then": "sleep", "seconds": 30},
        timeout=2,
        ends_process=True,
    ),
    Fault(
        "the handler calls `os._exit()`",
        {"*": LOST, "each": SENT},
        STILL_COLLECTED,
        event={"then": "exit"},
        ends_process=True,
    ),
    Fault(
        "the process runs out of memory and is killed",
        {"*": LOST, "each": SENT},
        STILL_COLLECTED,
        event={"then": "out of memory"},
        ends_process=True,
    ),
    Fault(
        "the process receives SIGTERM while the handler runs",
        event={"then": "sleep", "seconds": 30},
        timeout=10,
        during=terminate_after_a_moment,
        ends_process=True,
    ),
    Fault(
        "a signal handler raises an exception while the request is in flight",
        {"each": SENT, "end": NEXT, "after_response": NEVER},
        ways=OVER_A_NETWORK,
        events=1,
        event={"then": "time limit", "seconds": 0.4},
        script=(Behaviour(instead="silence"),),
    ),
    Fault(
        "the handler reads feature flags, and the process is killed right after the response",
        event={"reads": "each"},
        settings=READS_FLAGS,
        after=kill,
        ends_process=True,
    ),
    Fault(
        "the handler reads feature flags, and the process runs out of memory and is killed",
        {"*": LOST, "each": SENT},
        STILL_COLLECTED,
        event={"reads": "each", "then": "out of memory"},
        settings=READS_FLAGS,
        ends_process=True,
    ),
    Fault(
        "the process is frozen while it refreshes flag definitions",
        event={"reads": "once"},
        settings={"LEANBASE_SECRET_KEY": "phs_test", "LEANBASE_FLAGS_TTL": "0.1"},
        definitions=Behaviour(delay=0.3, body=DEFINITIONS),
        during=freeze_while_refreshing,
    ),
    Fault("the handler prints a line without a newline first", event={"print": "working ... 50 %"}),
    Fault(
        "Lambda is configured to drop log lines below WARN",
        environment={"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "WARN"},
    ),
    Fault(
        "the directory of the spool cannot be created",
        ways=("http, fallback spool", "spool"),
        environment={"LEANBASE_SPOOL_DIRECTORY": "/dev/null/spool"},
    ),
    # --- what happens to the request
    Fault(
        "a connection is reset while it is established",
        ways=OVER_A_NETWORK,
        before=reset_the_next_connection,
    ),
    Fault(
        "an interim response (103) precedes the response",
        ways=OVER_A_NETWORK,
        always=Behaviour(interim=103),
    ),
    Fault(
        "the server resets the connection instead of responding",
        ways=OVER_A_NETWORK,
        script=(Behaviour(instead="reset"),),
    ),
    Fault(
        "the server closes the connection instead of responding",
        ways=OVER_A_NETWORK,
        script=(Behaviour(instead="close"),),
    ),
    Fault(
        "the server closes the connection in the middle of its response",
        ways=OVER_A_NETWORK,
        script=(Behaviour(instead="half"),),
    ),
    Fault(
        "the server sends its response too slowly, byte by byte",
        {"*": SENT, "each": NEXT},
        ways=OVER_A_NETWORK,
        always=Behaviour(trickle=0.5),
        timeout=2,
    ),
    Fault("the server responds with 500 once", ways=OVER_A_NETWORK, script=(Behaviour(status=500),)),
    Fault(
        "the server responds with 429 and `Retry-After` once",
        ways=OVER_A_NETWORK,
        script=(Behaviour(status=429, headers={"Retry-After": "0.5"}),),
    ),
    Fault(
        "the server responds with 413 once",
        {"*": SENT, "each": LOST},
        "A single event that is too large for the server cannot be split. It is dropped, and passed to `on_error`.",
        TO_THE_SERVER,
        script=(Behaviour(status=413),),
    ),
    Fault(
        "the server responds with 401",
        {"*": LOST},
        "The server rejects the events permanently. They are dropped, and passed to `on_error`.",
        TO_THE_SERVER,
        always=Behaviour(status=401),
    ),
    Fault(
        "the server responds with 500 for a while",
        {"*": NEXT},
        ways=OVER_A_NETWORK,
        always=Behaviour(status=500),
    ),
    Fault(
        "the server does not respond for a while",
        {"*": NEXT},
        ways=OVER_A_NETWORK,
        always=LASTING_SILENCE,
        timeout=2,
    ),
    Fault(
        "the server does not respond, and then the process is killed",
        {"*": LOST, "http, fallback spool": DISK, "spool": DISK},
        RETAINED,
        OVER_A_NETWORK,
        always=LASTING_SILENCE,
        timeout=2,
        after=kill,
        ends_process=True,
    ),
    Fault(
        "the host name of the proxy is not resolved, and then the process is killed",
        {"*": LOST, "http, fallback spool": DISK, "spool": DISK},
        RETAINED,
        OVER_A_NETWORK,
        environment={"HTTP_PROXY": "http://no-such-host.invalid:3128"},
        timeout=5,
        after=kill,
        ends_process=True,
    ),
    Fault(
        "the certificate of the proxy is not trusted, and then the process is killed",
        {"*": LOST, "http, fallback spool": DISK, "spool": DISK},
        RETAINED,
        OVER_A_NETWORK,
        environment={"HTTP_PROXY": "{tls}"},
        timeout=5,
        after=kill,
        ends_process=True,
    ),
)
