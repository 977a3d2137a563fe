"""Which modules wait for their first use, so that `import leanbase` stays fast at a cold start."""

from __future__ import annotations

import subprocess
import sys

LATER = {
    "leanbase.settings": "the first client",
    "leanbase.environment": "the first client, or a decorated Lambda handler",
    "leanbase.handlers.termination": "a Lambda handler, a job, or the first call",
    "leanbase.handlers.platforms": "a job, a request or SIGTERM",
    "leanbase.handlers.aws_lambda.extension": "a handler that sends after the response",
    "leanbase.handlers.aws_lambda.snapstart": "a function with SnapStart",
    "leanbase.handlers.aws_lambda.reports": "Lambda's runtime",
    "leanbase.handlers.aws_lambda.timeout": "a handler that warns of its timeout",
    "leanbase.pipeline": "the first client",
    "leanbase.delivery.outbox": "the first client",
    "leanbase.delivery.factory": "the first client",
    "leanbase.delivery.background": "the first request of a web application",
    "leanbase.transports.http": "the first client that sends over HTTP",
    "leanbase.transports._http.connection": "the first send, or a Lambda's cold start",
    "leanbase.transports.sqs": "the first client with a queue",
    "leanbase.transports.log": "the first client that writes to a log",
    "leanbase.transports.spool": "the first client with a spool",
    "leanbase.transports.buffered": "the first client with a buffer",
    "leanbase.error_tracking.capture": "the first exception",
    "leanbase.redaction": "the first exception, or `debug`",
    "leanbase.handlers.web_request": "the import of an integration",
    "leanbase.feature_flags": "the first call about flags",
    "leanbase.cli": "the command line",
    "leanbase.integrations": "the application's own import",
    "leanbase.relay": "the relay's own import",
    "leanbase.testing": "pytest",
    "leanbase.local": "the application's own import",
}
"""Modules that `import leanbase` must not load, and when they are loaded."""


def modules_after(statements: str) -> set[str]:
    code = f"import sys\n{statements}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_these_modules_wait_for_their_first_use() -> None:
    assert set(LATER) & modules_after("import leanbase") == set()


def test_a_client_loads_neither_error_tracking_nor_the_http_stack() -> None:
    loaded = modules_after("import leanbase\nleanbase.Leanbase('k', 'http://127.0.0.1:9')")
    assert {"leanbase.pipeline", "leanbase.transports.http"} <= loaded
    assert not loaded & {"leanbase.error_tracking.capture", "leanbase.transports._http.connection", "urllib3"}


def test_the_list_names_modules_that_exist() -> None:
    statements = "\n".join(f"import {name}" for name in LATER if name != "leanbase.relay")
    assert set(LATER) - {"leanbase.relay"} <= modules_after(statements)
