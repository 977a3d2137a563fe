"""Buffer events in a process that gevent has patched. Arguments: a function below, and a server's URL."""

from __future__ import annotations

import importlib
import sys


def send_after_interval(url: str, first: str) -> None:
    """Wait for the buffer to send by itself, and print the counts. First comes the `patch` or the `import`."""
    if first == "import":
        importlib.import_module("leanbase")
    importlib.import_module("gevent.monkey").patch_all()
    import time

    import leanbase

    client = leanbase.Leanbase("k", url, sync_mode=False, flush_interval=0.1)
    client.capture("e", distinct_id="u")
    end = time.monotonic() + 5
    while not client.stats()["delivered"] and time.monotonic() < end:
        time.sleep(0.01)
    print(client.stats())


def flush_and_exit(url: str) -> None:
    """Capture in threads, flush, and leave one event for the exit hook."""
    importlib.import_module("gevent.monkey").patch_all()
    import threading

    import leanbase

    client = leanbase.Leanbase("k", url, sync_mode=False, flush_interval=3600)
    globals()["client"] = client  # a global lives until the interpreter has ended

    def capture() -> None:
        for number in range(50):
            client.capture("e", distinct_id=number)

    threads = [threading.Thread(target=capture) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush()
    assert client.stats()["delivered"] == 500
    client.capture("e", distinct_id="at exit")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
