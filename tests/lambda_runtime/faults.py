"""The fault matrix: what happens to a function, and what then becomes of its events.

Each cell is run by `test_faults.py` in AWS's emulator; `python -m scripts.guarantees_page` makes a page of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.fault_server import Behaviour

if TYPE_CHECKING:
    from tests.lambda_runtime.world import World

FLUSHES = ("end", "each", "after_response")

SENT = "sent"
"""Before the caller has the answer; with `after_response`, before the sandbox is frozen."""

NEXT = "next"
"""With the next invocation that the process has."""

DISK = "disk"
"""With the first invocation of the next process that has the same directory."""

LOST = "lost"

NEVER = "never"
"""It cannot happen with this flush policy."""

WAYS: dict[str, dict[str, str]] = {
    "http": {},
    "http, fallback spool": {"LEANBASE_FALLBACK": "spool"},
    "spool": {"LEANBASE_TRANSPORT": "spool"},
    "sqs": {"LEANBASE_TRANSPORT": "sqs"},
    "log": {"LEANBASE_TRANSPORT": "log"},
}
OVER_A_NETWORK = ("http", "http, fallback spool", "spool", "sqs")
TO_THE_SERVER = ("http", "http, fallback spool", "spool")


@dataclass(frozen=True)
class Fault:
    """One row: what happens to an invocation that captures events.

    Attributes:
        name: What happens, as a reader of the page calls it.
        expected: The outcome by way, by flush policy, or by both (`"http end"`); `"*"` for all others.
        why: Why an event can be lost, if one can.
        ways: The transports that it can happen to.
        events: How many it captures.
        event: What the handler does after it has captured.
        timeout: The function's, in seconds.
        script: How the server treats the next requests.
        always: How it treats all of them, until it is well again.
        environment: More of it, for this process and not for the next one.
        before: Called before the invocation.
        during: Called while the invocation runs.
        after: Called when it has ended.
        warm: Whether there was an invocation before.
        gone: Whether the next invocation is in another process.
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
    before: Callable[[World], None] | None = None
    during: Callable[[World], None] | None = None
    after: Callable[[World], None] | None = None
    warm: bool = True
    gone: bool = False

    def outcome(self, way: str, flush: str) -> str:
        """What the table says of a cell."""
        for key in (f"{way} {flush}", way, flush, "*"):
            if key in self.expected:
                return self.expected[key]
        raise KeyError(f"{self.name}: {way} {flush}")


def kill_soon(world: World) -> None:
    world.wait_for_request()
    world.kill()


def freeze_while_sending(world: World) -> None:
    world.wait_for_request()
    world.freeze(0.6)


def freeze_soon(world: World) -> None:
    world.pause(0.3)
    world.freeze(0.5)


def freeze_and_close(world: World) -> None:
    world.server.close_connections()
    world.freeze(0.3)


def reset_the_next_connection(world: World) -> None:
    world.server.close_connections()
    world.server.reset_connections(1)


def terminate(world: World) -> None:
    world.pause(0.5)
    world.terminate()


def kill(world: World) -> None:
    world.kill()


NOT_YET_SENT = (
    'The events were still collected in memory. `flush="each"` sends inside every capture, so that none is.'
)
RETAINED = "The events are retained in memory, which ends with the process. A fallback keeps them."
KEPT_OF_THE_REQUEST = (
    'The server had not taken the request when the process ended. `transport="spool"` writes first.'
)
LONGER_THAN_ANY_GRACE = Behaviour(instead="silence")

