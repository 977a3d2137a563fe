"""Start child processes that capture events: run the function that the first argument names.

The other arguments are the library (`multiprocessing` or `billiard`), its start method, the URL of a server,
and arguments of the function. The children run the functions whose names begin with `child_`.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import leanbase
from leanbase import Leanbase

clients: list[Leanbase] = []
"""The clients of a process, in a global: they live until the interpreter has ended."""


# --- what children do ----------------------------------------------------------------------------------


def child_buffers(url: str, name: object = 0) -> None:
    clients.append(Leanbase("k", url, sync_mode=False, flush_interval=60))
    clients[-1].capture(f"buffered {name}", distinct_id="u")


def child_retains(url: str) -> None:
    clients.append(Leanbase("k", url, max_retries=0))
    clients[-1].capture("retained", distinct_id="u")


def child_forks_again(url: str) -> None:
    child_buffers(url, "outer")
    pid = os.fork()
    if not pid:
        clients[-1].capture("inner", distinct_id="u")
        sys.exit(0)
    os.waitpid(pid, 0)


def child_blocks_on_a_lock(url: str) -> None:
    """SIGTERM arrives in another thread, so that it does not interrupt the lock of the main thread."""
    child_buffers(url)

    def signal_myself() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=signal_myself, daemon=True).start()
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def child_terminates_its_own_child(url: str) -> None:
    child_buffers(url)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, b".")
        time.sleep(30)
        os._exit(0)
    os.read(reading, 1)
    os.kill(pid, signal.SIGTERM)
    print(os.waitpid(pid, 0)[1], flush=True)
    time.sleep(0.3)


def child_computes_in_c(url: str, queue: Any) -> None:
    child_buffers(url)
    queue.put(1)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 100_000_000)


def child_installs_a_handler_later(url: str) -> None:
    child_buffers(url)
    signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)


def child_ignores_sigterm(url: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child_buffers(url)
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, flush=True)


# --- what parents do -----------------------------------------------------------------------------------


def start_one_child(library: Any, method: str, url: str, task: str) -> None:
    """Print the exit code of a child."""
    process = library.get_context(method).Process(target=globals()[task], args=(url,))
    process.start()
    process.join(20)
    print(process.exitcode)


def leave_a_pool(library: Any, method: str, url: str) -> None:
    """Leave a pool's `with` block, which ends the workers with SIGTERM."""
    with library.get_context(method).Pool(3) as pool:
        pool.map(partial(child_buffers, url), range(6), 1)


def leave_a_pool_in_a_job(library: Any, method: str, url: str) -> None:
    leanbase.api_key, leanbase.host = "k", url
    leanbase.job(leave_a_pool)(library, method, url)


def close_and_join_a_pool(library: Any, method: str, url: str) -> None:
    pool = library.get_context(method).Pool(2)
    pool.map(partial(child_buffers, url), range(4), 1)
    pool.close()
    pool.join()


def recycle_workers(library: Any, method: str, url: str) -> None:
    pool = library.Pool(2, maxtasksperchild=1)
    pool.map(partial(child_buffers, url), range(6), 1)
    pool.close()
    pool.join()


def terminate_a_billiard_pool(library: Any, method: str, url: str, callback: str = "") -> None:
    """With a `callback`, the workers print it when they exit."""
    options: dict[str, Callable[..., object]] = {}
    if callback:
        options["on_process_exit"] = lambda pid, code: os.write(1, f"{callback}\n".encode())
    pool = importlib.import_module("billiard.pool").Pool(2, **options)
    pool.map(partial(child_buffers, url), range(4), 1)
    pool.terminate()
    pool.join()


def terminate_a_computing_child(library: Any, method: str, url: str) -> None:
    """Print whether the child has ended."""
    context = library.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child_computes_in_c, args=(url, queue))
    process.start()
    queue.get()
    time.sleep(0.2)
    process.terminate()
    process.join(5)
    print(process.exitcode is not None)
    process.kill()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    name, library_name, *arguments = sys.argv[1:]
    globals()[name](importlib.import_module(library_name), *arguments)
