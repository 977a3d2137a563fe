"""Fork a process that has a client: run the function that the first argument names, with the URL of a server."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import leanbase
from leanbase import Leanbase
from leanbase.default import default_client
from leanbase.delivery.scope import DeliveryScope, activate
from leanbase.transports.deadline import Deadline


def while_locks_are_held(url: str) -> None:
    """Fork while another thread holds every lock of the default client. Print the exit status of the child."""
    leanbase.api_key, leanbase.host = "k", url
    leanbase.capture("parent", distinct_id="u")
    retaining: Any = default_client._current().outbox._transport
    http = retaining.inner
    locks: list[Any] = [
        default_client._lock,
        retaining.ledger.lock,
        http._sender._lock,
        http._sender._breaker._lock,
    ]
    held, forever = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        forever.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        leanbase.capture("child", distinct_id="u")
        leanbase.flush()
        leanbase.shutdown()
        leanbase.capture("child again", distinct_id="u")
        leanbase.disabled = True
        leanbase.shutdown()
        os._exit(0)
    print(os.waitpid(pid, 0)[1])


def with_a_retained_event(url: str) -> None:
    """Fork after a send that failed. Print what the child finds, and the receipt of the parent's flush."""
    client = Leanbase("k", url, max_retries=0)
    client.capture("parent", distinct_id="u")
    pid = os.fork()
    if pid == 0:
        client.disabled = True
        print(client.stats()["retained"], client.shutdown(), client.stats()["dropped"], flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    print(client.flush())


def with_a_deadline(url: str) -> None:
    """Fork in a scope whose deadline then expires. Print how many events the child delivers."""
    client = Leanbase("k", url)
    with activate(DeliveryScope("end", Deadline.after(0.1))):
        pid = os.fork()
        if pid == 0:
            time.sleep(0.2)
            thread = threading.Thread(target=client.capture, args=("e",), kwargs={"distinct_id": "u"})
            thread.start()
            thread.join()
            print(client.stats()["delivered"], flush=True)
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
