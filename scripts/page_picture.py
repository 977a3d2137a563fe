"""Takes screenshots of the local server's page with Chromium: `python -m scripts.page_picture`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from leanbase import Leanbase
from leanbase.local.server import LocalServer

ROOT = Path(__file__).parents[1]
SIZE = {"width": 1120, "height": 620}
SCHEMES = ("light", "dark")
HANDLER = """
import json, app
class Context:
    function_name, function_version, aws_request_id = "orders", "$LATEST", "demo-invocation"
    def get_remaining_time_in_millis(self): return 10_000
event = json.load(open("../event.json"))
app.handler(event, Context())
event["body"] = json.dumps({"company": "acme", "lines": [{"sku": "tea"}]})
try:
    app.handler(event, Context())
except KeyError:
    pass
"""


def main() -> None:
    with LocalServer() as server:
        environment = {"LEANBASE_HOST": server.url, "LEANBASE_API_KEY": "phc_demo", "PATH": ""}
        client = Leanbase("phc_demo", server.url)
        client.capture(
            "$pageview", distinct_id="user_7", properties={"$current_url": "https://shop.example.com/"}
        )
        client.capture("signed up", distinct_id="user_7", properties={"plan": "pro", "seats": 3})
        client.identify("user_7", {"company": "acme"})
        command = [sys.executable, "-c", HANDLER]
        subprocess.run(command, cwd=ROOT / "examples" / "lambda" / "orders", env=environment, check=True)
        client.capture("report exported", distinct_id="user_9", properties={"format": "csv", "rows": 1200})
        number = next(event["id"] for event in server.store.events() if event["event"] == "$exception")
        print(json.dumps({"exception": number}))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for scheme in SCHEMES:
                page = browser.new_context(color_scheme=scheme, viewport=SIZE).new_page()  # type: ignore[arg-type]
                page.goto(f"{server.url}#event/{number}")
                page.wait_for_selector("#detail .exception")
                page.wait_for_timeout(1700)
                page.screenshot(path=ROOT / "docs" / "images" / f"local-page-{scheme}.png")
            browser.close()


if __name__ == "__main__":
    main()
