"""Runs one import of a CSV file: `python csv_import.py SDK URL FILE`.

Prints the seconds until all events were delivered, and the memory of the process before the import and at its
peak, in MiB.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from workload import KEY

COLUMNS = ("event", "distinct_id", "timestamp", "plan", "total", "country", "url")


def write(path: Path, rows: int) -> None:
    """Write a CSV file with this number of rows."""
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(rows):
            moment = (start + timedelta(seconds=number)).isoformat()
            url = f"https://shop.example.com/checkout/{number}"
            writer.writerow(
                ["order created", f"user_{number % 5000}", moment, "pro", number % 1000, "DE", url]
            )


def leanbase(url: str, path: str) -> None:
    import os

    from leanbase.cli import main

    os.environ |= {"LEANBASE_HOST": url, "LEANBASE_API_KEY": KEY}
    assert main(["--quiet", "import", path]) == 0


def posthog(url: str, path: str) -> None:
    from posthog import Posthog

    client = Posthog(KEY, host=url, historical_migration=True, max_queue_size=10_000)
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            name, who, moment = row.pop("event"), row.pop("distinct_id"), row.pop("timestamp")
            properties = {**row, "total": int(row["total"])}
            when = datetime.fromisoformat(moment)
            while client.capture(name, distinct_id=who, properties=properties, timestamp=when) is None:
                time.sleep(0.001)  # the queue is full, and the event was dropped: try again
    client.shutdown()


SDKS: dict[str, Callable[[str, str], None]] = {"leanbase import": leanbase, "posthog": posthog}


def memory(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    name, url, path = sys.argv[1:]
    if name == "leanbase import":
        import leanbase.cli  # noqa: F401
    else:
        import posthog  # noqa: F401
    before, started = memory("VmRSS"), time.perf_counter()
    SDKS[name](url, path)
    print("\n", time.perf_counter() - started, before, memory("VmHWM"))


if __name__ == "__main__":
    main()
