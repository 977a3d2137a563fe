"""End with an uncaught exception: run the function that the first argument names, with the URL of a server."""

from __future__ import annotations

import atexit
import sys
import threading
import time

import leanbase
from leanbase import Leanbase

clients: list[Leanbase] = []
"""The clients besides the default client, in a global: they live until the interpreter has ended."""


def work() -> None:
    raise ValueError("in a thread")


def error() -> None:
    raise ValueError("uncaught")


def exit_with_code_7() -> None:
    raise SystemExit(7)


def interrupt() -> None:
    raise KeyboardInterrupt


def error_in_thread() -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    threading.Thread(target=sys.exit).start()


def error_with_four_clients() -> None:
    """Print how long the end takes: the hooks of all clients, and the exit hooks after them."""
    started = time.monotonic()
    atexit.register(lambda: print(time.monotonic() - started))  # registered first, called last
    for _ in range(3):
        clients.append(Leanbase("phc_2", leanbase.host, enable_exception_autocapture=True))
    raise ValueError("uncaught")


if __name__ == "__main__":
    leanbase.api_key, leanbase.host = "phc_test", sys.argv[2]
    leanbase.enable_exception_autocapture = True
    leanbase.setup()
    globals()[sys.argv[1]]()
