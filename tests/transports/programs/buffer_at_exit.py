"""Buffer events and end. Arguments: a function below, and a server's URL."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from leanbase import Leanbase
from leanbase.transports.deadline import Deadline

clients: list[Leanbase] = []
"""The clients, in a global: they live until the interpreter has ended."""


def create_client(url: str, **options: Any) -> Leanbase:
    clients.append(Leanbase("k", url, sync_mode=False, **{"flush_interval": 3600, **options}))
    return clients[-1]


def return_normally(url: str) -> None:
    client = create_client(url)
    for number in range(250):
        client.capture("e", distinct_id=number)


def raise_system_exit(url: str) -> None:
    return_normally(url)
    raise SystemExit(3)


def raise_value_error(url: str) -> None:
    return_normally(url)
    raise ValueError("no")


def start_a_thread(url: str) -> None:
    return_normally(url)
    threading.Thread(target=lambda: clients[0].capture("thread", distinct_id="u")).start()


def shut_down_twice(url: str) -> None:
    client = create_client(url)
    client.capture("e", distinct_id="u")
    client.shutdown()
    client.shutdown()


def buffer_in_three_clients(url: str) -> None:
    """Print the time at which the program ends."""
    for _ in range(3):
        create_client(url, flush_interval=5).capture("e", distinct_id="u")
    print(time.time())


def end_during_a_send(url: str) -> None:
    """Print the time at which the program ends."""
    create_client(url, flush_at=1).capture("e", distinct_id="u")
    time.sleep(0.5)
    print(time.time())


def close_with_errors(url: str) -> None:
    """Let the transports of two of four clients raise when they are closed."""

    def raising(close: Callable[..., object]) -> Callable[..., object]:
        def close_and_raise(deadline: Deadline) -> object:
            close(deadline=deadline)
            raise OSError

        return close_and_raise

    for number in range(4):
        client = create_client(url)
        client.capture("e", distinct_id=number)
        transport: Any = client._current().outbox._transport
        if number % 2:
            transport.close = raising(transport.close)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
