"""Several invocations at once in one process, and what outlives one."""

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

INVOCATIONS = 20


@pytest.fixture
def client(server: FaultServer) -> Leanbase:
    leanbase.api_key, leanbase.host = "k", server.url
    return leanbase.setup()


def each_invocation_sent_its_own(server: FaultServer) -> bool:
    """One request an invocation, with its events alone."""
    of_requests = [
        Counter(event["properties"]["faas.invocation_id"] for event in request.events)
        for request in server.requests
    ]
    return len(of_requests) == INVOCATIONS and all([*each.values()] == [3] for each in of_requests)


def test_in_threads(client: Leanbase, server: FaultServer) -> None:
    at_once = threading.Barrier(INVOCATIONS)

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> str:
        for _ in range(3):
            leanbase.capture("e", distinct_id="u")
            at_once.wait(20)
        return str(context.aws_request_id)

    with ThreadPoolExecutor(INVOCATIONS) as executor:
        contexts = [LambdaContext() for _ in range(INVOCATIONS)]
        answers = list(executor.map(lambda context: handler({}, context), contexts))
    assert answers == [context.aws_request_id for context in contexts]
    assert each_invocation_sent_its_own(server)
    assert balanced(client)
    cold = Counter(event["properties"]["faas.coldstart"] for event in server.events)
    assert cold[True] in (0, 3)  # one of them, if no other test was first


def test_in_tasks(client: Leanbase, server: FaultServer) -> None:
    @leanbase.lambda_handler
    async def handler(event: Any, context: Any) -> None:
        for _ in range(3):
            leanbase.capture("e", distinct_id="u")
            await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(handler({}, LambdaContext()) for _ in range(INVOCATIONS)))

    asyncio.run(main())
    assert each_invocation_sent_its_own(server)
    assert balanced(client)


def test_one_that_raises_takes_none_of_the_others_events(client: Leanbase, server: FaultServer) -> None:
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


def test_a_thread_that_outlives_the_handler_sends_for_itself(client: Leanbase, server: FaultServer) -> None:
    """With the tags of the invocation that started it, also while the next one runs."""
    go_on = threading.Event()
    threads: list[threading.Thread] = []

    def late() -> None:
        go_on.wait(20)
        leanbase.capture("late", distinct_id="u")

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        leanbase.capture("in time", distinct_id="u")
        if event == "first":
            threads.append(threading.Thread(target=copy_context().run, args=(late,)))
            threads[0].start()
        else:
            go_on.set()
            threads[0].join()

    first, second = LambdaContext(), LambdaContext()
    handler("first", first)
    handler("second", second)
    found = [
        (event["event"], event["properties"]["faas.invocation_id"])
        for request in server.requests
        for event in request.events
    ]
    assert found == [
        ("in time", first.aws_request_id),
        ("late", first.aws_request_id),
        ("in time", second.aws_request_id),
    ]


def test_a_slow_send_of_one_holds_up_no_other(client: Leanbase, server: FaultServer) -> None:
    server.script(Behaviour(delay=1.0))

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> float:
        leanbase.capture("e", distinct_id="u")
        return time.monotonic()

    def timed(number: int) -> float:
        began = time.monotonic()
        handler({}, LambdaContext())
        return time.monotonic() - began

    with ThreadPoolExecutor(2) as executor:
        slow = executor.submit(timed, 1)
        while not server.requests:
            time.sleep(0.005)
        assert executor.submit(timed, 2).result() < 0.9
        assert slow.result() >= 1.0


def test_a_handler_decorated_twice_sends_each_event_once(memory: MemoryTransport) -> None:
    leanbase.transport = memory

    def handler(event: Any, context: Any) -> None:
        leanbase.capture("e", distinct_id="u")
        raise ValueError

    with pytest.raises(ValueError):
        leanbase.lambda_handler(leanbase.lambda_handler(handler))({}, LambdaContext())
    assert [event["event"] for event in memory.events] == ["e", "$exception"]


def test_what_another_thread_is_sending_arrives_before_the_handler_returns(
    client: Leanbase, server: FaultServer
) -> None:
    """Also of a thread that carries no context, and also if the handler captures something itself."""
    server.script(Behaviour(delay=0.5))

    @leanbase.lambda_handler
    def handler(event: Any, context: Any) -> None:
        threading.Thread(
            target=leanbase.capture, args=("of the thread",), kwargs={"distinct_id": "u"}
        ).start()
        while not server.requests:
            time.sleep(0.005)
        leanbase.capture("of the handler", distinct_id="u")

    handler({}, LambdaContext())
    assert client.stats()["delivered"] == 2


def test_a_forked_child_does_not_keep_the_deadline_of_the_invocation(client: Leanbase) -> None:
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
