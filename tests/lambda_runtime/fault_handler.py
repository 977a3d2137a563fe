"""The function of the fault matrix: captures events, and then does what the Lambda event says."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import leanbase
from leanbase.transports._http import breaker

# The real pause of 30 s would be too long for a test. `Cell` sets this one, and waits as long.
breaker.FIRST_PAUSE_SECONDS = float(os.environ["PAUSE"])


class TimeLimit(Exception):
    """What a decorator that limits the time of a function raises."""


def raise_time_limit(number: int, frame: object) -> None:
    raise TimeLimit


signal.signal(signal.SIGALRM, raise_time_limit)


def expose(about: dict[str, Any]) -> None:
    """Read a flag, which captures an event."""
    with leanbase.new_context():
        for name, value in about.items():
            leanbase.tag(name, value)
        leanbase.evaluate_flags(f"{about['invocation']} {about['number']}").is_enabled("beta")


def handle(event: dict[str, Any], context: Any) -> None:
    if event.get("then") == "time limit":
        signal.setitimer(signal.ITIMER_REAL, event["seconds"])
    sys.stdout.write(event.get("print", ""))
    if os.environ.get("LEANBASE_SECRET_KEY"):
        leanbase.evaluate_flags("u").is_enabled("beta", send_feature_flag_events=False)
    for number in range(event["count"]):
        about = {"invocation": event["name"], "number": number}
        if event.get("reads") == "each":
            expose(about)
        else:
            leanbase.capture("captured", distinct_id="u", properties=about)
    then = event.get("then")
    if then == "sleep":
        time.sleep(event["seconds"])
    elif then == "raise":
        raise ValueError("the handler's own error")
    elif then == "exit":
        os._exit(1)
    elif then == "out of memory":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does


handler: Any = leanbase.lambda_handler(flush=os.environ["FLUSH"])(handle)  # type: ignore[call-overload]
