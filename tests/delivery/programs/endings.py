"""Capture events and end. Arguments: a function below, and the number of events."""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import leanbase
from leanbase import Leanbase

NAME, COUNT = sys.argv[1], int(sys.argv[2])
OPTIONS = json.loads(os.environ["OPTIONS"])

client: Leanbase
"""A global, as in a script: it lives until the interpreter has ended."""


def report(error: Exception, events: list[dict[str, Any]]) -> None:
    if type(error).__name__ == "DroppedError":
        for event in events:
            # `os.write` works until the very end, and from a child process.
            os.write(2, f"REPORTED {event['uuid']}\n".encode())


def capture(_: object = None) -> None:
    global client
    client = Leanbase(send_deadline=0.5, max_retries=0, on_error=report, **OPTIONS)
    for number in range(COUNT):
        client.capture("captured", distinct_id="u", properties={"number": number})


def return_normally() -> None:
    capture()


def capture_at_exit() -> None:
    atexit.register(capture)


def raise_an_exception() -> None:
    capture()
    raise ZeroDivisionError


def exit_with_a_code() -> None:
    capture()
    sys.exit(3)


def wait_for_the_server() -> None:
    """End when the test has repaired the server, and has written a line to the standard input."""
    capture()
    os.write(2, b"READY\n")
    sys.stdin.readline()


def terminate_with_handler() -> None:
    leanbase.install_sigterm_handler(Leanbase(**OPTIONS))
    capture()
    leanbase.install_sigterm_handler(client)
    terminate_myself()


def terminate_without_handler() -> None:
    capture()
    terminate_myself()


def terminate_myself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)


def exit_at_once() -> None:
    capture()
    os._exit(0)


def end_in_a_child() -> None:
    process = multiprocessing.Process(target=capture)
    process.start()
    process.join(20)


def end_in_a_pool() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(capture, [1])


def end_in_a_recycled_billiard_worker() -> None:
    pool = importlib.import_module("billiard").Pool(1, maxtasksperchild=1)
    pool.map(capture, [1])
    pool.close()
    pool.join()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    end: Callable[[], None] = globals()[NAME]
    end()