FAULTS = (
    Fault("nothing"),
    # --- what happens to the process
    Fault("the process is killed right after the response", after=kill, gone=True),
    Fault(
        "the process is killed while its request is on the way",
        {"*": LOST, "spool": DISK},
        KEPT_OF_THE_REQUEST,
        OVER_A_NETWORK,
        events=1,
        always=LONGER_THAN_ANY_GRACE,
        during=kill_soon,
        gone=True,
    ),
    Fault("the process is frozen while it initialises", warm=False, during=freeze_soon),
    Fault(
        "the process is frozen in the handler", event={"then": "sleep", "seconds": 0.5}, during=freeze_soon
    ),
    Fault(
        "the process is frozen while its request is on the way",
        ways=OVER_A_NETWORK,
        script=(Behaviour(delay=0.3),),
        during=freeze_while_sending,
    ),
    Fault(
        "the process is frozen while its request is on the way, and the connection closed",
        ways=OVER_A_NETWORK,
        script=(Behaviour(delay=0.3, instead="close"),),
        during=freeze_while_sending,
    ),
    Fault("the process was frozen before, and its connections closed", after=freeze_and_close),
    Fault("the handler raises", event={"then": "raise"}),
    Fault(
        "the function times out",
        {"end": LOST, "each": SENT, "after_response": SENT},
        NOT_YET_SENT
        + " With `after_response` the function has an extension, so that Lambda sends SIGTERM first, which a "
        "function can handle from Python 3.12 on.",
        event={"then": "sleep", "seconds": 30},
        timeout=2,
        gone=True,
    ),
    Fault(
        "the process ends itself with os._exit()",
        {"*": LOST, "each": SENT},
        NOT_YET_SENT,
        event={"then": "exit"},
        gone=True,
    ),
    Fault(
        "the process is killed for its memory",
        {"*": LOST, "each": SENT},
        NOT_YET_SENT,
        event={"then": "out of memory"},
        gone=True,
    ),
    Fault(
        "the process gets SIGTERM in the handler",
        event={"then": "sleep", "seconds": 30},
        timeout=10,
        during=terminate,
        gone=True,
    ),
    Fault(
        "a time limit's signal raises an exception while the request is on the way",
        {"each": SENT, "end": NEXT, "after_response": NEVER},
        ways=OVER_A_NETWORK,
        events=1,
        event={"then": "time limit", "seconds": 0.4},
        script=(Behaviour(instead="silence"),),
    ),
    Fault("the function prints something without a newline before", event={"print": "working ... 50 %"}),
    Fault(
        "Lambda drops log lines below WARN",
        environment={"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "WARN"},
    ),
    Fault(
        "the spool's directory cannot be made",
        ways=("http, fallback spool", "spool"),
        environment={"LEANBASE_SPOOL_DIRECTORY": "/dev/null/spool"},
    ),
    # --- what happens to the request
    Fault("a connection is reset while it is made", ways=OVER_A_NETWORK, before=reset_the_next_connection),
    Fault(
        "an interim response (103) comes before the answer",
        ways=OVER_A_NETWORK,
        always=Behaviour(interim=103),
    ),
    Fault("the server resets the connection", ways=OVER_A_NETWORK, script=(Behaviour(instead="reset"),)),
    Fault("the server closes the connection", ways=OVER_A_NETWORK, script=(Behaviour(instead="close"),)),
    Fault(
        "the server closes in the middle of its answer",
        ways=OVER_A_NETWORK,
        script=(Behaviour(instead="half"),),
    ),
    Fault(
        "the server's answer trickles",
        {"*": SENT, "each": NEXT},
        ways=OVER_A_NETWORK,
        always=Behaviour(trickle=0.5),
        timeout=2,
    ),
    Fault("the server answers 500 once", ways=OVER_A_NETWORK, script=(Behaviour(status=500),)),
    Fault(
        "the server answers 429 with Retry-After",
        ways=OVER_A_NETWORK,
        script=(Behaviour(status=429, headers={"Retry-After": "0.5"}),),
    ),
    Fault(
        "the server answers 413",
        {"*": SENT, "each": LOST},
        "A single event that the server finds too large cannot be made smaller: it is dropped, and `on_error` hears of it.",
        TO_THE_SERVER,
        script=(Behaviour(status=413),),
    ),
    Fault(
        "the server answers 401",
        {"*": LOST},
        "The server refused the events for good: they are dropped, and `on_error` hears of it.",
        TO_THE_SERVER,
        always=Behaviour(status=401),
    ),
    Fault(
        "the server answers 500 for a while", {"*": NEXT}, ways=OVER_A_NETWORK, always=Behaviour(status=500)
    ),
    Fault(
        "the server does not answer for a while",
        {"*": NEXT},
        ways=OVER_A_NETWORK,
        always=LONGER_THAN_ANY_GRACE,
        timeout=2,
    ),
    Fault(
        "the server does not answer, and then the process is killed",
        {"*": LOST, "http, fallback spool": DISK, "spool": DISK},
        RETAINED,
        OVER_A_NETWORK,
        always=LONGER_THAN_ANY_GRACE,
        timeout=2,
        after=kill,
        gone=True,
    ),
    Fault(
        "the proxy's name is not resolved, and then the process is killed",
        {"*": LOST, "http, fallback spool": DISK, "spool": DISK},
        RETAINED,
        OVER_A_NETWORK,
        environment={"HTTP_PROXY": "http://no-such-host.invalid:3128"},
        timeout=2,
        after=kill,
        gone=True,
    ),
    Fault(
        "the proxy's certificate is not trusted, and then the process is killed",
        {"*": LOST, "http, fallback spool": DISK, "spool": DISK},
        RETAINED,
        OVER_A_NETWORK,
        environment={"HTTP_PROXY": "{tls}"},
        timeout=2,
        after=kill,
        gone=True,
    ),
)
