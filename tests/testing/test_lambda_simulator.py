"""`LambdaSimulator`: what a user's test sees of a sandbox.

A sandbox is a process that is forked from the process of the test, and that calls one of the handlers below. Its events
return to the test through a pipe when they leave the sandbox.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase.testing import (
    CapturedEvents,
    FunctionError,
    LambdaContext,
    LambdaSimulator,
    capture_events,
    lambda_simulator,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record events as the plugin does in users' sessions. Give a sandbox more time, because the machine may be busy."""
    monkeypatch.setattr(lambda_simulator, "SIGTERM_SECONDS", 3.0)
    with capture_events():
        yield


@leanbase.lambda_handler
def handler(event: dict[str, Any], context: Any) -> Any:
    leanbase.capture("begun", distinct_id="u")
    if "sleep" in event:
        time.sleep(event["sleep"])
    if "raise" in event:
        raise ValueError(event["raise"])
    if "exit" in event:
        os._exit(event["exit"])
    return {
        "remaining_ms": context.get_remaining_time_in_millis(),
        "name": context.function_name,
        "pid": os.getpid(),
    }


def return_a_set(event: Any, context: Any) -> set[int]:
    return {1}


def names(events: CapturedEvents) -> list[str]:
    return [each["event"] for each in events]


def test_an_invocation_has_a_result_events_and_a_running_clock() -> None:
    with LambdaSimulator(
        handler, timeout=2.0, environment={"AWS_LAMBDA_FUNCTION_NAME": "orders"}
    ) as function:
        first, second = function.invoke({"sleep": 0.2}), function.invoke({})
    assert first["remaining_ms"] < second["remaining_ms"] <= 2000
    assert first["name"] == "orders"
    assert first["pid"] == second["pid"] != os.getpid()
    cold = [each["properties"]["faas.coldstart"] for each in function.events]
    assert cold == [True, False]
    assert function.events[0]["properties"]["faas.name"] == "orders"


@pytest.mark.rule("K-15")
def test_an_exception_is_raised_to_the_caller_and_captured() -> None:
    with LambdaSimulator(handler) as function:
        with pytest.raises(FunctionError, match="ValueError: no such order") as raised:
            function.invoke({"raise": "no such order"})
        assert function.invoke({})
    assert raised.value.type == "ValueError"
    assert 'raise ValueError(event["raise"])' in raised.value.stack
    assert names(function.events) == ["begun", "$exception", "begun"]


@pytest.mark.slow
def test_a_timeout_ends_the_sandbox_and_loses_unsent_events() -> None:
    with LambdaSimulator(handler, timeout=0.3) as function:
        with pytest.raises(FunctionError, match=r"Task timed out after 0\.30 seconds") as raised:
            function.invoke({"sleep": 10})
        assert raised.value.type == "Sandbox.Timedout"
        function.events.assert_not_captured()
        function.invoke({})
    assert function.events.assert_captured("begun", times=1)["properties"]["faas.coldstart"] is True


@leanbase.lambda_handler(flush="after_response")
def handler_with_extension(event: dict[str, Any], context: Any) -> Any:
    return handler(event, context)


@pytest.mark.slow
@pytest.mark.parametrize(("handled_by", "extension"), [(handler, True), (handler_with_extension, None)])
def test_with_an_extension_a_timeout_sends_pending_events(handled_by: Any, extension: bool | None) -> None:
    with LambdaSimulator(handled_by, timeout=0.3, extension=extension) as function:
        with pytest.raises(FunctionError, match="timed out") as raised:
            function.invoke({"sleep": 10})
        assert raised.value.type == "Sandbox.Timedout"
        function.events.assert_captured("begun", times=1)
        function.invoke({})
        function.events.assert_captured("begun", times=2)
        with pytest.raises(FunctionError, match="ended with 3"):
            function.invoke({"exit": 3})
        function.events.assert_captured("begun", times=2)


