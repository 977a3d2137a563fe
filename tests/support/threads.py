"""Threads that call a function."""

from __future__ import annotations

import threading
from collections.abc import Callable


def start_thread(call: Callable[..., object], *args: object, **kwargs: object) -> threading.Thread:
    """Call a function in a new thread, and return the thread."""
    thread = threading.Thread(target=call, args=args, kwargs=kwargs)
    thread.start()
    return thread


def run_in_threads(*calls: Callable[[], object]) -> None:
    """Call all functions in parallel, each in a thread, and wait until all have returned."""
    threads = [start_thread(call) for call in calls]
    for thread in threads:
        thread.join()
