"""The relay with a CloudWatch Logs subscription: lines with events, lines of the platform, and all other lines.

A line with events is a hand-off message (`tagged`). From lines of the platform about a function that was killed, such
as REPORT, the relay makes an exception event. Lambda writes these lines as text (`report`) or as JSON (`record`).
"""

from __future__ import annotations

import base64
import gzip
import json
from datetime import datetime
from typing import Any

import pytest

from leanbase.errors import NotDeliveredError
from leanbase.local.server import LocalServer
from leanbase.relay.cloudwatch_logs import SOURCE_INSIDE
from leanbase.relay.platform_failures import failure
from leanbase.transports import handoff
from tests.relay.sources import event, logs_event
from tests.support.fault_server import Behaviour, FaultServer

REQUEST_ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
OTHER_REQUEST_ID = "9b2fe8a4-0000-4000-8000-000000000001"


def report(status: str, request: str = REQUEST_ID) -> str:
    figures = "Duration: 3000.00 ms\tBilled Duration: 3000 ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB\t"
    return f"REPORT RequestId: {request}\t{figures}Init Duration: 300.10 ms\t{status}\n"


def record(kind: str, request: str | None = REQUEST_ID, **fields: Any) -> str:
    fields = {"requestId": request, **fields} if request else fields
    return json.dumps({"time": "2026-11-24T10:00:03.000Z", "type": f"platform.{kind}", "record": fields})


TEXT_LINES = {
    "timeout": report("Status: timeout"),
    "memory": report("Status: error\tError Type: Runtime.OutOfMemory"),
    "exit": report("Status: error\tError Type: Runtime.ExitError"),
}
METRICS = {"durationMs": 3000.0, "billedDurationMs": 3000, "memorySizeMB": 128, "maxMemoryUsedMB": 61}
JSON_LINES = {
    "timeout": record("report", status="timeout", metrics=METRICS),
    "memory": record("report", status="error", errorType="Runtime.OutOfMemory", metrics=METRICS),
    "exit": record("report", status="error", errorType="Runtime.ExitError", metrics=METRICS),
}
EXPECTED = {
    "timeout": ("Sandbox.Timedout", "the function timed out (after 3.00 s, 61 of 128 MB used)"),
    "memory": ("Runtime.OutOfMemory", "the function ran out of memory (after 3.00 s, 61 of 128 MB used)"),
    "exit": ("Runtime.ExitError", "the function ended its process (after 3.00 s, 61 of 128 MB used)"),
}


