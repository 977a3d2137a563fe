"""A server that implements the Runtime and Extensions API, for what the emulator cannot do.

`RuntimeApi` starts the server in this process, and AWS's own runtime client (`python -m awslambdaric`) in another one.
It can do three things that the emulator cannot: invoke the function twice with one request id (a retry of an
asynchronous invocation), restore it from a snapshot, and refuse to register an extension.
"""

from __future__ import annotations

import json
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

from tests.lambda_runtime.emulator import function_environment


class RuntimeApi:
    """One sandbox: this API, AWS's runtime client and a handler.

    Args:
        handler: The name of the handler, `module.function`.
        directory: The directory of the module.
        environment: More environment variables of the function.
        refusal: The status and message with which the Extensions API refuses a registration. Default: it accepts.

    Attributes:
        restored: Set it to restore the sandbox from its snapshot.
        registrations: The number of extensions that were registered or refused.
    """

    def __init__(
        self,
        handler: str,
        directory: Path,
        environment: dict[str, str],
        refusal: tuple[int, str] | None = None,
    ) -> None:
        self.restored = threading.Event()
        self.registrations = 0
        self._refusal = refusal
        self._output: str | None = None
        self._responses: dict[str, Any] = {}
        self._invocations: queue.Queue[dict[str, Any]] = queue.Queue()
        self._has_responded = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._request_handler())
        self._server.daemon_threads = True
        # `shutdown` waits for the next poll.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=directory,
            env={
                **function_environment(),
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def invoke(
        self, event: Any, *, request_id: str | None = None, trace: str | None = None, timeout: float = 5.0
    ) -> Any:
        """Invoke the function and wait for its response. Return its result, or the description of its error."""
        request_id = request_id or str(uuid4())
        self._responses.pop(request_id, None)
        self._invocations.put({"id": request_id, "event": event, "trace": trace, "timeout": timeout})
        with self._has_responded:
            assert self._has_responded.wait_for(lambda: request_id in self._responses, 20), (
                "the function did not respond"
            )
        return self._responses[request_id]

    def stop(self) -> str:
        """Kill the function and stop the server. Return what the function printed. It may be called again."""
        if self._output is None:
            self._process.kill()
            self._output, _ = self._process.communicate()
            self._server.shutdown()
            self._server.server_close()
        return self._output

    def _request_handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.endswith("/invocation/next"):
                    invocation = api._invocations.get()
                    headers = {
                        "Lambda-Runtime-Aws-Request-Id": invocation["id"],
                        "Lambda-Runtime-Deadline-Ms": str(int((time.time() + invocation["timeout"]) * 1000)),
                        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:orders",
                    }
                    if invocation["trace"]:
                        headers["Lambda-Runtime-Trace-Id"] = invocation["trace"]
                    self._respond(200, invocation["event"], headers)
                elif self.path.endswith("/restore/next"):
                    api.restored.wait(20)
                    self._respond(200, {})
                else:
                    self._respond(404, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                found = re.search(r"/invocation/([^/]+)/(?:response|error)$", self.path)
                if found:
                    with api._has_responded:
                        api._responses[found[1]] = json.loads(body or b"null")
                        api._has_responded.notify_all()
                    self._respond(202, {"status": "OK"})
                elif self.path.endswith("/extension/register"):
                    api.registrations += 1
                    status, message = api._refusal or (200, "{}")
                    self._respond(status, {"errorMessage": message})
                else:
                    self._respond(202, {})

            def _respond(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                # AWS's client crashes without a content type.
                common = {"Content-Type": "application/json", "Content-Length": str(len(data))}
                for name, value in (common | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
