"""The functions that the emulator runs. They capture events with Leanbase and with other SDKs."""

from __future__ import annotations

import os
import zlib
from typing import Any

from workload import KEY, NAME, PROPERTIES, WHO, body

HOST = os.environ["BENCHMARK_HOST"]
EVENTS = int(os.environ.get("BENCHMARK_EVENTS", "10"))
WHICH = os.environ["BENCHMARK_FUNCTION"]
handler: Any

if WHICH == "nothing":

    def handler(event: Any, context: Any) -> str:
        return "done"

elif WHICH == "urllib3":
    import urllib3

    pool = urllib3.PoolManager()
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    PACKED = packer.compress(body(EVENTS)) + packer.flush()
    HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    def handler(event: Any, context: Any) -> str:
        pool.request("POST", f"{HOST}/batch/", body=PACKED, headers=HEADERS)
        return "done"

elif WHICH.startswith("leanbase"):
    import leanbase

    leanbase.api_key = KEY
    leanbase.host = HOST
    leanbase.transport = "log" if WHICH == "leanbase log" else "http"
    if WHICH == "leanbase with 100 flags":
        leanbase.flag_definitions = f"file:{os.environ['BENCHMARK_FLAGS']}"

    @leanbase.lambda_handler(flush="after_response" if WHICH == "leanbase after_response" else "end")
    def handler(event: Any, context: Any) -> str:
        for _ in range(EVENTS):
            leanbase.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
        if WHICH == "leanbase with 100 flags":
            assert (
                len(leanbase.get_all_flags(WHO, person_properties={"plan": "pro", "email": "a@b.c"})) == 100
            )
        return "done"

elif WHICH == "posthog sync_mode":
    from posthog import Posthog

    posthog = Posthog(KEY, host=HOST, sync_mode=True)

    def handler(event: Any, context: Any) -> str:
        for _ in range(EVENTS):
            posthog.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
        return "done"

elif WHICH == "posthog flush":
    from posthog import Posthog

    posthog = Posthog(KEY, host=HOST)

    def handler(event: Any, context: Any) -> str:
        for _ in range(EVENTS):
            posthog.capture(NAME, distinct_id=WHO, properties=PROPERTIES)
        posthog.flush()
        return "done"

elif WHICH == "segment flush":
    from segment.analytics.client import Client

    segment = Client(KEY, host=HOST)

    def handler(event: Any, context: Any) -> str:
        for _ in range(EVENTS):
            segment.track(WHO, NAME, PROPERTIES)
        segment.flush()
        return "done"
