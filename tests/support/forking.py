"""Runs a function in a forked child process."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import time
from collections.abc import Callable

HANG_SECONDS = 20.0
"""The time after which the child counts as deadlocked."""


def run_in_forked_child(function: Callable[[], object]) -> None:
    """Run a function in a forked child that ends without clean-up. Fail if the child raises or hangs."""
    pid = os.fork()
    if not pid:
        try:
            # Show where the child hangs, if it does.
            faulthandler.dump_traceback_later(HANG_SECONDS - 5, exit=True, file=2)
            # Another thread may have held the lock of the log stream, and CPython does not reset such locks in
            # a child (python/cpython#84579).
            logging.disable(logging.CRITICAL)
            function()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    raise AssertionError("the child hangs")
