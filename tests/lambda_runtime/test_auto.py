"""Functions that are instrumented without a change of their code, and what happens outside of a handler.

AWS's emulator runs the functions of `plain/` as `leanbase.auto.handler`, over each transport. What Lambda reports about
their failures is compared with a run of the same function without Leanbase.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import pytest

from tests.lambda_runtime.conftest import Start
from tests.lambda_runtime.emulator import Emulator
from tests.lambda_runtime.outgoing import outgoing_events
from tests.relay.sources import logs_event
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.moto_server import CREDENTIALS
from tests.support.sqs import QUEUE_PATH, accept_messages
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]

LOG_STREAM = {
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/orders",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
}

AUTOCAPTURE: dict[str, Any] = {"LEANBASE_ENABLE_EXCEPTION_AUTOCAPTURE": "true"}

ACCOUNT = "012345678912"
"""The account in the ARN that the emulator gives every function."""


class Sandbox:
    """A function in the emulator, with one of the transports."""

    def __init__(self, start: Start, way: str, server: FaultServer) -> None:
        self._start = start
        self._way = way
        self._server = server
        self._environment = {"LEANBASE_TRANSPORT": way, **LOG_STREAM}
        if way == "sqs":
            server.always(Behaviour(respond=accept_messages()))
            self._environment |= {"LEANBASE_QUEUE_URL": server.url + QUEUE_PATH, **CREDENTIALS}

    def auto(self, handler: str, timeout: int = 10, **variables: str) -> Emulator:
        """Start a function of `plain/` as `leanbase.auto.handler`."""
        named: dict[str, Any] = {"LEANBASE_LAMBDA_HANDLER": f"plain/{handler}", **variables}
        return self.decorated("leanbase.auto.handler", timeout, **named)

    def decorated(self, handler: str, timeout: int = 10, **variables: str) -> Emulator:
        self.emulator = self._start(handler, timeout, **(self._environment | variables))
        return self.emulator

    def plain(self, handler: str) -> Emulator:
        """Start a function of `plain/` without Leanbase."""
        return self._start(f"plain/{handler}")

    def wait_for_events(self, count: int) -> list[dict[str, Any]]:
        """Wait for events. The log is read a little after it is written."""
        wait_until(lambda: len(self.events()) >= count, 5)
        return self.events()

    def events(self) -> list[dict[str, Any]]:
        return outgoing_events(self._way, self._server, self.emulator.log)


@pytest.fixture(params=["http", "sqs", "log"])
def sandbox(request: pytest.FixtureRequest, start: Start, server: FaultServer) -> Sandbox:
    return Sandbox(start, request.param, server)


@pytest.fixture
def http(start: Start, server: FaultServer) -> Sandbox:
    return Sandbox(start, "http", server)


def error_report(emulator: Emulator) -> dict[str, Any]:
    """Invoke a function that fails, and return Lambda's report of it, without what differs in each run."""
    body = emulator.invoke({}).body
    assert isinstance(body, dict), body
    return {name: value for name, value in body.items() if name != "requestId"}


def error_lines(emulator: Emulator) -> list[str]:
    return [line for line in emulator.log if line.startswith("[ERROR]")]


