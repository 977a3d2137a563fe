"""captured = delivered + handed off + spooled + retained + dropped, on every transport, whatever happens when.

For each transport Hypothesis plays random sequences of steps on a `ClientMachine`: a client, and a server in
the same process. A step captures, flushes, opens a scope, makes the server fail, forks, or interrupts a call
with a signal handler that captures, flushes, shuts down or raises. After every step the counts must add up.
At the end every event must be where the counts say: with the server, or in the log, the spool or the memory.

`pytest tests/delivery/test_accounting.py --hypothesis-profile thorough` plays 800 sequences for each transport,
and different ones each time. The default profile plays 60, always the same.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from leanbase import Leanbase
from leanbase.delivery.scope import DeliveryScope, activate
from leanbase.events.ids import uuid7
from leanbase.transports import FallbackTransport, HttpTransport, LogTransport, MemoryTransport, handoff
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.delivery.interruption import Interruption
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.forking import run_in_forked_child
from tests.support.sqs import QUEUE_PATH, accept_messages

pytestmark = [
    pytest.mark.untraced,  # the interrupts come from a trace function
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    # An interrupt between the creation of a socket and its first use leaves it to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

KINDS = [
    "http",
    "buffered",
    "sqs",
    "sqs, buffered",
    "log",
    "memory",
    "spool",
    "fallback",
    "fallback to the spool",
]


MAX_EXAMPLES = 60
"""The sequences for each transport in the default profile, of 150 examples; others in proportion."""


class ClientMachine(RuleBasedStateMachine):
    """A client, its server, and what can happen to them. Methods with `@rule` are the steps of Hypothesis."""

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.server = FaultServer()
        self.home = Path(tempfile.mkdtemp())
        self.memory = MemoryTransport()
        self.captured: set[str] = set()
        self.scope: DeliveryScope | None = None
        self.activation: Any = None
        self.is_shut_down = False
        self.was_interrupted = False
        os.environ.update(AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="eu-west-1")

    @initialize(queue_size=st.sampled_from([3, 10_000]), flush_at=st.sampled_from([1, 4, 100]))
    def make(self, queue_size: int, flush_at: int) -> None:
        options: dict[str, Any] = {"max_queue_size": queue_size, "flush_at": flush_at, "max_retries": 0}
        if "buffered" in self.kind:
            options |= {"sync_mode": False, "flush_interval": 0.01}
        name = self.kind.partition(",")[0]
        if name == "sqs":
            options |= {"transport": "sqs", "queue_url": self.server.url + QUEUE_PATH}
        elif name in ("spool", "fallback to the spool"):
            options |= {"spool_directory": self.home / "spool"}
            options |= {"transport": "spool"} if name == "spool" else {"fallback": "spool"}
        elif name == "log":
            log = os.open(self.home / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            options["transport"] = LogTransport(log)
        elif name == "memory":
            options["transport"] = self.memory
        elif name == "fallback":
            first = HttpTransport("k", self.server.url, max_retries=0, flush_at=flush_at)
            options["transport"] = FallbackTransport(first, self.memory)
        self.client = Leanbase("k", self.server.url, send_deadline=2, **options)
        self.recover()

    def capture_some(self, count: int) -> None:
        for number in range(count):
            # The uuid is chosen here, because a call that a signal handler ends does not return one.
            uuid = uuid7()
            self.captured.add(uuid)
            returned = self.client.capture("e", distinct_id="u", properties={"number": number}, uuid=uuid)
            assert returned in (uuid, None)

    # --- steps ----------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 8))
    def capture(self, count: int) -> None:
        self.capture_some(count)

    @rule()
    def capture_nonsense(self) -> None:
        assert self.client.capture("", distinct_id="u") is None

    @rule()
    @precondition(lambda self: self.scope is None)
    def open_scope(self) -> None:
        self.scope = DeliveryScope()
        self.activation = activate(self.scope)
        self.activation.__enter__()

    @rule()
    @precondition(lambda self: self.scope is not None)
    def close_scope(self) -> None:
        assert self.scope is not None
        self.client._close_scope(self.scope)
        self.activation.__exit__(None, None, None)
        self.scope = None

    @rule()
    def flush(self) -> None:
        self.client.flush(timeout=2)

    @rule(
        at=st.integers(0, 400),
        call=st.sampled_from(["capture", "flush", "close the scope"]),
        action=st.sampled_from(["captures", "flushes", "shuts down", "raises"]),
    )
    def interrupt_a_call(self, at: int, call: str, action: str) -> None:
        def handler() -> None:
            if action == "captures":
                self.capture_some(1)
            elif action == "flushes":
                self.client.flush(timeout=2)
            elif action == "shuts down":
                self.client.shutdown(timeout=2)
                self.is_shut_down = True
            else:
                self.was_interrupted = True
                raise KeyboardInterrupt

        def close() -> None:
            if self.scope is not None:
                self.client._close_scope(self.scope)

        calls = {
            "capture": lambda: self.capture_some(1),
            "flush": lambda: self.client.flush(timeout=2),
            "close the scope": close,
        }
        try:
            Interruption(at, handler, raises=action == "raises").during(calls[call])
        except KeyboardInterrupt:
            pass
        if call == "close the scope" and self.scope is not None:
            self.close_scope()  # an application closes it again when the exception leaves the block

    @rule()
    def recover(self) -> None:
        self.server.always(Behaviour(respond=accept_messages()) if "sqs" in self.kind else Behaviour())

    @rule(status=st.sampled_from([429, 500, 503]))
    def fail(self, status: int) -> None:
        self.server.always(Behaviour(status=status))

    @rule(status=st.sampled_from([400, 413]))
    @precondition(
        lambda self: "spool" not in self.kind
    )  # a spooled event still counts as spooled after a rejection
    def reject(self, status: int) -> None:
        self.server.always(Behaviour(status=status))

    @rule()
    def reset_one_connection(self) -> None:
        self.server.script(Behaviour(instead="reset", status=500))

    @rule()
    def close_idle_connections(self) -> None:
        self.client._current().outbox.settle(
            Deadline.after(5)
        )  # nobody could know the outcome of a request in flight
        self.server.close_connections()

    @rule(disabled=st.booleans())
    def disable(self, disabled: bool) -> None:
        self.client.disabled = disabled

    @rule()
    def fork(self) -> None:
        def child() -> None:
            assert self.client.stats()["captured"] == 0
            self.client.capture("child", distinct_id="u")
            assert balanced(self.client)
            self.client.shutdown(timeout=2)
            assert balanced(self.client)
            assert self.client.stats()["retained"] == 0

        run_in_forked_child(child)

    # --- what must hold -------------------------------------------------------------------------------

    @invariant()
    def the_counts_add_up(self) -> None:
        if hasattr(self, "client"):
            assert balanced(self.client)

    def teardown(self) -> None:
        try:
            if self.scope is not None:
                self.close_scope()
            self.client.disabled = False
            self.client.shutdown(timeout=20)  # a busy machine may stop for seconds
            stats = self.client.stats()
            assert balanced(self.client)
            assert stats["retained"] == 0
            settled, arrived = (
                stats["delivered"] + stats["handed_off"] + stats["spooled"],
                len(self.arrived()),
            )
            # A send that a signal handler ended or took over may have arrived although it counts as lost.
            lost = sum(stats["dropped"].values()) - stats["dropped"].get("invalid", 0)
            uncertain = lost if self.was_interrupted or self.is_shut_down else 0
            assert settled <= arrived <= settled + uncertain
        finally:
            self.server.stop()
            shutil.rmtree(self.home)

    def arrived(self) -> set[str]:
        """Return the uuids of the captured events that have arrived where they were to be delivered."""
        bodies = [
            event for request in self.server.accepted if "sqs" not in self.kind for event in request.events
        ]
        messages = [
            entry["MessageBody"]
            for request in self.server.accepted
            if "sqs" in self.kind
            for entry in request.envelope["Entries"]
        ]
        if (self.home / "log").exists():
            messages += (self.home / "log").read_text().splitlines()
        for message in messages:
            bodies += [event.decode() for event in handoff.decode(message)]
        bodies += self.memory.events
        for spooled in (self.home / "spool").glob("*"):
            bodies += [json.loads(line) for line in spooled.read_bytes().splitlines()[1:]]
        return {event["uuid"] for event in bodies} & self.captured


@pytest.mark.rule("Q-57", "Q-59", "Q-60")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_counts_always_add_up_and_every_event_is_where_they_say(kind: str) -> None:
    machine = type("ClientMachine", (ClientMachine,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=MAX_EXAMPLES * settings().max_examples // 150,
            derandomize=settings().max_examples <= 150,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
