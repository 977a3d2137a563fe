"""Send the events of a spool directory. Arguments: the directory, and a server's URL."""

from __future__ import annotations

import sys

from leanbase.transports import Deadline, HttpTransport, SpoolTransport

if __name__ == "__main__":
    spool = SpoolTransport(sys.argv[1], HttpTransport("k", sys.argv[2]))
    spool.flush(deadline=Deadline.after(20))
