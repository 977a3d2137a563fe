"""`async with delivery_scope()`: a thread sends the events while the event loop goes on."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import pytest

from leanbase import Leanbase
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.forking import run_in_forked_child


async def capture_in_scope(client: Leanbase) -> None:
    async with client.delivery_scope():
        client.capture("e", distinct_id="u")


@pytest.mark.slow
@pytest.mark.rule("Q-54", "Q-58")
def test_the_event_loop_goes_on_while_a_scope_sends(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.5))
    client = make(server)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def main() -> None:
        ticking = asyncio.ensure_future(tick())
        async with client.delivery_scope() as scope:
            client.capture("e", distinct_id="u")
            await asyncio.sleep(0.02)
        assert scope.receipt.delivered == 1
        assert client.stats()["delivered"] == 1
        ticking.cancel()

    asyncio.run(main())
    assert len(ticks) > 10
    assert max(later - earlier for earlier, later in itertools.pairwise(ticks)) < 0.4


@pytest.mark.rule("Q-58")
def test_the_receipt_of_a_scope_reports_retained_events(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    client = make(server, max_retries=0)

    async def main() -> Any:
        async with client.delivery_scope() as scope:
            client.capture("e", distinct_id="u")
        return scope.receipt

    receipt = asyncio.run(main())
    assert not receipt
    assert (receipt.retained, receipt.delivered) == (1, 0)


@pytest.mark.slow
@pytest.mark.rule("Q-13")
def test_many_scopes_at_once_end_within_the_deadline_of_a_send(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    client = make(server, send_deadline=0.5)

    async def main() -> float:
        started = time.monotonic()
        await asyncio.gather(*(capture_in_scope(client) for _ in range(20)))
        return time.monotonic() - started

    assert asyncio.run(main()) < 3
    assert client.stats()["retained"] == 20


@pytest.mark.slow
def test_a_thread_delivers_the_events_of_a_cancelled_scope(make: Any, server: FaultServer) -> None:
    server.always(Behaviour(delay=0.3))
    client = make(server)

    async def main() -> None:
        running = asyncio.ensure_future(capture_in_scope(client))
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0.5)

    asyncio.run(main())
    assert client.stats()["delivered"] == 1


@pytest.mark.slow
@pytest.mark.rule("Q-60")
def test_few_threads_send_for_all_clients_and_a_forked_child_starts_its_own(
    make: Any, server: FaultServer
) -> None:
    clients = [make(server) for _ in range(8)]
    server.always(Behaviour(delay=0.2))

    async def main() -> None:
        async with clients[0].delivery_scope():
            for client in clients:
                client.capture("e", distinct_id="u")
            await asyncio.sleep(0)
        senders = [thread for thread in threading.enumerate() if thread.name == "leanbase-sender"]
        assert 1 <= len(senders) <= 4

    asyncio.run(main())
    assert len(server.events) == 8

    def send_in_child() -> None:
        asyncio.run(capture_in_scope(clients[0]))
        assert clients[0].stats()["delivered"] == 1

    run_in_forked_child(send_in_child)
