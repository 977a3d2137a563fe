"""Work after the response: an internal extension, which is a thread in the runtime process.

Lambda passes the response on when the runtime posts it, and freezes the sandbox when the runtime and every
extension have asked for the next event. This extension asks when the work that an invocation left is done.
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
"""How often to look whether the runtime is through with an invocation that nobody tells us of."""

RESPONSE_LOOK_SECONDS = 0.001
RESPONSE_SECONDS = 1.0
"""Most time that work waits for the response to be posted."""

LONGEST_PAUSE_SECONDS = 1.0


class ExtensionUnavailableError(Exception):
    """The Extensions API is missing or has refused the registration; the text says which."""


class ExtensionsApi:
    """The Extensions API over a socket of our own.

    Tracers patch `http.client`, and would record every wait for an event as a request of the application.

    Args:
        address: Host and port.
    """

    def __init__(self, address: str) -> None:
        self.timeout: float | None = REGISTER_SECONDS
        self.sock: socket.socket | None = None
        self._address = address
        self._method = ""

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a request, on the connection that is open, or a new one.

        Raises:
            OSError: It cannot be sent.
        """
        if self.sock is None:
            import socket  # of no use to those who import leanbase elsewhere

            host, _, port = self._address.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), timeout=self.timeout)
        fields = {"Host": self._address, "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._method = method
        self.sock.sendall("\r\n".join(lines).encode() + body)

    def getresponse(self) -> HTTPResponse:
        """Wait for the response and read its headers.

        Raises:
            OSError: The connection was closed.
            http.client.HTTPException: It is not HTTP.
        """
        from http.client import HTTPResponse

        if self.sock is None:
            raise ConnectionError("there is no connection")
        response = HTTPResponse(self.sock, method=self._method)
        response.begin()
        return response

    def is_readable(self) -> bool:
        """Whether a response has begun to arrive."""
        return self.sock is not None and bool(select.select([self.sock], [], [], 0)[0])

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()


class LambdaExtension:
    """Does the work that invocations leave, after their responses.

    Args:
        connection: To the Extensions API.
        identifier: What the API calls us.
    """

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
        self._changed = threading.Condition(self._lock)  # never in a `with`: its `__enter__` is Python code
        self._working = threading.RLock()
        self._running = 0
        self._has_begun = False
        self._work: list[After] = []
        self._is_alive = False  # in a forked child: the thread is its parent's

    def start(self) -> None:
        """Ask for the first event, without which the initialisation does not end."""
        self._ask()
        atexit.register(self._finish)
        threading.Thread(target=self._run, name="leanbase-extension", daemon=True).start()

    def begin(self) -> None:
        """An invocation has begun, or another one inside it."""
        with self._lock:
            self._running += 1
            self._has_begun = True

    def end(self, request_id: str | None, work: After) -> bool:
        """An invocation is through but for this work; false when nobody will do it later.

        Args:
            request_id: The invocation's.
            work: Called after the response is posted. It ends in time.
        """
        with self._lock:
            self._running -= 1
            # Who comes when the sandbox is already free to be frozen has to do it now.
            deferred = self._is_alive and request_id is not None and request_id != self._released
            if deferred:
                self._work.append(work)
            elif not self._running:
                self._has_begun = False  # it is through with everything, and no reason to release
            self._changed.notify_all()
        return deferred

    def _finish(self) -> None:
        """Do what is left when the process ends, as it does when the response could not be posted."""
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
                # Lambda waits for us with every invocation until we ask, so this is tried for ever.
                logger.error(
                    "the extension failed: %s; events leave before the response", type(error).__name__
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
            logger.debug("the Extensions API does not answer: %s", type(error).__name__)

    def _wait_for_end(self) -> None:
        """Wait until all that began has ended, or an event has come and the runtime is through with it.

        It is the handler's end that wakes us, not the event: its time is not ours to take.
        """
        pause = FIRST_LOOK_SECONDS
        has_event = False
        with self._lock:
            while not self._changed.wait_for(lambda: self._has_begun and not self._running, pause):
                if has_event and lambda_runtime.is_idle():
                    return  # a handler that is not decorated; or one that a thread runs by itself
                # Only the next look counts: the runtime may have the same event and not have begun yet.
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
                    logger.error("internal error %s; please report it", type(error).__name__)

    def _release(self) -> None:
        """Ask for the next event, and be sure that no work came in the meantime."""
        response = self._connection.getresponse()
        event = _json_of(response)
        if response.will_close:
            self._connection.close()
        if response.status != 200:
            raise ExtensionUnavailableError(f"the Extensions API answered {response.status}")
        with self._lock:
            self._released = event.get("requestId")
            self._has_begun = self._running > 0
        self._do_work()
        self._ask()


def _json_of(response: HTTPResponse) -> dict[str, str]:
    event = json.loads(response.read() or b"{}")
    return event if isinstance(event, dict) else {}


def register() -> LambdaExtension:
    """Make this process an extension of its sandbox. Only possible while the function initialises.

    Raises:
        ExtensionUnavailableError: The Extensions API is missing or has refused the registration.
    """
    api = os.environ.get("AWS_LAMBDA_RUNTIME_API")
    if not api:
        raise ExtensionUnavailableError("AWS_LAMBDA_RUNTIME_API is not set: this is not the Lambda runtime")
    from http.client import HTTPException

    connection = ExtensionsApi(api)
    # An internal extension may not ask for SHUTDOWN.
    body = json.dumps({"events": ["INVOKE"]}).encode()
    try:
        connection.request("POST", f"{API}/register", {"Lambda-Extension-Name": NAME}, body)
        response = connection.getresponse()
        answer = response.read(1000).decode(errors="replace")
        identifier = response.headers.get("Lambda-Extension-Identifier")
        if response.status != 200 or not identifier:
            raise ExtensionUnavailableError(f"the Extensions API answered {response.status} {answer.strip()}")
        connection.timeout = None  # also of those that may have to follow
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
            f"the Extensions API does not answer: {type(error).__name__}"
        ) from error
    return extension
