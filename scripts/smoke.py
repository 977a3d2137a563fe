"""Tests an installed distribution whose only dependency is urllib3: `python smoke.py MODULE`.

The environment has no test tools.
"""

import importlib
import os
import sys
import tempfile
from typing import Any

name = sys.argv[1]
package: Any = importlib.import_module(name)
local_server: Any = importlib.import_module(f"{name}.local.server")
transports: Any = importlib.import_module(f"{name}.transports")


class Context:
    function_name = "smoke"
    function_version = "1"
    aws_request_id = "r-1"

    def get_remaining_time_in_millis(self) -> int:
        return 3000


with local_server.LocalServer() as server, tempfile.TemporaryDirectory() as directory:
    package.api_key, package.host = "phc_smoke", server.url

    @package.lambda_handler  # type: ignore[untyped-decorator]
    def handler(event: Any, context: Any) -> None:
        package.capture("handled", distinct_id="u", properties={"at": object})
        raise ValueError("of the handler")

    try:
        handler({}, Context())
    except ValueError:
        pass
    package.capture("by itself", distinct_id="u")
    assert package.shutdown()
    client = package.Leanbase("phc_smoke", server.url, sync_mode=False)
    client.capture("buffered", distinct_id="u")
    assert client.flush()
    spool = package.Leanbase(
        "phc_smoke", transport=transports.SpoolTransport(os.path.join(directory, "spool"))
    )
    spool.capture("spooled", distinct_id="u")
    assert spool.stats()["spooled"] == 1
    log = package.Leanbase(transport="log")
    log.capture("logged", distinct_id="u")
    got = sorted(event["event"] for event in server.store.events())
    assert got == ["$exception", "buffered", "by itself", "handled"], got
    library = {event["properties"]["$lib"] for event in server.store.events()}
    assert library == {"leanbase-python"}, library

others = {"leanbase", "leanbaseanalytics"} - {name}
loaded = {module for module in sys.modules if module.partition(".")[0] in others}
assert not loaded, loaded
print(f"{name} {package.__version__} works on {sys.version.split()[0]}")
