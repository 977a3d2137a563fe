"""Fork inside a scope of the default client, with the URL of a server: parent and child count and send their own events."""

from __future__ import annotations

import os
import sys

import leanbase

leanbase.api_key, leanbase.host = "k", sys.argv[1]
leanbase.capture("parent first", distinct_id="u")
with leanbase.new_context(), leanbase.delivery_scope():
    leanbase.tag("parent", 1)
    leanbase.capture("parent collected", distinct_id="u")
    pid = os.fork()
    if pid == 0:
        assert leanbase.get_tags() == {}
        assert leanbase.capture("child", distinct_id="u")
        stats = leanbase.stats()
        assert (stats["captured"], stats["delivered"], stats["retained"]) == (1, 1, 0), stats
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
if pid:
    stats = leanbase.stats()
    assert (stats["captured"], stats["delivered"], stats["retained"]) == (2, 2, 0), stats
    print("parent done")
