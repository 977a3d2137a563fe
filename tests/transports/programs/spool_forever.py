"""Capture events without end, and print their uuids. Arguments: a spool directory, and any server's URL."""

from __future__ import annotations

import sys
from itertools import count

from leanbase import Leanbase
from leanbase.transports import HttpTransport, SpoolTransport

if __name__ == "__main__":
    directory, *urls = sys.argv[1:]
    inner = HttpTransport("k", urls[0], max_retries=0) if urls else None
    client = Leanbase(transport=SpoolTransport(directory, inner), send_deadline=5)
    for number in count():
        uuid = client.capture("e", distinct_id=number)
        sys.stdout.write(f"{uuid}\n")  # one write for each line: the process is killed at any moment
        sys.stdout.flush()