def frames_of(event: dict[str, Any]) -> list[str]:
    """Return the functions of an exception's application frames."""
    frames = event["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    return [frame["function"] for frame in frames if frame["in_app"]]


# --- success ------------------------------------------------------------------------------------------------


@pytest.mark.rule("L-1")
def test_a_function_runs_as_if_it_were_decorated(sandbox: Sandbox) -> None:
    request_id = sandbox.auto("orders.handler").invoke({}).body["request"]
    (event,) = sandbox.wait_for_events(1)
    assert (event["event"], event["distinct_id"]) == ("order created", "user_1")
    assert event["properties"]["faas.invocation_id"] == request_id
    assert event["properties"]["faas.coldstart"] is True


@pytest.mark.rule("L-1")
def test_an_exception_of_the_handler_is_captured_and_reported_as_without_leanbase(sandbox: Sandbox) -> None:
    report = error_report(sandbox.auto("orders.fail"))
    (event,) = sandbox.wait_for_events(1)
    assert event["properties"]["$exception_type"] == "ValueError"
    plain = error_report(sandbox.plain("orders.fail"))
    own = [line for line in report.pop("stackTrace") if "leanbase/handlers" not in line]
    assert own == plain.pop("stackTrace")
    assert report == plain


@pytest.mark.rule("L-1")
def test_the_variables_are_the_arguments_of_the_decorator(http: Sandbox) -> None:
    emulator = http.auto(
        "orders.fail",
        LEANBASE_LAMBDA_CAPTURE_EXCEPTIONS="false",
        LEANBASE_LAMBDA_FLUSH="sometimes",
        LEANBASE_LAMBDA_IDEMPOTENT="perhaps",
    )
    emulator.invoke({})
    assert not http.events()
    for name in ("LEANBASE_LAMBDA_FLUSH", "LEANBASE_LAMBDA_IDEMPOTENT"):
        assert any(f"{name} is ignored" in line for line in emulator.log)


def test_the_runtime_is_an_extension_if_the_variable_says_so(http: Sandbox) -> None:
    emulator = http.auto("orders.handler", LEANBASE_LAMBDA_FLUSH="after_response")
    emulator.invoke({})
    http.wait_for_events(1)
    assert any("Internal agent leanbase" in line for line in emulator.log)


def test_a_decorated_handler_is_not_decorated_again(http: Sandbox, server: FaultServer) -> None:
    http.auto("orders.handler", LEANBASE_LAMBDA_HANDLER="handlers.capture_each").invoke({"count": 3})
    assert [len(request.events) for request in server.requests] == [1, 1, 1]


@pytest.mark.parametrize("name", ["", "leanbase/auto.handler"])
def test_a_missing_name_is_an_error_that_says_what_to_do(http: Sandbox, name: str) -> None:
    report = error_report(http.auto("", LEANBASE_LAMBDA_HANDLER=name))
    assert report["errorType"] == "ConfigError"
    assert "LEANBASE_LAMBDA_HANDLER" in report["errorMessage"]


# --- exceptions of the import -------------------------------------------------------------------------------


def assert_same_report(emulator: Emulator, plain: Emulator) -> None:
    assert error_report(emulator) == error_report(plain)
    wait_until(lambda: len(error_lines(emulator)) == len(error_lines(plain)) > 0, 5)
    assert error_lines(emulator)[0] == error_lines(plain)[0]


@pytest.mark.rule("L-2")
def test_an_exception_of_the_import_is_captured_and_reported_as_without_leanbase(sandbox: Sandbox) -> None:
    assert_same_report(sandbox.auto("raises.handler"), sandbox.plain("raises.handler"))
    event, *others = sandbox.wait_for_events(1)
    properties = event["properties"]
    assert properties["$exception_type"] == "KeyError"
    assert properties["$exception_source"] == "aws_lambda.runtime"
    assert properties["$exception_list"][0]["mechanism"]["handled"] is False
    assert properties["faas.name"] == "orders"
    assert frames_of(event) == ["<module>", "table"]
    # The emulator starts the function once for the initialisation, and once more for the invocation.
    assert len(others) <= 1


@pytest.mark.rule("L-2")
@pytest.mark.parametrize(
    ("handler", "type"),
    [
        ("imports_nothing.handler", "ModuleNotFoundError"),
        ("no_such_module.handler", "ModuleNotFoundError"),
        ("orders.no_such_function", "Runtime.HandlerNotFound"),
        ("without_a_function", "Runtime.MalformedHandlerName"),
    ],
)
def test_errors_of_the_runtime_client_are_captured_and_reported_as_without_leanbase(
    http: Sandbox, handler: str, type: str
) -> None:
    if handler == "without_a_function":
        auto, plain = http.auto("", LEANBASE_LAMBDA_HANDLER=handler), http._start(handler)
    else:
        auto, plain = http.auto(handler), http.plain(handler)
    assert_same_report(auto, plain)
    assert http.wait_for_events(1)[0]["properties"]["$exception_type"] == type


@pytest.mark.rule("L-2")
def test_a_syntax_error_is_captured_and_reported_as_without_leanbase(
    http: Sandbox, start: Start, tmp_path: Any
) -> None:
    (tmp_path / "broken.py").write_text("def handler(event, context):\n    return (\n")
    path: dict[str, Any] = {"PYTHONPATH": f"{tmp_path}:{_python_path()}"}
    assert_same_report(
        http.auto("", LEANBASE_LAMBDA_HANDLER="broken.handler", **path), start("broken.handler", **path)
    )
    assert http.wait_for_events(1)[0]["properties"]["$exception_type"] == "SyntaxError"


def _python_path() -> str:
    from tests.lambda_runtime.emulator import function_environment

    return function_environment()["PYTHONPATH"]


def test_an_exit_at_import_ends_the_process_as_without_leanbase(http: Sandbox) -> None:
    assert http.auto("leaves.handler").invoke({}) == http.plain("leaves.handler").invoke({})
    assert not http.events()


def test_an_endpoint_that_does_not_respond_delays_the_report_of_an_import_by_two_seconds(
    http: Sandbox, server: FaultServer
) -> None:
    server.always(Behaviour(delay=30))
    emulator = http.auto("raises.handler")
    began = time.monotonic()
    assert error_report(emulator)["errorType"] == "KeyError"
    assert time.monotonic() - began < 10


@pytest.mark.rule("L-3")
def test_autocapture_sees_an_exception_of_the_import_before_the_first_use(http: Sandbox) -> None:
    """The module raises before it decorates its handler, and has not used the client."""
    emulator = http.decorated("fails_before_decoration.handler", LEANBASE_ENABLE_EXCEPTION_AUTOCAPTURE="true")
    emulator.invoke({})
    assert http.wait_for_events(1)[0]["properties"]["$exception_type"] == "ZeroDivisionError"


@pytest.mark.rule("L-3")
def test_without_autocapture_nothing_is_captured_outside_a_decorated_handler(http: Sandbox) -> None:
    http.decorated("fails_before_decoration.handler").invoke({})
    http.decorated("plain/orders.return_a_set").invoke({})
    time.sleep(0.2)
    assert not http.events()


@pytest.mark.rule("L-3")
@pytest.mark.parametrize("is_auto", [True, False])
def test_a_client_of_the_module_captures_the_exception_of_its_import(
    http: Sandbox, server: FaultServer, is_auto: bool
) -> None:
    own: dict[str, Any] = {"OWN_KEY": "phc_own", "OWN_HOST": server.url, "LEANBASE_API_KEY": ""}
    name = "client_of_its_own.handler"
    emulator = http.auto(name, **own) if is_auto else http.decorated(f"plain/{name}", **own)
    assert error_report(emulator)["errorType"] == "KeyError"
    event, *others = http.wait_for_events(1)
    assert event["properties"]["$exception_type"] == "KeyError"
    assert len(others) <= 1, "one for each start of the function"


@pytest.mark.rule("L-2", "L-3")
def test_autocapture_captures_an_import_once_if_the_decorator_must_not(http: Sandbox) -> None:
    emulator = http.auto("raises.handler", LEANBASE_LAMBDA_CAPTURE_EXCEPTIONS="false", **AUTOCAPTURE)
    emulator.invoke({})
    events = http.wait_for_events(1)
    assert len(events) <= 2, "one for each start of the function"
    assert {tuple(frames_of(event)) for event in events} == {("<module>", "table")}
    assert not any("is not an option" in line for line in emulator.log)


# --- results ------------------------------------------------------------------------------------------------


@pytest.mark.rule("L-3")
def test_a_result_that_cannot_be_serialised_is_captured(sandbox: Sandbox) -> None:
    assert error_report(sandbox.auto("orders.return_a_set", **AUTOCAPTURE)) == error_report(
        sandbox.plain("orders.return_a_set")
    )
    (event,) = sandbox.wait_for_events(1)
    properties = event["properties"]
    assert properties["$exception_type"] == "Runtime.MarshalError"
    assert "set is not JSON serializable" in properties["$exception_message"]
    assert event["distinct_id"] == "user_1", "the person of the invocation"
    assert properties["faas.invocation_id"]


@pytest.mark.rule("L-3")
@pytest.mark.parametrize(("characters", "is_captured"), [(3_145_776, False), (3_145_800, True)])
def test_a_response_that_is_too_large_is_captured(http: Sandbox, characters: int, is_captured: bool) -> None:
    emulator = http.auto("orders.return_too_much", AWS_EXECUTION_ENV="AWS_Lambda_python3.13", **AUTOCAPTURE)
    emulator.invoke({"characters": characters})
    types = [event["properties"]["$exception_type"] for event in http.events()]
    assert types == (["Function.ResponseSizeTooLarge"] if is_captured else [])
    if is_captured:
        assert http.events()[0]["distinct_id"] == "user_1"


# --- timeouts -----------------------------------------------------------------------------------------------


@pytest.mark.rule("L-4")
def test_a_function_that_times_out_has_sent_its_events_and_a_warning(sandbox: Sandbox) -> None:
    emulator = sandbox.auto("orders.hang", timeout=3, LEANBASE_LAMBDA_TIMEOUT_WARNING="true")
    began = time.monotonic()
    emulator.invoke({})
    assert time.monotonic() - began < 4.5
    order, timeout = sandbox.wait_for_events(2)
    assert (order["event"], timeout["event"]) == ("order began", "$exception")
    properties = timeout["properties"]
    assert properties["$exception_type"] == "LambdaTimeout"
    assert timeout["distinct_id"] == "user_1", "the person of the latest event"
    assert properties["faas.invocation_id"] == order["properties"]["faas.invocation_id"]
    assert frames_of(timeout)[-2:] == ["hang", "wait_for_the_database"]


@pytest.mark.rule("L-5")
def test_a_result_that_cannot_be_sent_after_a_warning_is_an_event_of_its_own(http: Sandbox) -> None:
    variables = {"LEANBASE_LAMBDA_TIMEOUT_WARNING": "true", **AUTOCAPTURE}
    http.auto("orders.warn_and_return_a_set", timeout=2, **variables).invoke({})
    _, timeout, result = http.wait_for_events(3)
    assert timeout["properties"]["$exception_type"] == "LambdaTimeout"
    assert result["properties"]["$exception_type"] == "Runtime.MarshalError"
    assert timeout["uuid"] != result["uuid"]


@pytest.mark.rule("L-4")
def test_by_default_there_is_no_warning(http: Sandbox) -> None:
    http.auto("orders.hang", timeout=1).invoke({})
    assert not http.events()


def log_of_request(sandbox: Sandbox) -> tuple[str, list[str]]:
    """Return the id of the only request, and the lines of the log before its report, which lacks the status."""
    sandbox.wait_for_events(1)
    log = sandbox.emulator.log
    wait_until(lambda: any(line.startswith("REPORT") for line in log), 5)
    lines = log[: next(number for number, line in enumerate(log) if line.startswith("REPORT"))]
    (request,) = {found[1] for line in lines if (found := re.match(r"START RequestId: (\S+)", line))}
    return request, lines


@pytest.fixture
def relay(start: Start, server: FaultServer) -> Emulator:
    return start("leanbase.relay.handler", LEANBASE_MAX_RETRIES="0")


@pytest.mark.rule("L-5")
@pytest.mark.parametrize(
    ("handler", "variables", "status", "type"),
    [
        ("orders.hang", {"LEANBASE_LAMBDA_TIMEOUT_WARNING": "true"}, "Status: timeout", "LambdaTimeout"),
        (
            "orders.return_a_set",
            AUTOCAPTURE,
            "Status: error\tError Type: Runtime.MarshalError",
            "Runtime.MarshalError",
        ),
    ],
)
def test_the_relay_makes_no_second_event_of_an_end_that_the_function_has_captured(
    start: Start,
    server: FaultServer,
    relay: Emulator,
    handler: str,
    variables: dict[str, Any],
    status: str,
    type: str,
) -> None:
    """If the two lines are in two invocations of the relay, the events have one uuid."""
    sandbox = Sandbox(start, "log", server)
    emulator = sandbox.auto(handler, timeout=2, **variables)
    emulator.invoke({})
    request, lines = log_of_request(sandbox)
    report = f"REPORT RequestId: {request}\tDuration: 2000.00 ms\t{status}\n"
    names = {
        "group": LOG_STREAM["AWS_LAMBDA_LOG_GROUP_NAME"],
        "stream": LOG_STREAM["AWS_LAMBDA_LOG_STREAM_NAME"],
        "owner": ACCOUNT,
    }
    assert relay.invoke(logs_event([*lines, report], **names)).body is None
    exceptions = [event for event in server.events if event["event"] == "$exception"]
    assert [event["properties"]["$exception_type"] for event in exceptions] == [type]
    assert relay.invoke(logs_event([report], **names)).body is None
    assert server.events[-1]["uuid"] == exceptions[0]["uuid"]


@pytest.mark.rule("L-5")
def test_the_relay_makes_no_second_event_of_an_import_that_failed(
    start: Start, server: FaultServer, relay: Emulator
) -> None:
    sandbox = Sandbox(start, "log", server)
    emulator = sandbox.auto("raises.handler")
    emulator.invoke({})
    count = len(sandbox.wait_for_events(1))
    emulator.kill()
    report = "INIT_REPORT Init Duration: 300.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.Unknown\n"
    assert relay.invoke(logs_event([*emulator.log, report])).body is None
    types = [event["properties"]["$exception_type"] for event in server.events]
    assert types == ["KeyError"] * count
    assert relay.invoke(logs_event([report])).body is None
    assert server.events[-1]["properties"]["$exception_type"] == "Runtime.Unknown"


@pytest.mark.rule("L-5")
def test_the_relay_makes_no_second_event_of_a_result_of_a_handler_that_is_not_decorated(
    start: Start, server: FaultServer, relay: Emulator
) -> None:
    sandbox = Sandbox(start, "log", server)
    emulator = sandbox.decorated("plain/orders.return_a_set", **AUTOCAPTURE)
    emulator.invoke({})
    request, lines = log_of_request(sandbox)
    report = (
        f"REPORT RequestId: {request}\tDuration: 2.00 ms\tStatus: error\tError Type: Runtime.MarshalError\n"
    )
    assert relay.invoke(logs_event([*lines, report])).body is None
    (event,) = server.events
    assert event["properties"]["faas.invocation_id"] == request
