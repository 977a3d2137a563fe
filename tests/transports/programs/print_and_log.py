"""Print lines, and capture events with the transport `log` in between."""

from __future__ import annotations

import leanbase

if __name__ == "__main__":
    leanbase.transport = "log"
    print("before")
    leanbase.capture("first", distinct_id="u")
    print("between")
    with leanbase.delivery_scope():
        leanbase.capture("second", distinct_id="u")
        print("in the scope")
    print("after")
