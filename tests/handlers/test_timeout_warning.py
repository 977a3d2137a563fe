"""`lambda_handler(timeout_warning=True)`: the thread that warns, in this process."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.default import default_client
from leanbase.testing import LambdaContext
from leanbase.transports import MemoryTransport
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rule("L-4")]

TIMEOUT = 1.0
"""Seconds. A tenth of them is reserved."""


def run(handle: Callable[[], object], client: Leanbase, timeout: float = TIMEOUT, **options: Any) -> Any:
    """Call a decorated handler."""

    @leanbase.lambda_handler(client=client, timeout_warning=True, **options)
    def handler(event: Any, context: Any) -> object:
        return handle()

    return handler({}, LambdaContext(timeout))


def warnings(memory: MemoryTransport) -> list[dict[str, Any]]:
    return [event for event in memory.events if event["properties"].get("$exception_type") == "LambdaTimeout"]


def warning_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "leanbase-timeout-warning"]


def test_a_handler_that_returns_in_time_causes_no_warning_and_leaves_no_thread(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def handle() -> int:
        assert len(warning_threads()) == 1
        client.capture("order created")
        return 7

    assert run(handle, client) == 7
    assert not warning_threads()
    assert [event["event"] for event in memory.events] == ["order created"]


def test_a_handler_that_raises_leaves_no_thread(client: Leanbase, memory: MemoryTransport) -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0, client)
    assert not warning_threads()
    assert not warnings(memory)


def test_a_late_handler_has_sent_everything_once_and_its_result_is_returned(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def handle() -> int:
        client.capture("early", distinct_id="user_1")
        wait_until(lambda: len(memory.events) == 2, 5)
        assert [event["event"] for event in memory.events] == ["early", "$exception"]
        client.capture("late", distinct_id="user_1")
        return 7

    assert run(handle, client) == 7
    assert [event["event"] for event in memory.events] == ["early", "$exception", "late"]
    assert client.stats()["delivered"] == 3
    assert not warning_threads()


@pytest.mark.parametrize("flush", ["end", "each", "after_response"])
def test_one_request_has_the_events_and_the_warning(server: FaultServer, flush: Any) -> None:
    client = Leanbase("phc_test", server.url)

    def handle() -> None:
        client.capture("early")
        time.sleep(TIMEOUT)

    run(handle, client, flush=flush)
    names = [[event["event"] for event in request.events] for request in server.requests]
    assert names == ([["early"], ["$exception"]] if flush == "each" else [["early", "$exception"]])


def test_the_warning_has_the_person_tags_and_groups_of_the_latest_event(
    client: Leanbase, memory: MemoryTransport
) -> None:
    def handle() -> None:
        leanbase.tag("plan", "free")
        client.capture("first", distinct_id="user_1")
        leanbase.tag("plan", "pro")
        client.capture("second", distinct_id="user_2", groups={"company": "acme"}, properties={"total": 4})
        time.sleep(TIMEOUT)

    run(handle, client)
    (warning,) = warnings(memory)
    properties = warning["properties"]
    assert (warning["distinct_id"], properties["plan"]) == ("user_2", "pro")
    assert properties["$groups"] == {"company": "acme"}
    assert "total" not in properties


def test_a_warning_without_other_events_has_the_tags_of_the_invocation(
    client: Leanbase, memory: MemoryTransport
) -> None:
    run(lambda: time.sleep(TIMEOUT), client)
    (warning,) = warnings(memory)
    assert warning["properties"]["faas.name"] == "function"
    assert warning["properties"]["$process_person_profile"] is False
    message = warning["properties"]["$exception_message"]
    found = re.fullmatch(r"the function is about to time out: (\d\.\d\d) s of (\d\.\d\d) s are left", message)
    assert found
    reserve, total = found.groups()
    assert float(total) <= TIMEOUT, "how much was left at the start depends on the machine"
    assert float(reserve) == pytest.approx(float(total) / 10, abs=0.03)


def test_the_warning_sends_an_event_that_the_handler_itself_is_still_sending(server: FaultServer) -> None:
    """The handler waits for a response that does not come before its timeout."""
    server.script(Behaviour(delay=TIMEOUT * 2))
    client = Leanbase("phc_test", server.url, max_retries=0)
    done: list[int] = []

    def handle() -> None:
        client.capture("early")
        time.sleep(TIMEOUT - 0.02)
        done.extend([len(server.requests)] * (server.requests[-1].events[-1]["event"] == "$exception"))

    run(handle, client, flush="each")
    assert done == [2]
    assert [event["event"] for event in server.requests[1].events] == ["early", "$exception"]
    assert server.requests[0].events[0]["uuid"] == server.requests[1].events[0]["uuid"]


def test_an_inner_handler_does_not_warn_again(client: Leanbase, memory: MemoryTransport) -> None:
    context = LambdaContext(TIMEOUT)

    @leanbase.lambda_handler(client=client, timeout_warning=True)
    def inner(event: Any, context: Any) -> None:
        time.sleep(TIMEOUT)

    @leanbase.lambda_handler(client=client, timeout_warning=True)
    def outer(event: Any, context: Any) -> None:
        inner(event, context)

    outer({}, context)
    assert len(warnings(memory)) == 1


def test_the_handlers_signals_stay_its_own(client: Leanbase, memory: MemoryTransport) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGALRM, signal.SIGTERM)]

    def handle() -> None:
        assert [signal.getsignal(each) for each in (signal.SIGALRM, signal.SIGTERM)] == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        time.sleep(TIMEOUT)

    run(handle, client)
    assert warnings(memory)


def test_an_endpoint_that_does_not_respond_ends_the_warning_before_the_timeout(server: FaultServer) -> None:
    server.always(Behaviour(delay=30))
    client = Leanbase("phc_test", server.url)
    began = time.monotonic()
    run(lambda: time.sleep(TIMEOUT - 0.08), client)
    assert time.monotonic() - began < TIMEOUT + 0.1
    assert client.stats()["retained"] == 1


@pytest.mark.parametrize(("value", "warns"), [("true", True), ("0", False), ("", False), ("perhaps", False)])
def test_the_variable_is_the_default(
    client: Leanbase, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch, value: str, warns: bool
) -> None:
    monkeypatch.setenv("LEANBASE_LAMBDA_TIMEOUT_WARNING", value)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> int:
        return len(warning_threads())

    assert handler({}, LambdaContext(TIMEOUT)) == warns


@pytest.mark.parametrize("context", [None, object()])
def test_a_context_without_a_remaining_time_causes_no_warning(client: Leanbase, context: Any) -> None:
    @leanbase.lambda_handler(client=client, timeout_warning=True)
    def handler(event: Any, context: Any) -> int:
        return len(warning_threads())

    assert handler({}, context) == 0


def test_a_warning_that_fills_the_scope_is_sent_without_an_error(server: FaultServer) -> None:
    errors: list[object] = []
    client = Leanbase("phc_test", server.url, flush_at=2, on_error=lambda *error: errors.append(error))

    def handle() -> None:
        client.capture("early")
        time.sleep(TIMEOUT)

    run(handle, client)
    assert not errors
    assert [event["event"] for event in server.events] == ["early", "$exception"]


def test_a_client_that_captures_nothing_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    client = Leanbase("phc_test", transport=MemoryTransport(), disabled=True)
    assert run(lambda: len(warning_threads()), client) == 0
    assert run(lambda: len(warning_threads()), default_client) == 0, "it has no key"
    assert not caplog.records


def test_a_group_is_not_the_person_of_a_warning(client: Leanbase, memory: MemoryTransport) -> None:
    def handle() -> None:
        leanbase.identify_context("user_1")
        client.group_identify("company", "acme", {"employees": 4}, distinct_id="somebody")
        time.sleep(TIMEOUT)

    run(handle, client)
    (warning,) = warnings(memory)
    assert warning["distinct_id"] != "somebody"
