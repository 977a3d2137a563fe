"""Runs work after the response, as an internal extension: a thread in the runtime process.

Lambda returns the response when the runtime posts it. It freezes the sandbox when the runtime and every
extension have requested their next event. This extension requests it after an invocation's deferred work.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import threading
import time

from ... import forking
from ...messages import log_internal_error
from . import runtime as lambda_runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from http.client import HTTPResponse
    from typing import TypeAlias

    After: TypeAlias = Callable[[], object]

logger = logging.getLogger("leanbase")

NAME = "leanbase"
API = "/2020-01-01/extension"
REGISTER_SECONDS = 1.0
FIRST_LOOK_SECONDS = 0.02
LONGEST_LOOK_SECONDS = 0.16
"""Maximum seconds between two checks whether the runtime has finished an invocation.

Needed for handlers that are not decorated: they do not wake the extension.
"""

RESPONSE_LOOK_SECONDS = 0.001
RESPONSE_SECONDS = 1.0
"""Maximum seconds that deferred work waits until the response is posted."""

LONGEST_PAUSE_SECONDS = 1.0


class ExtensionUnavailableError(Exception):
    """The Extensions API is missing or has refused the registration. The message says which."""


class ExtensionsApi:
    """A client of the Extensions API at `host:port`, with its own socket.

    It does not send through `http.client`: tracers patch that module, and would record every wait for an
    event as a request of the application.
    """

    def __init__(self, address: str) -> None:
        self.timeout: float | None = REGISTER_SECONDS
        self.sock: socket.socket | None = None
        self._address = address
        self._method = ""

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a request on the open connection, or on a new one. Raises `OSError`."""
        if self.sock is None:
            import socket  # imported here: only Lambda needs it

            host, _, port = self._address.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), timeout=self.timeout)
        fields = {"Host": self._address, "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._method = method
        self.sock.sendall("\r\n".join(lines).encode() + body)

    def getresponse(self) -> HTTPResponse:
        """Wait for the response and read its headers. Raises `OSError` or `HTTPException`."""
        from http.client import HTTPResponse

        if self.sock is None:
            raise ConnectionError("there is no connection")
        response = HTTPResponse(self.sock, method=self._method)
        response.begin()
        return response

    def is_readable(self) -> bool:
        """Return True if a response has begun to arrive."""
        return self.sock is not None and bool(select.select([self.sock], [], [], 0)[0])

    def close(self) -> None:
        """Close the connection. The next request opens a new one."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()


class LambdaExtension:
    """Runs the deferred work of invocations after their responses."""

    def __init__(self, connection: ExtensionsApi, identifier: str) -> None:
        self._connection = connection
        self._headers = {"Lambda-Extension-Identifier": identifier}
        self._released: str | None = None
        self._reset_after_fork()
        self._is_alive = True
        forking.reset_in_child(self)

    def _reset_after_fork(self) -> None:
        # Reentrant: a signal handler may end an invocation.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # never use `with`: its `__enter__` is Python code
        self._working = threading.RLock()
        self._running = 0
        self._has_begun = False
        self._work: list[After] = []
        self._is_alive = False  # a forked child does not have the thread

    def start(self) -> None:
        """Request the first event, which ends the initialisation, and start the thread."""
        self._ask()
        atexit.register(self._finish)
        threading.Thread(target=self._run, name="leanbase-extension", daemon=True).start()

    def begin(self) -> None:
        """Note that an invocation, or one nested inside another, has begun."""
        with self._lock:
            self._running += 1
            self._has_begun = True

    def end(self, request_id: str | None, work: After) -> bool:
        """Finish an invocation except for `work`. Return False if the extension cannot run it later.

        Args:
            request_id: The invocation's request id; `None` if the work cannot be deferred.
            work: Called after the response is posted. It must respect the invocation's deadline.
        """
        with self._lock:
            self._running -= 1
            # If the sandbox may already freeze, the caller must do the work itself.
            deferred = self._is_alive and request_id is not None and request_id != self._released
            if deferred:
                self._work.append(work)
            elif not self._running:
                self._has_begun = False  # no work was deferred, so the sandbox need not be released
            self._changed.notify_all()
        return deferred

    def _finish(self) -> None:
        """Run the remaining work when the process ends, for example if the response could not be posted."""
        with self._lock:
            self._is_alive = False
        self._do_work()

    def _run(self) -> None:
        pause = 0.0
        while True:
            try:
                self._wait_for_end()
                self._do_work()
                self._release()
                pause = 0.0
                self._is_alive = True
            except Exception as error:
                # Lambda waits at every invocation until this extension requests an event: retry for ever.
                logger.error(
                    "the Lambda extension failed: %s; events are sent before the response from now on",
                    type(error).__name__,
                )
                with self._lock:
                    self._is_alive = False
                self._do_work()
                time.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause + 0.1)
                self._connection.close()
                self._ask_again()

    def _ask(self) -> None:
        self._connection.request("GET", f"{API}/event/next", self._headers)

    def _ask_again(self) -> None:
        try:
            self._ask()
        except OSError as error:
            logger.debug("the Extensions API does not respond: %s", type(error).__name__)

    def _wait_for_end(self) -> None:
        """Wait until every invocation has ended, or until an event has arrived and the runtime is idle again.

        The end of the handler wakes this thread. The event does not: to read it earlier would delay the
        handler.
        """
        pause = FIRST_LOOK_SECONDS
        has_event = False
        with self._lock:
            while not self._changed.wait_for(lambda: self._has_begun and not self._running, pause):
                if has_event and lambda_runtime.is_idle():
                    return  # the handler is not decorated, or a thread still runs it
                # Decide at the next check: the runtime may have received the event, but not have begun yet.
                has_event = self._connection.is_readable()
                pause = min(pause * 2, LONGEST_LOOK_SECONDS) if has_event else FIRST_LOOK_SECONDS
        until = time.monotonic() + RESPONSE_SECONDS
        while not lambda_runtime.is_idle() and time.monotonic() < until:
            time.sleep(RESPONSE_LOOK_SECONDS)

    def _do_work(self) -> None:
        with self._working:
            while self._work:
                work = self._work.pop(0)
                try:
                    work()
                except Exception as error:
                    log_internal_error("the Lambda extension", error)

    def _release(self) -> None:
        """Read the pending event, run the work that arrived meanwhile, and request the next event."""
        response = self._connection.getresponse()
        event = _json_of(response)
        if response.will_close:
            self._connection.close()
        if response.status != 200:
            raise ExtensionUnavailableError(f"the Extensions API responded with {response.status}")
        with self._lock:
            self._released = event.get("requestId")
            self._has_begun = self._running > 0
        self._do_work()
        self._ask()


def _json_of(response: HTTPResponse) -> dict[str, str]:
    event = json.loads(response.read() or b"{}")
    return event if isinstance(event, dict) else {}


def register() -> LambdaExtension:
    """Register this process as an extension of its sandbox. Possible only while the function initialises.

    Raises:
        ExtensionUnavailableError: The Extensions API is missing or has refused the registration.
    """
    api = os.environ.get("AWS_LAMBDA_RUNTIME_API")
    if not api:
        raise ExtensionUnavailableError("AWS_LAMBDA_RUNTIME_API is not set: this is not the Lambda runtime")
    from http.client import HTTPException

    connection = ExtensionsApi(api)
    # An internal extension may not register for SHUTDOWN.
    body = json.dumps({"events": ["INVOKE"]}).encode()
    try:
        connection.request("POST", f"{API}/register", {"Lambda-Extension-Name": NAME}, body)
        response = connection.getresponse()
        answer = response.read(1000).decode(errors="replace")
        identifier = response.headers.get("Lambda-Extension-Identifier")
        if response.status != 200 or not identifier:
            raise ExtensionUnavailableError(
                f"the Extensions API responded with {response.status} {answer.strip()}"
            )
        connection.timeout = None  # also for later connections: the wait for an event has no limit
        if connection.sock is not None:
            connection.sock.settimeout(None)
        extension = LambdaExtension(connection, identifier)
        extension.start()
    except ExtensionUnavailableError:
        connection.close()
        raise
    except (OSError, ValueError, HTTPException, RuntimeError) as error:
        connection.close()
        raise ExtensionUnavailableError(
            f"the Extensions API does not respond: {type(error).__name__}"
        ) from error
    return extension
