"""The job decorator: what is sent when a job returns, raises, exits or receives SIGTERM.

Most tests run a function of `programs/jobs.py` in a process of its own. They assert its exit code, what it printed, and
what a `FaultServer` in the process of the test received. The SIGTERM tests send the signal when the job is ready.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.transports import MemoryTransport
from tests.handlers.terminated import Ended, run_and_terminate, run_to_the_end, start_program
from tests.support.events import received_names
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.threads import run_in_threads
from tests.support.waiting import wait_until

PROGRAM = "tests.handlers.programs.jobs"


def run(server: FaultServer, function: str, *arguments: object, **environment: str) -> Ended:
    environment = {"LEANBASE_API_KEY": "k", "LEANBASE_HOST": server.url, **environment}
    return run_to_the_end(PROGRAM, function, *arguments, **environment)


def terminate(server: FaultServer, function: str, **environment: str) -> Ended:
    environment = {"LEANBASE_API_KEY": "k", "LEANBASE_HOST": server.url, **environment}
    return run_and_terminate(PROGRAM, function, before_second_signal=None, **environment)


# --- the end of a job ----------------------------------------------------------------------------------


@pytest.mark.rule("K-15", "K-20", "Q-54")
@pytest.mark.parametrize(
    ("function", "exit_code", "printed", "captured"),
    [
        ("return_normally", 0, "after the job", []),
        ("raise_an_exception", 1, "ValueError: mine", ["$exception"]),
        ("exit_with_a_code", 7, "", []),
        ("exit_with_a_message", 1, "reason", []),
        ("interrupt", -signal.SIGINT, "KeyboardInterrupt", []),
    ],
)
def test_events_are_sent_however_the_job_ends(
    function: str, exit_code: int, printed: str, captured: list[str], server: FaultServer
) -> None:
    ended = run(server, function)
    assert (ended.exit_code, printed in ended.output) == (exit_code, True)
    assert len(server.requests) == 1
    assert received_names(server) == ["started", *captured]
    assert {event["properties"]["job"] for event in server.events} == {"nightly"}


@pytest.mark.rule("W-22", "Q-54")
def test_a_long_job_sends_a_hundred_events_at_a_time(server: FaultServer) -> None:
    run(server, "capture_many", 249)
    assert [len(request.events) for request in server.requests] == [100, 100, 50]


def test_events_lost_at_the_end_of_the_process_are_logged(server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    ended = run(server, "return_normally", LEANBASE_MAX_RETRIES="0")
    (line,) = [line for line in ended.output.splitlines() if "lost" in line]
    assert line == "1 event(s) are lost: they could not be delivered before the process ended"


# --- SIGTERM -------------------------------------------------------------------------------------------


def test_sigterm_sends_pending_events_and_then_terminates(server: FaultServer) -> None:
    ended = terminate(server, "wait_for_sigterm")
    assert ended.exit_code == -signal.SIGTERM
    assert "after the job" not in ended.output
    assert received_names(server) == ["started"]


def test_sigterm_resends_the_events_of_a_send_in_flight(server: FaultServer) -> None:
    """The interrupted request may be lost with the process."""
    server.script(Behaviour(delay=20))
    process = start_program(PROGRAM, "capture_many", "100", LEANBASE_API_KEY="k", LEANBASE_HOST=server.url)
    wait_until(lambda: server.requests, 20)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    first, second = server.requests
    assert first.events == second.events
    assert len(first.events) == 100


def test_sigterm_sends_the_events_of_inner_scopes(server: FaultServer) -> None:
    ended = terminate(server, "wait_for_sigterm_in_inner_scopes")
    assert ended.exit_code == -signal.SIGTERM
    assert set(received_names(server)) == {"started", "inner", "innermost"}


def test_sigterm_terminates_within_the_grace_period_if_the_endpoint_is_silent(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    ended = terminate(server, "wait_for_sigterm", VERCEL="1")
    assert ended.exit_code == -signal.SIGTERM
    assert ended.seconds < 3  # the grace period is 0.5 s, but the machine may be slow


def test_the_programs_own_sigterm_handler_runs_afterwards(server: FaultServer) -> None:
    ended = terminate(server, "wait_for_sigterm_with_an_own_handler")
    assert ended.exit_code == 3
    assert received_names(server) == ["started"]


@pytest.mark.slow
@pytest.mark.rule("P-2")
def test_all_sends_after_sigterm_share_the_grace_period_and_report_a_loss_once(server: FaultServer) -> None:
    """The flush at SIGTERM, the end of the job and the exit hook would take 1.6, 10 and 2 s."""
    server.always(Behaviour(instead="silence"))
    ended = terminate(server, "wait_for_sigterm_with_an_own_handler", LEANBASE_SIGTERM_GRACE="2")
    assert ended.exit_code == 3
    assert ended.seconds < 5  # the machine may be slow
    (line,) = [line for line in ended.output.splitlines() if "lost" in line]
    assert line == "1 event(s) are lost: they could not be delivered before the process ended"


def test_after_the_job_sigterm_has_its_previous_handler(server: FaultServer) -> None:
    ended = run(server, "print_whether_sigterm_has_its_default_at_exit")
    assert (ended.exit_code, "True" in ended.output) == (0, True)


# --- the decorator -------------------------------------------------------------------------------------


def test_a_job_may_be_async_take_arguments_and_run_in_a_thread(sent: MemoryTransport) -> None:
    @leanbase.job
    def add(a: int, *, b: int) -> int:
        leanbase.capture("plain", distinct_id="u")
        return a + b

    @leanbase.job(flush="each")
    async def coroutine() -> Any:
        leanbase.capture("coroutine", distinct_id="u")
        return len(sent.events)

    assert add(1, b=2) == 3
    assert asyncio.run(coroutine()) == 2
    run_in_threads(lambda: add(1, b=2))
    assert [event["event"] for event in sent.events] == ["plain", "coroutine", "plain"]


def test_wrong_use_of_the_decorator_raises() -> None:
    with pytest.raises(TypeError, match="decorates a function, not int"):
        leanbase.job(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a class"):
        leanbase.job(int)
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        leanbase.job(client="x")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="'later'"):
        leanbase.job(flush="later")  # type: ignore[call-overload]


def test_an_object_with_an_async_call_is_awaited_inside_the_scope(
    client: Leanbase, memory: MemoryTransport
) -> None:
    class Work:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            client.capture("e", distinct_id="u")
            assert memory.events == []
            return "done"

    assert asyncio.run(leanbase.job(client=client)(Work())()) == "done"
    assert len(memory.events) == 1


@pytest.mark.rule("K-5")
def test_a_thread_without_the_context_of_the_job_is_warned_about_once(
    client: Leanbase,
    memory: MemoryTransport,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("leanbase.delivery.scope._has_warned_of_thread", False)

    @leanbase.job(client=client)
    def main() -> None:
        client.tag("job", "nightly")
        for _ in range(2):
            run_in_threads(lambda: client.capture("e", distinct_id="u"))

    main()
    assert len(memory.events) == 2
    assert all("job" not in event["properties"] for event in memory.events)
    assert caplog.text.count("a thread captured an event outside the context of the handler or job") == 1
