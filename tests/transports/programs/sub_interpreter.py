"""Buffer events in an isolated sub-interpreter, which cannot start daemon threads. Argument: a server's URL."""

from __future__ import annotations

import importlib
import logging
import sys

from leanbase import Leanbase


def capture(url: str) -> None:
    """Run in the sub-interpreter."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    client = Leanbase("k", url, sync_mode=False)
    client.capture("one", distinct_id="u")
    client.capture("two", distinct_id="u")
    client.flush()
    client.capture("three", distinct_id="u")
    client.shutdown()
    globals()["client"] = Leanbase(
        "k", url, sync_mode=False
    )  # a global lives until the interpreter has ended
    globals()["client"].capture("at exit", distinct_id="u")


if __name__ == "__main__":
    interpreters = importlib.import_module("_interpreters")
    interpreter = interpreters.create("isolated")
    search = f"import sys; sys.path[:] = {sys.path!r}"
    call = f"import {__spec__.name} as program; program.capture({sys.argv[1]!r})"
    print(interpreters.run_string(interpreter, f"{search}; {call}"))
    interpreters.destroy(interpreter)
