"""Import leanbase, and assert that this starts no thread, installs no hook and loads no heavy module."""

from __future__ import annotations

import sys
import threading

HEAVY = {
    "urllib3",
    "ssl",
    "http.client",
    "email",
    "asyncio",
    "sqlite3",
    "typing",
    "dataclasses",
    "leanbase.error_tracking",
    "botocore",
}

hooks = sys.excepthook, threading.excepthook
before = set(sys.modules)

import leanbase  # noqa: E402, F401

loaded = set(sys.modules) - before
assert not loaded & HEAVY, loaded & HEAVY
packages = {name.partition(".")[0] for name in loaded}
assert packages <= {"leanbase", *sys.stdlib_module_names}, packages
assert hooks == (sys.excepthook, threading.excepthook)
assert threading.active_count() == 1
