"""Capture an event in a `__del__` that runs while the interpreter ends.

The arguments are the URL of a server, and what the default client captures before that: `nothing`, `an event`, or
`a buffered event`.
"""

from __future__ import annotations

import sys

import leanbase


class Late:
    def __del__(self) -> None:
        leanbase.capture("late", distinct_id="u")


url, before = sys.argv[1:]
leanbase.api_key, leanbase.host = "k", url
late = Late()
if before == "a buffered event":
    leanbase.sync_mode = False
if before != "nothing":
    leanbase.capture("e", distinct_id="u")
