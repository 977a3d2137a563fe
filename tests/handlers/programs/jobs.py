"""Run a job. Arguments: a function below, and its own arguments."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable

import leanbase


def run(body: Callable[[], object]) -> None:
    @leanbase.job
    def main() -> None:
        leanbase.tag("job", "nightly")
        leanbase.capture("started", distinct_id="cron")
        body()

    main()
    print("after the job", flush=True)


def wait() -> None:
    """Wait for the signal of the test."""
    print("ready", flush=True)
    # Many short sleeps, because CPython does not wake from a sleep if the signal comes just before it.
    for _ in range(400):
        time.sleep(0.05)


def return_normally() -> None:
    run(lambda: None)


def raise_an_exception() -> None:
    def fail() -> None:
        raise ValueError("mine")

    run(fail)


def exit_with_a_code() -> None:
    run(lambda: sys.exit(7))


def exit_with_a_message() -> None:
    run(lambda: sys.exit("reason"))


def interrupt() -> None:
    run(lambda: os.kill(os.getpid(), signal.SIGINT))


def capture_many(count: str) -> None:
    def capture() -> None:
        for number in range(int(count)):
            leanbase.capture("e", distinct_id=number)

    run(capture)


def wait_for_sigterm() -> None:
    run(wait)


def wait_for_sigterm_in_inner_scopes() -> None:
    @leanbase.job
    def inner() -> None:
        leanbase.capture("inner", distinct_id="u")
        with leanbase.delivery_scope():
            leanbase.capture("innermost", distinct_id="u")
            wait()

    run(inner)


def wait_for_sigterm_with_an_own_handler() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
    run(wait)


def print_whether_sigterm_has_its_default_at_exit() -> None:
    atexit.register(lambda: print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL))
    run(lambda: None)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
