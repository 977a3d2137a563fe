"""Capture in exit hooks that run before and after the exit hook of the package. Argument: a server's URL."""

from __future__ import annotations

import atexit
import sys


def main(url: str) -> None:
    # Python calls the hook first that was registered last. The package registers its hook with the first event.
    atexit.register(lambda: client.capture("registered before the import", distinct_id="u"))
    from leanbase import Leanbase

    client = Leanbase("k", url, sync_mode=False, flush_interval=3600)
    atexit.register(lambda: client.capture("registered before the first event", distinct_id="u"))
    client.capture("first", distinct_id="u")
    atexit.register(lambda: client.capture("registered after the first event", distinct_id="u"))


if __name__ == "__main__":
    main(sys.argv[1])
