"""A Lambda sandbox for unit tests: a process that freezes between invocations, times out and ends."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
import uuid
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ..default import default_client
from ..delivery import factory
from ..handlers.aws_lambda import decorator as aws_lambda
from ..handlers.aws_lambda import invocation
from ..handlers.sigterm import install_sigterm_handler
from .captured import CapturedEvents
from .recording import recorder, reset_after_fork, write_line

if TYPE_CHECKING:
    from typing import Self

Handler: TypeAlias = Callable[[Any, Any], Any]

REGION = "eu-west-1"
ACCOUNT = "123456789012"
IMPORT_ERROR = "Runtime.ImportModuleError"
SIGTERM_SECONDS = 0.5
LOOK_SECONDS = 0.05

MOST_THAWED_SECONDS = 1.0
"""The maximum time that a thawed sandbox really runs. Its clocks skip the rest."""
INITIALISATION_SECONDS = 10.0


class LambdaContext:
    """The context object that Lambda passes to a handler, with a running clock.

    Args:
        timeout: Seconds from now until the function times out.
        function_name: The function's name.
        memory_limit_in_mb: The function's memory in MB.
        aws_request_id: The invocation's request id. Default: a new id.

    Examples:
        >>> context = LambdaContext(timeout=3.0)
        >>> 2900 < context.get_remaining_time_in_millis() <= 3000
        True
    """

    function_version = "$LATEST"
    identity = None
    client_context = None

    def __init__(
        self,
        timeout: float = 3.0,
        *,
        function_name: str = "function",
        memory_limit_in_mb: int = 128,
        aws_request_id: str | None = None,
    ) -> None:
        self._ends = time.monotonic() + timeout
        self.function_name = function_name
        self.memory_limit_in_mb = memory_limit_in_mb
        self.aws_request_id = aws_request_id or str(uuid.uuid4())
        self.invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function_name}"
        self.log_group_name = f"/aws/lambda/{function_name}"
        self.log_stream_name = "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function times out, at least 0."""
        return max(0, int((self._ends - time.monotonic()) * 1000))


class FunctionError(Exception):
    """An invocation failed.

    Attributes:
        type: The class name of the exception that the handler raised, or Lambda's name for the failure, such
            as `Sandbox.Timedout` or `Runtime.ExitError`.
        stack: The traceback as a string, or `""`.
    """

    def __init__(self, type: str, message: str, stack: str = "") -> None:
        super().__init__(f"{type}: {message}" + (f"\n\n{stack}" if stack else ""))
        self.type = type
        self.stack = stack


