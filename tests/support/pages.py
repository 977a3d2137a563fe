"""Runs the Python in a document: all blocks of a page, as pasted, in their order and in one namespace.

`python -m tests.support.pages docs/celery.md` runs one page in a process of its own.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *ROOT.glob("examples/*/README.md")])
READERS_OWN = {
    "README.md": "error = ValueError()",
    "docs/asgi.md": """
        from blinker import signal
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse
        class OutOfStock(Exception): ...
        class User: ...
        users = ...
        got_request_exception = signal("in the place of Quart's")
        FastAPI.asgi_app = None
        message = Request({"type": "http"})
        message.author = "user_1"
    """,
    "docs/aws-lambda.md": """
        from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
        from aws_lambda_powertools.utilities.batch import (
            BatchProcessor, EventType, process_partial_response
        )
        from chalice import Chalice, ConvertToMiddleware
        class OutOfStock(Exception): ...
        app = APIGatewayHttpResolver()
        processor = BatchProcessor(event_type=EventType.SQS)
    """,
    "docs/delivery.md": """
        from types import SimpleNamespace
        rows = [SimpleNamespace(user="user_1")]
        checkpoint = SimpleNamespace(move=lambda: None)
    """,
    "docs/django.md": "from django.core.management import BaseCommand",
    "docs/error-tracking.md": """
        from types import SimpleNamespace
        class CardError(Exception): ...
        def charge(order): raise CardError
        order = SimpleNamespace(id=7)
    """,
    "docs/flask.md": """
        class OutOfStock(Exception): ...
        current_user = ...
    """,
    "docs/google-cloud.md": """
        flask = __import__("flask")
        flask.Flask("functions").app_context().push()
        event = {"id": "7", "source": "//storage.googleapis.com/b", "time": "2026-01-02T03:04:05Z"}
    """,
    "docs/render.md": """
        from types import SimpleNamespace
        def rows(): return [SimpleNamespace(user="user_1")]
    """,
    "docs/feature-flags.md": "def order(): return leanbase.get_feature_flag('checkout', 'user_1')",
    "docs/testing.md": """
        from pathlib import Path
        Path("app.py").write_text(
            "import leanbase\\n@leanbase.lambda_handler\\ndef handler(event, context):\\n"
            "    leanbase.capture('order created')\\n    return {'statusCode': 200}"
        )
        def create_order(user, total):
            leanbase.capture("order created", distinct_id=user, properties={"total": total})
    """,
}
"""What a reader of a page has already, as code that runs before the page's first block."""


def blocks(page: Path) -> list[tuple[int, str]]:
    """Return each block of Python, with the number of its first line."""
    text = page.read_text()
    return [
        (text.count("\n", 0, found.start()) + 2, found[1])
        for found in re.finditer(r"(?ms)^```python\n(.*?)^```", text)
    ]


def prelude(page: Path) -> str:
    """Return code for what a reader of the page has before the first block."""
    return "import leanbase\n" + inspect.cleandoc(READERS_OWN.get(str(page.relative_to(ROOT)), "")) + "\n"


def run(page: Path) -> None:
    """Run the blocks of a page. Code outside functions may use `await` and `async with`."""
    namespace = {"__name__": "document"}
    exec(prelude(page), namespace)
    for line, code in blocks(page):
        padded = "\n" * (line - 1) + code
        pending = eval(compile(padded, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
        if inspect.iscoroutine(pending):
            asyncio.run(pending)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        run(ROOT / sys.argv[1])
