"""Run one script. Arguments: a function below, and its own arguments, of which the first is a server's URL."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from leanbase import Leanbase
from leanbase.transports import _at_exit

clients: list[Leanbase] = []
"""The clients of the script, in a global: they live until the interpreter has ended."""


def report(error: Exception, events: list[dict[str, Any]]) -> None:
    for event in events:
        print("reported", event["event"], type(error).__name__, flush=True)


def capture_five(url: str) -> Leanbase:
    client = Leanbase("k", url, max_retries=0, on_error=report)
    clients.append(client)
    for number in range(5):
        client.capture(f"e{number}", distinct_id="u")
    return client


def return_normally(url: str) -> None:
    capture_five(url)


def exit_with_a_code(url: str) -> None:
    capture_five(url)
    sys.exit(3)


def shut_down(url: str) -> None:
    capture_five(url).shutdown()


def disable_the_client(url: str) -> None:
    capture_five(url).disabled = True


def forget_the_client(url: str) -> None:
    capture_five(url)
    clients.clear()
    gc.collect()


def print_exit_hooks(url: str) -> None:
    """Print the exit hooks that the package registers while every send succeeds."""
    registered: list[object] = []
    register = atexit.register

    def record(hook: Callable[..., object], *arguments: object) -> object:
        if hook.__module__.startswith("leanbase"):
            registered.append(hook)
        return register(hook, *arguments)

    atexit.register = record  # type: ignore[assignment]
    client = Leanbase("k", url)
    client.capture("e", distinct_id="u")
    with client.delivery_scope():
        client.capture("e", distinct_id="u")
    print(registered)


def retain_in_three_clients(url: str) -> None:
    """Print the time at which the script ends."""
    clients.extend(Leanbase("k", url, send_deadline=0.2, max_retries=0) for _ in range(3))
    for client in clients:
        client.capture("e", distinct_id="u")
    print(time.time())


def buffer_for_two_servers(url: str, hanging_url: str) -> None:
    clients.extend(Leanbase("k", each, sync_mode=False) for each in (hanging_url, url))
    for client, name in zip(clients, ("lost", "delivered"), strict=True):
        client.capture(name, distinct_id="u")


def capture_at_exit(url: str) -> None:
    client = Leanbase("k", url, max_retries=0, on_error=report)
    atexit.register(lambda: client.capture("late", distinct_id="u"))
    client.capture("early", distinct_id="u")


def capture_at_exit_with_another_client(url: str) -> None:
    clients.extend(Leanbase("k", url, max_retries=0, on_error=report) for _ in range(2))
    atexit.register(lambda: clients[1].capture("late", distinct_id="u"))
    clients[0].capture("early", distinct_id="u")


def forget_many_clients(url: str) -> None:
    """Print how many transports the exit hook watches in the end."""
    clients.extend(Leanbase("k", url, max_retries=0) for _ in range(5))
    for client in clients:
        client.capture("retained", distinct_id="u")
    for number in range(150):
        Leanbase("k", url, max_retries=0, on_error=report).capture(f"e{number}", distinct_id="u")
    print(len(_at_exit._watched), flush=True)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s", level="INFO")
    globals()[sys.argv[1]](*sys.argv[2:])