@pytest.fixture
def relay(configured: Any, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    return configured(server)


def tagged(*events: Any) -> str:
    return handoff.encode(events).decode() + "\n"


def captured(request: str = REQUEST_ID, distinct_id: str = "user_1", **properties: Any) -> Any:
    tags = {"faas.invocation_id": request, "faas.name": "orders", "faas.coldstart": False, "plan": "pro"}
    return event(
        "order created",
        distinct_id,
        **tags,
        **{"$context_tags": sorted(tags), "$session_id": "s"},
        **properties,
    )


# --- tagged lines --------------------------------------------------------------------------------------


@pytest.mark.rule("W-8")
def test_events_of_tagged_lines_are_delivered_and_other_lines_skipped(
    relay: Any, server: FaultServer
) -> None:
    first, second, third = captured(), captured(), captured()
    lines = [
        f"START RequestId: {REQUEST_ID} Version: $LATEST\n",
        tagged(first),
        "[INFO]\t2026-11-24T10:00:00Z\tsomething else",
        '{"level": "INFO", "message": "leanbase is nice"}',
        '{"leanbase": "is mentioned", "events": 3}',
        '{"level": "INFO", "mess',
        handoff.encode_gzip([second, third]).decode(),
        '{"sent_by": "unknown keys", "leanbase": 1, "events": []}',
        f"END RequestId: {REQUEST_ID}\n",
        report(""),
    ]
    assert relay(logs_event(lines)) is None
    (request,) = server.requests
    assert request.events == [each.decode() for each in (first, second, third)]


def test_a_log_without_tagged_lines_causes_no_request(relay: Any, server: FaultServer) -> None:
    relay(logs_event(["hello", report("")]))
    relay(logs_event([tagged(captured())], kind="CONTROL_MESSAGE"))
    assert not server.requests


@pytest.mark.rule("E-6")
def test_lines_that_are_not_delivered_raise_so_that_lambda_retries(relay: Any, server: FaultServer) -> None:
    server.script(Behaviour(status=503))
    event = logs_event([tagged(captured()), TEXT_LINES["timeout"]])
    with pytest.raises(NotDeliveredError, match="2 line"):
        relay(event)
    relay(event)
    first, second = server.requests
    assert first.events == second.events, "an exception event has the same uuid again"


@pytest.mark.parametrize("line", ['{"leanbase": 2, "events": []}', '{"leanbase":1,"events":[{"event":"or'])
def test_an_unreadable_tagged_line_does_not_stop_the_others(
    relay: Any, server: FaultServer, line: str
) -> None:
    with pytest.raises(NotDeliveredError, match=r"1 line\(s\) of log group /aws/lambda/orders"):
        relay(logs_event([tagged(captured()), line, tagged(captured())]))
    assert len(server.events) == 2


@pytest.mark.slow
def test_a_log_that_is_too_large_or_damaged_is_rejected(relay: Any) -> None:
    for data in (gzip.compress(b"0" * 200_000_000), b"not gzip data"):
        with pytest.raises(handoff.UnreadableError):
            relay({"awslogs": {"data": base64.b64encode(data).decode()}})


# --- lines of the platform -----------------------------------------------------------------------------


@pytest.mark.rule("X-9", "X-10", "X-21", "X-26", "E-13")
@pytest.mark.parametrize("format", [TEXT_LINES, JSON_LINES], ids=["text", "json"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_a_killed_function_becomes_an_exception_event(
    relay: Any, server: FaultServer, format: dict[str, str], kind: str
) -> None:
    relay(logs_event([tagged(captured(distinct_id="before"), captured()), format[kind]]))
    _, _, exception = server.events
    type, message = EXPECTED[kind]
    assert exception["event"] == "$exception"
    assert exception["distinct_id"] == "user_1"
    properties = exception["properties"]
    assert properties["$exception_list"] == [
        {
            "type": type,
            "value": message,
            "mechanism": {"type": "task", "handled": False, "synthetic": True, "exception_id": 0},
        }
    ]
    assert (properties["$exception_type"], properties["$exception_message"]) == (type, message)
    assert properties["$exception_level"] == "fatal"
    assert properties["$exception_source"] == "aws_lambda.platform"
    assert properties["faas.invocation_id"] == REQUEST_ID
    assert properties["faas.name"] == "orders"
    assert properties["faas.version"] == "$LATEST"
    assert properties["cloud.region"] == "eu-west-1"
    assert properties["plan"] == "pro"
    assert properties["$session_id"] == "s"
    assert properties["$lib"] == "leanbase-python"
    assert properties["$geoip_disable"] is True
    assert datetime.fromisoformat(exception["timestamp"]).timestamp() == pytest.approx(1_790_000_000, abs=1)


def test_the_strict_server_accepts_the_exception_events(configured: Any, local: LocalServer) -> None:
    configured(local)(logs_event([*TEXT_LINES.values(), *JSON_LINES.values()]))
    assert {each["event"] for each in local.store.events(0)} == {"$exception"}


@pytest.mark.rule("E-10")
def test_the_exception_of_a_request_without_events_has_no_person(relay: Any, server: FaultServer) -> None:
    relay(logs_event([tagged(captured(OTHER_REQUEST_ID)), TEXT_LINES["memory"]]))
    _, exception = server.events
    assert exception["distinct_id"] == exception["uuid"]
    assert exception["properties"]["$process_person_profile"] is False
    assert "plan" not in exception["properties"]


def test_several_lines_about_one_timeout_are_one_event(relay: Any, server: FaultServer) -> None:
    timed_out = f"2026-11-24T10:00:03.000Z {REQUEST_ID} Task timed out after 3.00 seconds\n\n"
    done = record("runtimeDone", status="timeout", metrics={"durationMs": 3000.0})
    relay(logs_event([timed_out, TEXT_LINES["timeout"]]))
    relay(logs_event([done, JSON_LINES["timeout"]]))
    relay(logs_event([TEXT_LINES["timeout"]]))
    assert len(server.events) == 3
    assert len({each["uuid"] for each in server.events}) == 1


def test_events_without_tags_belong_to_the_request_whose_lines_surround_them(
    relay: Any, server: FaultServer
) -> None:
    for start in (f"START RequestId: {REQUEST_ID} Version: 7\n", record("start", version="7")):
        relay(logs_event([start, tagged(event("e", "user_2")), TEXT_LINES["exit"]]))
        assert server.requests[-1].events[-1]["distinct_id"] == "user_2"


def test_concurrent_requests_keep_their_identities(relay: Any, server: FaultServer) -> None:
    lines = [
        f"START RequestId: {REQUEST_ID} Version: 7\n",
        f"START RequestId: {OTHER_REQUEST_ID} Version: 7\n",
        tagged(captured(OTHER_REQUEST_ID, "user_2")),
        tagged(captured(REQUEST_ID, "user_1")),
        tagged(captured(OTHER_REQUEST_ID, "user_2")),
        report("Status: timeout", OTHER_REQUEST_ID),
        report("Status: timeout", REQUEST_ID),
    ]
    relay(logs_event(lines))
    exceptions = [each for each in server.events if each["event"] == "$exception"]
    assert [each["distinct_id"] for each in exceptions] == ["user_2", "user_1"]


@pytest.mark.rule("X-26")
@pytest.mark.parametrize(
    ("line", "type"),
    [
        ("INIT_REPORT Init Duration: 9999.10 ms\tPhase: init\tStatus: timeout\n", "Sandbox.Timedout"),
        (
            "INIT_REPORT Init Duration: 12.33 ms\tPhase: init\tStatus: error\tError Type: Runtime.ImportModuleError\n",
            "Runtime.ImportModuleError",
        ),
        (
            record(
                "initReport",
                None,
                initializationType="on-demand",
                phase="init",
                status="error",
                errorType="Runtime.ExitError",
                metrics={"durationMs": 12.33},
            ),
            "Runtime.ExitError",
        ),
    ],
)
def test_a_failed_initialisation_becomes_an_exception_event(
    relay: Any, server: FaultServer, line: str, type: str
) -> None:
    relay(logs_event([line], group="shared", stream="2026/11/24/orders[7]0123456789abcdef"))
    (exception,) = server.events
    properties = exception["properties"]
    assert properties["$exception_type"] == type
    assert "initialisation" in properties["$exception_message"]
    assert "ms" not in properties["$exception_message"]
    assert (properties["faas.name"], properties["faas.version"]) == ("orders", "7")
    assert "faas.invocation_id" not in properties


@pytest.mark.parametrize(
    "line",
    [
        report(""),
        report("Status: error"),
        report("Status: error\tError Type: KeyError"),
        report("Status: success\tError Type: Runtime.ExitError"),
        "REPORT RequestId:",
        "REPORT",
        "INIT_REPORT Init Duration: 12.33 ms\tPhase: invoke\tStatus: error\tError Type: Runtime.ExitError\n",
        "INIT_REPORT Init Duration: 12.33 ms\tPhase: init\n",
        f"the log said: {report('Status: timeout')}",
        record("report", status="success", metrics=METRICS),
        record("report", status="error", metrics=METRICS),
        record("report", status="error", errorType="ValueError"),
        record("report", None, status="timeout"),
        record("initReport", None, phase="invoke", status="timeout"),
        '{"type": "platform.report"}',
        '{"type": "platform.report", "record": [], "requestId": 7}',
        '{"type": ["platform.report"], "record": {"status": "timeout"}}',
        '{"type": "platform.report", "record": {"requestId": {}, "status": "timeout", "metrics": 3}}',
    ],
)
def test_other_lines_of_the_platform_cause_no_event(relay: Any, server: FaultServer, line: str) -> None:
    relay(logs_event([line]))
    assert not server.requests


def test_invalid_figures_are_left_out_of_the_message() -> None:
    found = failure(
        "",
        {
            "type": "platform.report",
            "record": {"requestId": REQUEST_ID, "status": "timeout", "metrics": {"durationMs": "soon"}},
        },
    )
    assert found is not None
    assert (found.request_id, found.text) == (REQUEST_ID, "the function timed out")


# --- lines that functions print --------------------------------------------------------------------------


def test_a_message_in_the_middle_of_a_line_is_delivered(relay: Any, server: FaultServer) -> None:
    first, second = captured(), captured()
    relay(logs_event([f"working ... 50 %{tagged(first)}", f'{{"half": {tagged(second)} and more']))
    assert server.events == [first.decode(), second.decode()]


def test_a_line_with_something_similar_to_a_message_is_warned_about(
    relay: Any, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    event = captured()
    relay(logs_event(['received {"leanbase": 1, "events": [7]}', tagged(event)]))
    assert server.events == [event.decode()]
    assert "looks like events but cannot be read" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-01T00:00:03.000Z job-7 Task timed out after 3.00 seconds",
        f"2026-01-01T00:00:03.000Z {REQUEST_ID} Task timed out after 1.2.3 seconds",
        f"REPORT RequestId: {REQUEST_ID}\tDuration: 1.2.3 ms\t",
        "REPORT RequestId: mine\tStatus: timeout",
        r'{"type":"platform.report","record":{"requestId":"\ud800","status":"timeout"}}',
        '{"type":"platform.report","record":{"requestId":["x"],"status":"timeout"}}',
        '{"type":"platform.start","record":{"requestId":{}}}',
        "INIT_REPORT of mine: Status: timeout",
    ],
)
def test_a_line_similar_to_one_of_the_platform_is_skipped(line: str, relay: Any, server: FaultServer) -> None:
    event = captured()
    relay(logs_event([line, tagged(event)]))
    assert server.events == [event.decode()]


TIMED_OUT = f"2026-01-01T00:00:03.000Z {REQUEST_ID} Task timed out after 3.00 seconds"


@pytest.mark.rule("E-6")
@pytest.mark.parametrize(
    ("first", "last"),
    [(TIMED_OUT, TEXT_LINES["timeout"]), (record("runtimeDone", status="timeout"), JSON_LINES["timeout"])],
    ids=["text", "JSON"],
)
def test_a_timeout_has_the_same_uuid_in_however_many_batches_its_lines_arrive(
    first: str, last: str, relay: Any, server: FaultServer
) -> None:
    relay(logs_event([first]))
    relay(logs_event([last]))
    relay(logs_event([first, last]))
    identities = {(each["uuid"], each["distinct_id"], each["event"]) for each in server.events}
    assert len(identities) == 1
    assert len(server.events) == 2


def test_a_report_without_a_status_does_not_hide_the_timeout_before_it(
    relay: Any, server: FaultServer
) -> None:
    relay(logs_event([TIMED_OUT, report("")]))
    (event,) = server.events
    assert event["properties"]["$exception_type"] == "Sandbox.Timedout"


@pytest.mark.parametrize("kind", ["text", "JSON"])
def test_a_response_that_is_too_large_becomes_an_exception_event(
    kind: str, relay: Any, server: FaultServer
) -> None:
    name = "Function.ResponseSizeTooLarge"
    lines = {
        "text": report(f"Status: error\tError Type: {name}"),
        "JSON": record("report", status="error", errorType=name, metrics=METRICS),
    }
    relay(logs_event([lines[kind]]))
    (event,) = server.events
    assert event["properties"]["$exception_type"] == name
    assert "returned a response that is too large" in event["properties"]["$exception_message"]


# --- ends that the function itself has captured ----------------------------------------------------------------


def captured_inside(type: str, **properties: Any) -> str:
    return tagged(
        event("$exception", **{"$exception_type": type, "$exception_source": SOURCE_INSIDE, **properties})
    )


INIT = "INIT_REPORT Init Duration: 300.00 ms\tPhase: {}\tStatus: error\tError Type: {}\n"


@pytest.mark.rule("L-5")
def test_an_exception_of_an_import_explains_one_report(relay: Any, server: FaultServer) -> None:
    relay(
        logs_event(
            [
                captured_inside("KeyError"),
                INIT.format("init", "Runtime.Unknown"),
                INIT.format("init", "Runtime.OutOfMemory"),
            ]
        )
    )
    types = [each["properties"]["$exception_type"] for each in server.events]
    assert types == ["KeyError", "Runtime.OutOfMemory"]


@pytest.mark.rule("L-5")
def test_an_import_that_lambda_repeats_inside_a_request_explains_the_report_of_the_request(
    relay: Any, server: FaultServer
) -> None:
    error = "Status: error\tError Type: Runtime.Unknown"
    relay(
        logs_event(
            [
                captured_inside("KeyError"),
                INIT.format("init", "Runtime.Unknown"),
                f"START RequestId: {REQUEST_ID} Version: $LATEST\n",
                captured_inside("KeyError"),
                INIT.format("invoke", "Runtime.Unknown"),
                report(error),
                report(error, OTHER_REQUEST_ID),
            ]
        )
    )
    types = [each["properties"]["$exception_type"] for each in server.events]
    assert types == ["KeyError", "KeyError", "Runtime.Unknown"]


@pytest.mark.rule("L-5")
def test_a_timeout_has_the_person_of_the_latest_event_of_a_person(relay: Any, server: FaultServer) -> None:
    group = event("$groupidentify", "$company_acme", **{"faas.invocation_id": REQUEST_ID})
    relay(logs_event([tagged(captured()), tagged(group), TEXT_LINES["timeout"]]))
    assert server.events[-1]["distinct_id"] == "user_1"