class LambdaSimulator:
    """Runs a handler as Lambda does: in a separate process, frozen between invocations.

    The first invocation is a cold start in a new process. The first invocation after a timeout, a crash or
    the end of the sandbox is a cold start, too. The process is forked from the process of the test, so it has
    the patches of the test. Works on Linux and macOS.

    An event appears in `events` when the process would send it. An event that would be lost in Lambda does
    not appear. Nothing is sent, except by clients that were created earlier without the pytest plugin.

    Args:
        handler: The handler, or its name as `"module.function"`, which the new process then imports.
        timeout: The function's timeout in seconds.
        environment: Environment variables of the function.
        extension: Whether the function has an extension. With an extension, a timeout sends SIGTERM before
            it ends the sandbox, as Lambda does from Python 3.12 on. Without an extension, a timeout ends the
            sandbox at once. Default: a handler decorated with `flush="after_response"` has an extension.

    Attributes:
        events: The events that the sandboxes have sent so far, as `CapturedEvents`.

    Examples:
        >>> import leanbase
        >>> @leanbase.lambda_handler
        ... def handler(event, context):
        ...     leanbase.capture("greeted", distinct_id=event["user"])
        ...     return "hello"
        >>> with LambdaSimulator(handler) as function:
        ...     function.invoke({"user": "user_1"})
        ...     function.events.assert_captured("greeted", distinct_id="user_1")["event"]
        'hello'
        'greeted'
    """

    def __init__(
        self,
        handler: Handler | str,
        *,
        timeout: float = 3.0,
        environment: dict[str, str] | None = None,
        extension: bool | None = None,
    ) -> None:
        if not hasattr(os, "fork"):
            raise NotImplementedError("LambdaSimulator needs os.fork(), which this platform does not have")
        if not isinstance(handler, str) and not callable(handler):
            raise TypeError(f"handler must be a function or 'module.function', not {type(handler).__name__}")
        if not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
        self.events = CapturedEvents()
        self._handler = handler
        self._timeout = timeout
        self._environment = environment or {}
        self._extension = extension
        self._sandbox: _Sandbox | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.kill()

    def invoke(self, event: Any, *, request_id: str | None = None) -> Any:
        """Thaw the sandbox, invoke the function, wait for its result, and freeze the sandbox again.

        Args:
            event: A value that JSON can represent.
            request_id: The request id of the invocation. Pass the same id again to simulate a retry.
                Default: a new id.

        Returns:
            The result as the caller receives it, after a round trip through JSON.

        Raises:
            FunctionError: The handler could not be loaded, raised, timed out, or ended its process.

        Blocks up to the function's timeout, plus 10 s at a cold start, plus 0.5 s if SIGTERM is sent.
        """
        __tracebackhide__ = True
        if self._sandbox is None:
            self._sandbox = _Sandbox(self._handler, self._environment, self._timeout, self.events)
        sandbox = self._sandbox
        sandbox.signal_all(signal.SIGCONT)
        try:
            answer = sandbox.ask({"event": event, "request_id": request_id}, self._timeout)
        except _EndedError as end:
            if sandbox.has_extension if self._extension is None else self._extension:
                self.terminate()
            self.kill()
            raise FunctionError(end.type, str(end)) from None
        self.freeze()
        if "error" in answer:
            raise FunctionError(*answer["error"])
        return answer["result"]

    def freeze(self) -> None:
        """Stop all processes of the sandbox in the middle of their work. `invoke` does this at its end."""
        if self._sandbox is not None:
            self._sandbox.signal_all(signal.SIGSTOP)

    def thaw(self, seconds: float = 0.0) -> None:
        """Let the sandbox run without an invocation.

        Args:
            seconds: The time by which the function's clocks advance, `time.time()` and `time.monotonic()`.
                The sandbox runs for this time, but at most for 1 s. Its clocks skip the rest at the next
                invocation.
        """
        if self._sandbox is not None:
            self._sandbox.signal_all(signal.SIGCONT)
            runs = min(seconds, MOST_THAWED_SECONDS)
            self._sandbox.pass_time(seconds - runs)
            self._sandbox.read_for(runs)

    def terminate(self) -> bool:
        """End the sandbox as Lambda does: thaw it, send SIGTERM, and send SIGKILL after 0.5 s.

        Returns:
            True if the sandbox had to be killed.
        """
        killed = False
        if self._sandbox is not None:
            self._sandbox.signal_all(signal.SIGCONT)
            self._sandbox.terminate()
            killed = not self._sandbox.ends_within(SIGTERM_SECONDS)
            self.kill()
        return killed

    def kill(self) -> None:
        """Kill the sandbox at once, as the kernel does when memory runs out."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()


class _EndedError(Exception):
    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class _Sandbox:
    """The process of the sandbox, and the pipes to it."""

    def __init__(
        self, handler: Handler | str, environment: dict[str, str], timeout: float, events: CapturedEvents
    ) -> None:
        self._events = events
        questions, self._write = os.pipe()
        self._read, answers = os.pipe()
        self._rest = b""
        self._passed = 0.0
        self._exit: int | None = None
        with warnings.catch_warnings():
            # Python 3.12 and later warn about a fork in a process with threads. The child does not use them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            os.setsid()  # a new process group, which is frozen and killed as a whole
            os.close(self._write)
            os.close(self._read)
            _serve(handler, environment, timeout, questions, answers)
        # If a test does not close its simulator, this kills the frozen process.
        self._forgotten = weakref.finalize(self, _kill, self._pid)
        os.close(questions)
        os.close(answers)
        self._wait_for_initialisation()

    def _wait_for_initialisation(self) -> None:
        try:
            answer = self._next(INITIALISATION_SECONDS)
        except _EndedError as end:
            self.close()
            raise FunctionError(end.type, f"the initialisation failed: {end}") from None
        if "error" in answer:
            self.close()
            raise FunctionError(*answer["error"])
        self.has_extension: bool = answer["has_extension"]

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send an event to the process, and wait for its response.

        Raises:
            _EndedError: No response arrived in time, or the process has ended.
        """
        try:
            write_line(self._write, {**question, "passed": self._passed})
        except BrokenPipeError:
            pass  # the process has ended, which `_next` reports
        return self._next(seconds)

    def _next(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for message in self._messages(left):
                return message
            if self._exit is not None:
                raise _EndedError("Runtime.ExitError", f"the process ended with {self._exit}")
        raise _EndedError("Sandbox.Timedout", f"Task timed out after {seconds:.2f} seconds")

    def _messages(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that arrive within `seconds`, and store captured events."""
        # In short steps: children of the process may hold the pipe open after it has ended.
        if not _is_readable(self._read, min(seconds, LOOK_SECONDS)):
            self._look_for_end(os.WNOHANG)
            return []
        data = os.read(self._read, 1024 * 1024)
        if not data:
            self._look_for_end(0)
        return self._take(data)

    def _take(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        self._events.extend(message["captured"] for message in messages if "captured" in message)
        return [message for message in messages if "captured" not in message]

    def read_for(self, seconds: float) -> None:
        """Store the events that the process sends within `seconds`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._exit is None:
            self._messages(left)

    def ends_within(self, seconds: float) -> bool:
        """Return True if the process ends by itself within `seconds`."""
        self.read_for(seconds)
        return self._exit is not None

    def _look_for_end(self, options: int) -> None:
        if self._exit is None:
            pid, status = os.waitpid(self._pid, options)
            if pid:
                self._exit = os.waitstatus_to_exitcode(status)

    def signal_all(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)

    def pass_time(self, seconds: float) -> None:
        """Advance the clocks of the process at its next invocation."""
        self._passed += seconds

    def terminate(self) -> None:
        if self._exit is None:
            os.kill(self._pid, signal.SIGTERM)

    def close(self) -> None:
        """Kill all processes, and store the last events."""
        self._forgotten.detach()
        self.signal_all(signal.SIGKILL)
        self._look_for_end(0)
        while _is_readable(self._read, 0.0) and (data := os.read(self._read, 1024 * 1024)):
            self._take(data)
        os.close(self._read)
        os.close(self._write)


def _is_readable(descriptor: int, seconds: float) -> bool:
    """Wait for data or EOF. Unlike `select()`, `poll()` supports descriptors above 1023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(
    handler: Handler | str, environment: dict[str, str], timeout: float, questions: int, answers: int
) -> NoReturn:
    """Handle invocations in the sandbox until the process is killed."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        name = environment.get("AWS_LAMBDA_FUNCTION_NAME", "function")
        os.environ.update({"AWS_LAMBDA_FUNCTION_NAME": name, "AWS_REGION": REGION, **environment})
        reset_after_fork()
        clock = _Clock()
        if (flags := sys.modules.get(f"{__package__.partition('.')[0]}.feature_flags.flags")) is not None:
            flags.forget_stores()
        recorder.pipe = answers
        factory.override_transport(recorder, spares_memory=False)  # no test can read the sandbox's memory
        default_client.shutdown()
        invocation.forget_invocations()
        try:
            call = _imported(handler) if isinstance(handler, str) else handler
            install_sigterm_handler()
        except BaseException as error:
            type, text, stack = _error(error)
            if isinstance(handler, str):
                type = "Runtime.HandlerNotFound" if isinstance(error, AttributeError) else IMPORT_ERROR
            write_line(answers, {"error": (type, text, stack)})
            os._exit(code)
        write_line(answers, {"has_extension": aws_lambda.flush_policy_of(call) == "after_response"})
        with os.fdopen(questions) as lines:
            for line in lines:
                question = json.loads(line)
                clock.passed = question["passed"]
                context = LambdaContext(timeout, function_name=name, aws_request_id=question["request_id"])
                try:
                    result = call(question["event"], context)
                except Exception as error:
                    answer = {"error": _error(error)}
                else:
                    answer = _marshalled(result)
                write_line(answers, answer)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


class _Clock:
    """Replaces the clocks of the module `time`. The new clocks are ahead by `passed` seconds."""

    def __init__(self) -> None:
        self.passed = 0.0
        wall, monotonic = time.time, time.monotonic
        time.time = lambda: wall() + self.passed
        time.monotonic = lambda: monotonic() + self.passed
        nanoseconds = time.time_ns
        time.time_ns = lambda: nanoseconds() + int(self.passed * 1e9)


def _imported(name: str) -> Handler:
    module, _, function = name.rpartition(".")
    handler: Handler = getattr(importlib.import_module(module), function)
    return handler


def _marshalled(result: object) -> dict[str, Any]:
    try:
        return {"result": json.loads(json.dumps(result))}
    except Exception as error:
        return {"error": ("Runtime.MarshalError", f"Unable to marshal response: {error}", "")}


def _error(error: BaseException) -> tuple[str, str, str]:
    return type(error).__name__, str(error), "".join(traceback.format_exception(error))
