"""A cron job that bills the day's usage of each company.

Set LEANBASE_API_KEY and LEANBASE_HOST in its environment. Events are sent a hundred at a time, and when the
job ends. The job may also end by an exception, an exit, or SIGTERM.
"""

from __future__ import annotations

import csv
import datetime as dt
import os
from decimal import Decimal
from pathlib import Path

import leanbase

USAGE = Path(os.environ.get("USAGE_FILE", Path(__file__).with_name("usage.csv")))


@leanbase.job
def main() -> None:
    """Bill every company with usage."""
    started = dt.datetime.now(dt.timezone.utc)
    with USAGE.open(newline="") as file:
        for row in csv.DictReader(file):
            if amount := Decimal(row["amount"]):
                bill(row["company"], amount, started.date())
    leanbase.capture("billing finished", properties={"took": dt.datetime.now(dt.timezone.utc) - started})


def bill(company: str, amount: Decimal, day: dt.date) -> None:
    """Send one invoice. Here it is a log line."""
    leanbase.capture(
        "invoice sent",
        distinct_id=f"billing@{company}.example",
        properties={"amount": amount, "period": day},
        groups={"company": company},
    )
    leanbase.group_identify("company", company, {"last_invoice": amount})
    print(f"billed {company}: {amount}", flush=True)


if __name__ == "__main__":
    main()
