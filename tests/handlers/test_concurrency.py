"""Several invocations at the same time in one process, and threads and children that outlive an invocation.

Handlers run in this process, in threads or tasks. Their events go to a `FaultServer`, over real sockets.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.delivery.scope import send_deadline
from leanbase.testing import LambdaContext
from leanbase.transports import MemoryTransport
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.threads import start_thread
from tests.support.waiting import wait_until

INVOCATIONS = 20
EVENTS = 3


@pytest.fixture
def client(server: FaultServer) -> Leanbase:
    leanbase.api_key, leanbase.host = "k", server.url
    return leanbase.setup()


def each_invocation_made_one_request(server: FaultServer) -> bool:
    """Return True if each request has all events of one invocation, and no other events."""
    events_by_invocation = [
        Counter(event["properties"]["faas.invocation_id"] for event in request.events)
        for request in server.requests
    ]
    return len(events_by_invocation) == INVOCATIONS and all(
        [*each.values()] == [EVENTS] for each in events_by_invocation
    )


@pytest.mark.rule("G-4", "K-6", "Q-54", "Q-57")
def test_invocations_in_threads_send_their_own_events(client: Leanbase, server: FaultServer) -> None:
    at_once = threading.Barrier(INVOCATIONS)

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> str:
        for _ in range(EVENTS):
            leanbase.capture("e", distinct_id="u")
            at_once.wait(20)
        return str(context.aws_request_id)

    with ThreadPoolExecutor(INVOCATIONS) as executor:
        contexts = [LambdaContext() for _ in range(INVOCATIONS)]
        results = list(executor.map(lambda context: handler({}, context), contexts))
    assert results == [context.aws_request_id for context in contexts]
    assert each_invocation_made_one_request(server)
    assert balanced(client)
    cold = Counter(event["properties"]["faas.coldstart"] for event in server.events)
    assert cold[True] in (0, EVENTS)  # one invocation is the cold start, unless an earlier test had it


@pytest.mark.rule("G-4", "K-6", "Q-54", "Q-57")
def test_invocations_in_tasks_send_their_own_events(client: Leanbase, server: FaultServer) -> None:
    @leanbase.lambda_handler
    async def handler(event: Any, context: Any) -> None:
        for _ in range(EVENTS):
            leanbase.capture("e", distinct_id="u")
            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(handler({}, LambdaContext()) for _ in range(INVOCATIONS)))

    asyncio.run(main())
    assert each_invocation_made_one_request(server)
    assert balanced(client)


@pytest.mark.rule("K-15")
def test_an_invocation_that_raises_sends_no_events_of_others(client: Leanbase, server: FaultServer) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")
        time.sleep(0.05)
        if event % 2:
            raise ValueError(event)

    with ThreadPoolExecutor(10) as executor:
        running = [executor.submit(handler, number, LambdaContext()) for number in range(10)]
    assert sum(each.exception() is not None for each in running) == 5
    assert Counter(event["event"] for event in server.events) == {"e": 10, "$exception": 5}
    assert sorted(len(request.events) for request in server.requests) == [1] * 5 + [2] * 5


@pytest.mark.rule("K-5", "K-6")
def test_a_thread_that_outlives_its_invocation_sends_with_its_tags(
    client: Leanbase, server: FaultServer
) -> None:
    """Also while the next invocation runs."""
    may_continue = threading.Event()
    threads: list[threading.Thread] = []

    def capture_late() -> None:
        may_continue.wait(20)
        leanbase.capture("late", distinct_id="u")

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("in time", distinct_id="u")
        if event == "first":
            threads.append(start_thread(copy_context().run, capture_late))
        else:
            may_continue.set()
            threads[0].join()

    first, second = LambdaContext(), LambdaContext()
    handler("first", first)
    handler("second", second)
    received = [
        (event["event"], event["properties"]["faas.invocation_id"])
        for request in server.requests
        for event in request.events
    ]
    assert received == [
        ("in time", first.aws_request_id),
        ("late", first.aws_request_id),
        ("in time", second.aws_request_id),
    ]


def test_the_slow_send_of_an_invocation_does_not_delay_another(client: Leanbase, server: FaultServer) -> None:
    server.script(Behaviour(delay=1.0))

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")

    def seconds_of_an_invocation() -> float:
        began = time.monotonic()
        handler({}, LambdaContext())
        return time.monotonic() - began

    with ThreadPoolExecutor(2) as executor:
        slow = executor.submit(seconds_of_an_invocation)
        wait_until(lambda: server.requests)
        assert executor.submit(seconds_of_an_invocation).result() < 0.9
        assert slow.result() >= 1.0


@pytest.mark.rule("K-17")
def test_a_handler_decorated_twice_sends_each_event_once(sent: MemoryTransport) -> None:
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")
        raise ValueError

    with pytest.raises(ValueError):
        leanbase.lambda_handler(leanbase.lambda_handler(handler))({}, LambdaContext())
    assert [event["event"] for event in sent.events] == ["e", "$exception"]


def test_the_send_of_another_thread_ends_before_the_handler_returns(
    client: Leanbase, server: FaultServer
) -> None:
    """The thread has no context, and the handler captures an event itself."""
    server.script(Behaviour(delay=0.5))

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        start_thread(leanbase.capture, "of the thread", distinct_id="u")
        wait_until(lambda: server.requests)
        leanbase.capture("of the handler", distinct_id="u")

    handler({}, LambdaContext())
    assert client.stats()["delivered"] == 2


def test_a_forked_child_does_not_have_the_deadline_of_the_invocation(client: Leanbase) -> None:
    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            time.sleep(0.4)
            os._exit(0 if send_deadline(10.0).remaining() > 5 else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert handler({}, LambdaContext(timeout=0.3)) == 0
