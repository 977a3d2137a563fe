"""`make demo`: run both examples against the local ingestion server and show what arrived."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from leanbase.local.table import render

HERE = Path(__file__).parent

INVOKE = """
import json, time, app
class Context:
    function_name, function_version, aws_request_id = "orders", "$LATEST", "demo-invocation"
    def get_remaining_time_in_millis(self): return 10_000
started = time.perf_counter()
event = json.load(open("../event.json"))
answer = app.handler(event, Context())
took = (time.perf_counter() - started) * 1000
print(f"  responded with {answer['statusCode']} after {took:.1f} ms, {answer['body']}")
event["body"] = json.dumps({"company": "acme", "lines": [{"sku": "tea"}]})
started = time.perf_counter()
try:
    app.handler(event, Context())
except KeyError as error:
    took = (time.perf_counter() - started) * 1000
    print(f"  raised {error!r} after {took:.1f} ms: the order has no price")
"""


def main() -> int:
    """Start the server, run the examples, print the table."""
    command = [sys.executable, "-m", "leanbase", "local", "--port", "0", "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[2]
        print(f"A local ingestion server listens on {url}\n")
        environment = {**os.environ, "LEANBASE_API_KEY": "phc_demo", "LEANBASE_HOST": url}
        print("examples/lambda: two invocations of the decorated handler, the second with a broken order")
        lambda_function = [sys.executable, "-c", INVOKE]
        subprocess.run(lambda_function, cwd=HERE / "lambda" / "orders", env=environment, check=True)
        print("examples/render: one run of the nightly job")
        started = time.perf_counter()
        job = [sys.executable, "nightly.py"]
        done = subprocess.run(job, cwd=HERE / "render", env=environment, check=True, stdout=subprocess.PIPE)
        print("".join(f"  {line}\n" for line in done.stdout.decode().splitlines()), end="")
        print(f"  exit code 0 after {(time.perf_counter() - started) * 1000:.0f} ms\n")
        code = show(url)
        if sys.stdout.isatty() and sys.stdin.isatty():
            print(f"\nLook at them in a browser:  {url}    (Enter ends the demo)", end="", flush=True)
            input()
        else:
            print(f"A page shows them at {url} while the demo runs in a terminal.")
        return code
    except (EOFError, KeyboardInterrupt):
        print()
        return 0
    finally:
        server.terminate()
        server.wait()


def show(url: str) -> int:
    """Print the received events. Return 1 if an event is missing, else 0."""
    with urllib.request.urlopen(f"{url}/events", timeout=10) as response:
        events: list[dict[str, Any]] = json.load(response)["events"]
    print(render(events, max(100, shutil.get_terminal_size((140, 24)).columns)))
    requests = len({event["request"] for event in events})
    print(f"\n{len(events)} events arrived in {requests} requests, each before its program had returned.")
    python = os.path.relpath(sys.executable)
    print(f"For a server of your own to watch:  {python} -m leanbase local")
    return 0 if (len(events), requests) == (13, 3) else 1


if __name__ == "__main__":
    sys.exit(main())
