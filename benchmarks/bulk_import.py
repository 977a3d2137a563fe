"""Runs one import of past events: `python bulk_import.py SDK URL EVENTS`.

Prints the seconds until all events were delivered, and the peak memory of the process in MiB.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from workload import KEY, NAME, PROPERTIES, WHO

START = datetime(2024, 1, 1, tzinfo=timezone.utc)


def rows(events: int) -> Iterator[datetime]:
    """Yield the timestamp of each event, one a second."""
    for number in range(events):
        yield START + timedelta(seconds=number)


def leanbase(url: str, events: int) -> None:
    from leanbase import Leanbase

    client = Leanbase(KEY, url, transport="buffered", historical_migration=True)
    for moment in rows(events):
        client.capture(NAME, distinct_id=WHO, properties=PROPERTIES, timestamp=moment)
    assert client.shutdown()
    assert client.stats()["delivered"] == events, client.stats()


def posthog(url: str, events: int) -> None:
    from posthog import Posthog

    client = Posthog(KEY, host=url, historical_migration=True, max_queue_size=10_000)
    for moment in rows(events):
        while client.capture(NAME, distinct_id=WHO, properties=PROPERTIES, timestamp=moment) is None:
            time.sleep(0.001)  # the queue is full, and the event was dropped: try again
    client.shutdown()


def segment(url: str, events: int) -> None:
    from segment.analytics.client import Client

    client = Client(KEY, host=url, max_queue_size=10_000)
    for moment in rows(events):
        while not client.track(WHO, NAME, PROPERTIES, timestamp=moment)[0]:
            time.sleep(0.001)
    client.flush()
    client.join()


def by_hand(url: str, events: int) -> None:
    """Send batches of 100 with urllib3 and json, as a script for one import would."""
    import uuid

    import urllib3

    pool = urllib3.PoolManager()
    batch: list[dict[str, Any]] = []

    def send() -> None:
        body = json.dumps({"api_key": KEY, "historical_migration": True, "batch": batch})
        headers = {"Content-Type": "application/json"}
        answer = pool.request("POST", f"{url}/batch/", body=body.encode(), headers=headers)
        assert answer.status == 200
        batch.clear()

    for moment in rows(events):
        event = {"event": NAME, "distinct_id": WHO, "properties": PROPERTIES}
        batch.append({**event, "uuid": str(uuid.uuid4()), "timestamp": moment.isoformat()})
        if len(batch) == 100:
            send()
    if batch:
        send()


SDKS: dict[str, Callable[[str, int], None]] = {
    "leanbase": leanbase,
    "by hand": by_hand,
    "posthog": posthog,
    "segment": segment,
}


def main() -> None:
    name, url, events = sys.argv[1:]
    started = time.perf_counter()
    SDKS[name](url, int(events))
    seconds = time.perf_counter() - started
    # Not `getrusage`: it includes the peak of the process that this one was forked from.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(seconds, int(peak[1]) / 1024 if peak else 0.0)


if __name__ == "__main__":
    main()
