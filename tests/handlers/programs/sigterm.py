"""Handle SIGTERM with `install_sigterm_handler()`. Arguments: a function below, and its own arguments."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

import leanbase
from leanbase.handlers.termination import termination
from tests.support.waiting import wait_until

SECONDS = 20.0


def install() -> None:
    assert leanbase.install_sigterm_handler()


def collect() -> Any:
    """Capture an event in a scope that stays open."""
    scope = leanbase.delivery_scope()
    scope.__enter__()
    leanbase.capture("collected", distinct_id="u")
    return scope


def ready() -> None:
    print("ready", flush=True)


def wait() -> None:
    """Wait for the signal of the test."""
    ready()
    # Many short sleeps, because CPython does not wake from a sleep if the signal comes just before it.
    for _ in range(int(SECONDS / 0.05)):
        time.sleep(0.05)
    print("went on", flush=True)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def delivered() -> int:
    count: int = leanbase.stats()["delivered"]
    return count


# --- what is sent --------------------------------------------------------------------------------------


def collect_in_an_open_scope() -> None:
    install()
    collect()
    wait()


def capture_outside_a_scope(name: str) -> None:
    install()
    leanbase.capture(name, distinct_id="u")
    wait()


def capture_with_another_client() -> None:
    other = leanbase.Leanbase("k", sync_mode=False)
    leanbase.install_sigterm_handler(other)
    install()
    other.capture("of another client", distinct_id="u")
    wait()


def close_the_scope_during_the_flush() -> None:
    # The flush then takes longer than the close of the scope, but not the 8 s that it may take by default.
    leanbase.sigterm_grace = 2.5
    install()
    scope = collect()
    ready()
    wait_until(lambda: termination()._flushing is not None, SECONDS)
    scope.__exit__()
    print("went on", flush=True)


def outlive_the_grace_period() -> None:
    install()
    os.environ["VERCEL"] = "1"  # a grace period of 0.5 s
    signals = []
    signal.signal(signal.SIGTERM, lambda *_: signals.append(1))

    @leanbase.job
    def main() -> None:
        leanbase.capture("before", distinct_id="u")
        terminate()
        wait_until(lambda: signals, SECONDS)
        time.sleep(0.6)
        leanbase.capture("after", distinct_id="u")

    main()
    print(leanbase.stats())


# --- who has the signal afterwards ---------------------------------------------------------------------


def exit_in_the_previous_handler() -> None:
    def previous(number: int, frame: Any) -> None:
        print("previous", threading.current_thread() is threading.main_thread(), flush=True)
        sys.exit(3)

    signal.signal(signal.SIGTERM, previous)
    install()
    collect()
    wait()


def return_from_the_previous_handler() -> None:
    signals = []

    def previous(number: int, frame: Any) -> None:
        signals.append(number)
        print("previous", flush=True)

    signal.signal(signal.SIGTERM, previous)
    install()
    collect()
    ready()
    wait_until(lambda: signals, SECONDS)
    leanbase.capture("later", distinct_id="u")
    terminate()
    wait_until(lambda: len(signals) == 2, SECONDS)
    print("went on", flush=True)


def ignore_the_signal() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    install()
    collect()
    ready()
    wait_until(lambda: delivered() == 1, SECONDS)
    time.sleep(0.3)  # for the signal to be raised again
    print("went on", flush=True)


def handle_in_an_event_loop() -> None:
    install()
    collect()

    async def wait_until_delivered(count: int) -> None:
        end = time.monotonic() + SECONDS
        while delivered() < count and time.monotonic() < end:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # for a signal that would be raised again

    async def main() -> None:
        done = asyncio.Event()

        def handle() -> None:
            print("handled", flush=True)
            done.set()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, handle)
        leanbase.install_sigterm_handler()
        terminate()
        await asyncio.wait_for(done.wait(), SECONDS)
        await wait_until_delivered(1)
        with leanbase.delivery_scope():
            leanbase.capture("later", distinct_id="u")
            terminate()
            await wait_until_delivered(2)
            print("delivered inside the scope:", delivered())

    asyncio.run(main())
    print("went on", flush=True)


def wrap_the_handler() -> None:
    """Install a handler of the application that calls Leanbase's, and Leanbase's in front of it once more."""
    leanbase.install_sigterm_handler()
    inner = signal.getsignal(signal.SIGTERM)
    assert callable(inner)

    def wrapper(number: int, frame: Any) -> None:
        print("wrapper", flush=True)
        inner(number, frame)

    signal.signal(signal.SIGTERM, wrapper)
    install()
    collect()
    wait()


def terminate_a_forked_child() -> None:
    install()
    collect()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, b".")
        wait()
        os._exit(9)
    os.read(reading, 1)  # CPython loses a signal that arrives in the middle of a fork
    os.kill(pid, signal.SIGTERM)
    print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    print("went on", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