def test_a_handler_that_exits_is_an_error_and_the_next_invocation_works() -> None:
    with LambdaSimulator(handler) as function:
        with pytest.raises(FunctionError, match=r"Runtime\.ExitError: the process ended with 3"):
            function.invoke({"exit": 3})
        assert function.invoke({})


@pytest.mark.slow
def test_between_invocations_no_thread_runs_until_the_test_thaws_the_sandbox() -> None:
    def with_thread(event: Any, context: Any) -> None:
        threading.Thread(target=capture_late, daemon=True).start()

    def capture_late() -> None:
        time.sleep(0.3)
        leanbase.capture("late", distinct_id="u")

    with LambdaSimulator(with_thread) as function:
        function.invoke({})
        time.sleep(0.6)
        function.events.assert_not_captured()
        function.thaw(0.6)
        function.events.assert_captured("late")


def test_sigterm_sends_collected_events() -> None:
    def capture_in_scope(event: Any, context: Any) -> None:
        scope = leanbase.delivery_scope()
        scope.__enter__()
        leanbase.capture("collected", distinct_id="u")

    with LambdaSimulator(capture_in_scope) as function:
        function.invoke({})
        function.events.assert_not_captured()
        assert not function.terminate()
        function.events.assert_captured("collected")


def test_a_sandbox_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_simulator, "SIGTERM_SECONDS", 0.3)

    def ignore(event: Any, context: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with LambdaSimulator(ignore) as function:
        function.invoke({})
        assert function.terminate()


@pytest.mark.rule("E-6")
def test_a_retry_with_the_same_request_id_captures_the_same_events() -> None:
    @leanbase.lambda_handler(idempotent=True)
    def retried(event: Any, context: Any) -> None:
        leanbase.capture("paid")

    event = {"detail-type": "payment", "time": "2026-01-02T03:04:05Z"}
    with LambdaSimulator(retried) as function:
        function.invoke(event, request_id="r-1")
        function.kill()
        function.invoke(event, request_id="r-1")
    first, second = function.events
    assert {**first, "properties": None} == {**second, "properties": None}
    assert first["timestamp"] == "2026-01-02T03:04:05+00:00"


def test_a_handler_given_by_name_is_imported_in_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "app_by_name.py").write_text(
        "import leanbase\nleanbase.capture('while initialising', distinct_id='u')\n"
        "@leanbase.lambda_handler\ndef handler(event, context):\n    return event\n"
    )
    with LambdaSimulator("app_by_name.handler") as function:
        assert function.invoke([1]) == [1]
    assert names(function.events) == ["while initialising"]
    assert "app_by_name" not in sys.modules


def test_a_failed_initialisation_is_raised_to_the_caller() -> None:
    function = LambdaSimulator("no_such_module.handler")
    with pytest.raises(FunctionError, match=r"Runtime\.ImportModuleError.*no_such_module"):
        function.invoke({})


def test_a_lambda_context_has_a_running_clock() -> None:
    context = LambdaContext(0.2, function_name="f")
    assert 0 < context.get_remaining_time_in_millis() <= 200
    time.sleep(0.25)
    assert context.get_remaining_time_in_millis() == 0
    assert context.invoked_function_arn.endswith(":function:f")


@pytest.mark.slow
def test_a_child_of_the_sandbox_ends_with_it() -> None:
    """The child has inherited the pipe to the test, which must not wait for its end."""

    def fork(event: Any, context: Any) -> int:
        child = os.fork()
        if not child:
            time.sleep(60)
        return child

    began = time.monotonic()
    with LambdaSimulator(fork) as function:
        child = function.invoke({})
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until its new parent has reaped it
            os.kill(child, 0)
            time.sleep(0.1)


def test_a_simulator_that_is_garbage_collected_leaves_no_process() -> None:
    function = LambdaSimulator(handler)
    pid = function.invoke({})["pid"]
    del function
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_result_that_is_not_json_has_the_type_of_lambda() -> None:
    with LambdaSimulator(return_a_set) as function, pytest.raises(FunctionError) as caught:
        function.invoke({})
    assert caught.value.type == "Runtime.MarshalError"
    assert "Object of type set is not JSON serializable" in str(caught.value)
