"""The Runtime and Extensions API as a server of ours, for what the emulator has no way to do.

That is: the same request again (a retry of an asynchronous invocation), a restore from a snapshot, and extensions
that are refused. The runtime client on the other end is AWS's own.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).parents[2]


class RuntimeApi:
    """One execution environment: this API, AWS's runtime client and a handler.

    Args:
        handler: `module.function`.
        directory: Where the module is.
        environment: Environment variables of the function.
        refuses: What the Extensions API answers to a registration, if not 200.
    """

    def __init__(
        self,
        handler: str,
        directory: Path,
        environment: dict[str, str],
        refuses: tuple[int, str] | None = None,
    ) -> None:
        self.answers: dict[str, Any] = {}
        self.restored = threading.Event()
        self.registrations = 0
        self.refuses = refuses
        self._invocations: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answered = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._request_handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                "AWS_LAMBDA_FUNCTION_NAME": "orders",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_REGION": "eu-west-1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def invoke(
        self, event: Any, *, request_id: str | None = None, trace: str | None = None, timeout: float = 5.0
    ) -> Any:
        """Invoke the function and wait for what it posts: its result, or the description of its error."""
        request_id = request_id or str(uuid4())
        self.answers.pop(request_id, None)
        self._invocations.put({"id": request_id, "event": event, "trace": trace, "timeout": timeout})
        with self._answered:
            assert self._answered.wait_for(lambda: request_id in self.answers, 20), (
                "the function did not answer"
            )
        return self.answers[request_id]

    def stop(self) -> str:
        """End it, and return what it printed."""
        self._process.kill()
        output, _ = self._process.communicate()
        self._server.shutdown()
        self._server.server_close()
        return output

    def _request_handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.endswith("/invocation/next"):
                    work = api._invocations.get()
                    headers = {
                        "Lambda-Runtime-Aws-Request-Id": work["id"],
                        "Lambda-Runtime-Deadline-Ms": str(int((time.time() + work["timeout"]) * 1000)),
                        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:orders",
                    }
                    if work["trace"]:
                        headers["Lambda-Runtime-Trace-Id"] = work["trace"]
                    self._answer(200, work["event"], headers)
                elif self.path.endswith("/restore/next"):
                    api.restored.wait(20)
                    self._answer(200, {})
                else:
                    self._answer(404, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                found = re.search(r"/invocation/([^/]+)/(?:response|error)$", self.path)
                if found:
                    with api._answered:
                        api.answers[found[1]] = json.loads(body or b"null")
                        api._answered.notify_all()
                    self._answer(202, {"status": "OK"})
                elif self.path.endswith("/extension/register"):
                    api.registrations += 1
                    status, text = api.refuses or (200, "{}")
                    self._answer(status, {"errorMessage": text})
                else:
                    self._answer(202, {})

            def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                # Without a type AWS's client crashes.
                common = {"Content-Type": "application/json", "Content-Length": str(len(data))}
                for name, value in (common | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
