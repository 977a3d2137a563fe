"""A background worker that checks every minute whether sites respond.

Set LEANBASE_API_KEY and LEANBASE_HOST in its environment. SITES is a list of URLs with commas. INTERVAL is a
number of seconds, by default 60. On SIGTERM the worker finishes its current round, and exits with 0.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request

import leanbase

SITES = [site.strip() for site in os.environ.get("SITES", "https://example.com/").split(",")]
INTERVAL = float(os.environ.get("INTERVAL", "60"))
TIMEOUT = 10.0

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())


@leanbase.job
def main() -> None:
    """Check all sites in rounds, until SIGTERM."""
    while not stopping.is_set():
        with leanbase.delivery_scope():  # the events of a round are sent when the round ends
            for site in SITES:
                check(site)
        stopping.wait(INTERVAL)
    print("stopped", flush=True)


def check(site: str) -> None:
    """Request one site, and capture its response."""
    with leanbase.new_context():
        leanbase.tag("site", site)
        started = time.monotonic()
        try:
            with urllib.request.urlopen(site, timeout=TIMEOUT) as response:
                status = response.status
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError as error:
            leanbase.capture_exception(error)
            status = 0
        took = round(time.monotonic() - started, 3)
        leanbase.capture("site checked", properties={"status": status, "seconds": took})
        print(f"{site}: {status}", flush=True)


if __name__ == "__main__":
    main()
