"""Send events while signals interrupt the main thread: run the function that the first argument names, with a URL."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import leanbase
from leanbase import Leanbase

EXCEPTIONS: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
}


def exception_in_a_send(url: str, name: str) -> None:
    """Leave a send of two events, one of them retained before, by an exception of a signal handler."""
    client = Leanbase("k", url, max_retries=0)
    client.capture("retained", distinct_id="u")

    def interrupt(number: int, frame: Any) -> None:
        raise EXCEPTIONS[name]

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        client.capture("interrupted", distinct_id="u")
    except EXCEPTIONS[name]:
        print(client.stats()["retained"])
    print(client.flush(), client.stats()["retained"])


def shutdown_in_a_send(url: str, delay: str) -> None:
    """Shut the default client down in a signal handler, and print whether that took less than 2 seconds."""
    leanbase.api_key, leanbase.host = "k", url
    durations = []

    def stop(number: int, frame: Any) -> None:
        started = time.monotonic()
        leanbase.shutdown()
        durations.append(time.monotonic() - started)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, float(delay))
    leanbase.capture("e", distinct_id="u")
    print(durations[0] < 2)


def shutdown_and_exit(url: str) -> None:
    """Capture an event. SIGALRM shuts the default client down, and ends the process."""
    leanbase.api_key, leanbase.host = "k", url

    def stop(number: int, frame: Any) -> None:
        print(leanbase.shutdown())
        sys.exit(0)

    signal.signal(signal.SIGALRM, stop)
    leanbase.capture("e", distinct_id="u")


def interrupt_with_a_full_queue(url: str) -> None:
    """Interrupt the back-off of a send of three events, of which the client can retain only two."""
    client = Leanbase("k", url, max_retries=0, max_queue_size=2)
    client.capture("first", distinct_id="u")
    client.capture("second", distinct_id="u")
    sender: Any = client._current().outbox._transport.inner._sender  # type: ignore[attr-defined]
    sender._max_retries = 5
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        client.capture("third", distinct_id="u")
    except KeyboardInterrupt:
        print(client.stats()["retained"], client.stats()["dropped"])
    sender._max_retries = 0  # the exit hook need not wait for retries


def captures_in_a_handler(url: str) -> None:
    """Capture for 3 seconds, and in a signal handler every millisecond. Print whether all events were delivered."""
    client = Leanbase("k", url)
    busy = False

    def handler(number: int, frame: Any) -> None:
        nonlocal busy
        if not busy:
            busy = True
            client.capture("from the handler", distinct_id="u")
            busy = False

    client.capture("first", distinct_id="u")
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        client.capture("e", distinct_id="u")
    signal.setitimer(signal.ITIMER_REAL, 0)
    stats = client.stats()
    print(stats["captured"] == stats["delivered"] > 100)


def job(url: str, policy: Any) -> None:
    """Run a job that retains an event, and then waits for SIGTERM."""
    leanbase.api_key, leanbase.host, leanbase.max_retries = "k", url, 0

    @leanbase.job(flush=policy)
    def main() -> None:
        leanbase.capture("retained", distinct_id="u")
        leanbase.flush()
        print("ready", flush=True)
        # CPython handles a signal that comes just before a sleep only after it, so the sleeps are short.
        for _ in range(400):
            time.sleep(0.05)

    main()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
