"""A cron job on Render that bills the day's usage.

Set LEANBASE_API_KEY and LEANBASE_HOST in the job's environment. Events leave a hundred at a time and when
the job ends, also when it fails, exits, or is stopped with SIGTERM.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import leanbase

USAGE = {"acme": Decimal("120.50"), "globex": Decimal("80.25"), "initech": Decimal("0")}


@leanbase.job
def main() -> None:
    """Bill every company that used something."""
    leanbase.tag("job", "nightly billing")
    started = dt.datetime.now(dt.timezone.utc)
    for company, amount in USAGE.items():
        if not amount:
            continue
        leanbase.capture(
            "invoice sent",
            distinct_id=f"billing@{company}.example",
            properties={"amount": amount, "period": started.date()},
            groups={"company": company},
        )
        leanbase.group_identify("company", company, {"last_invoice": amount})
    leanbase.capture("billing finished", properties={"took": dt.datetime.now(dt.timezone.utc) - started})


if __name__ == "__main__":
    main()
