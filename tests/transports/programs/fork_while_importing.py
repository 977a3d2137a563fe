"""Fork while the buffer's thread imports urllib3 for its first send. Argument: a server's URL."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from importlib.abc import MetaPathFinder
from typing import Any

from leanbase import Leanbase


class SlowDisk(MetaPathFinder):
    """Finds no module, and takes half a second to look for urllib3."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "urllib3":
            is_importing.set()
            time.sleep(0.5)


def capture_in_child() -> None:
    client.capture("child", distinct_id="u")
    sys.exit(0 if client.flush(5) else 1)


if __name__ == "__main__":
    is_importing = threading.Event()
    sys.meta_path.insert(0, SlowDisk())
    client = Leanbase("k", sys.argv[1], sync_mode=False, flush_at=1)
    client.capture("parent", distinct_id="u")
    assert is_importing.wait(5)
    process = multiprocessing.get_context("fork").Process(target=capture_in_child)
    process.start()
    process.join(10)
    process.kill()
    client.flush()
    sys.exit(process.exitcode or 0)
