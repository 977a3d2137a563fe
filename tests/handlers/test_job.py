"""The job decorator, in processes of its own: return, raise, exit, SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.transports import MemoryTransport
from tests.support.fault_server import Behaviour, FaultServer

SCRIPT = """
import os, signal, sys, time
import leanbase
leanbase.api_key, leanbase.host = "k", {url!r}
{before}
@leanbase.job
def main():
    leanbase.tag("job", "nightly")
    leanbase.capture("started", distinct_id="cron")
{body}
main()
print("after main")
"""


def start(server: FaultServer, body: str, before: str = "") -> subprocess.Popen[str]:
    code = SCRIPT.format(url=server.url, before=before, body=textwrap.indent(body, "    "))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(server: FaultServer, body: str, before: str = "", *, terminate: bool = False) -> tuple[int, str]:
    """Run a job; return its exit code and output."""
    process = start(server, body, before)
    if terminate:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    return process.returncode, output + errors


WAIT = "print('ready', flush=True)\nfor _ in range(200): time.sleep(0.05)"


@pytest.mark.parametrize(
    ("body", "code", "says", "captured"),
    [
        ("pass", 0, "after main", []),
        ("raise ValueError('mine')", 1, "ValueError: mine", ["$exception"]),
        ("sys.exit(7)", 7, "", []),
        ("sys.exit('reason')", 1, "reason", []),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt", []),
    ],
)
def test_events_leave_however_the_job_ends(
    body: str, code: int, says: str, captured: list[str], server: FaultServer
) -> None:
    returned, output = run(server, body)
    assert (returned, says in output) == (code, True)
    assert len(server.requests) == 1
    assert [event["event"] for event in server.events] == ["started", *captured]
    assert {event["properties"]["job"] for event in server.events} == {"nightly"}


def test_sigterm_sends_what_there_is_and_then_terminates(server: FaultServer) -> None:
    returned, output = run(server, WAIT, terminate=True)
    assert returned == -signal.SIGTERM
    assert "after main" not in output
    assert len(server.events) == 1


@pytest.mark.slow
def test_sigterm_while_a_send_is_under_way_sends_it_again(server: FaultServer) -> None:
    """The interrupted request may have been lost with the process, so its events go once more."""
    server.script(Behaviour(delay=20))
    process = start(server, "for n in range(100): leanbase.capture('e', distinct_id=n)")
    while not server.requests:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    first, second = server.requests
    assert first.events == second.events
    assert len(first.events) == 100


def test_sigterm_also_sends_what_inner_scopes_collected(server: FaultServer) -> None:
    body = (
        "@leanbase.job\ndef inner():\n    leanbase.capture('inner', distinct_id='u')\n"
        "    with leanbase.delivery_scope():\n        leanbase.capture('innermost', distinct_id='u')\n"
        "        print('ready', flush=True)\n        for _ in range(200): time.sleep(0.05)\ninner()"
    )
    returned, _ = run(server, body, terminate=True)
    assert returned == -signal.SIGTERM
    assert {event["event"] for event in server.events} == {"started", "inner", "innermost"}


@pytest.mark.slow
def test_sigterm_with_a_dead_endpoint_still_terminates(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    returned, _ = run(server, WAIT, "leanbase.send_deadline = 0.5", terminate=True)
    assert returned == -signal.SIGTERM


def test_events_that_are_lost_with_the_process_are_reported(server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    _, output = run(server, "pass", "leanbase.max_retries = 0")
    assert "1 event(s) could not be delivered and will be lost at exit" in output


def test_a_handler_of_the_programs_own_has_its_turn_afterwards(server: FaultServer) -> None:
    before = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))"
    returned, _ = run(server, WAIT, before, terminate=True)
    assert returned == 3
    assert len(server.events) == 1


def test_afterwards_sigterm_is_what_it_was(server: FaultServer) -> None:
    before = (
        "import atexit; atexit.register(lambda: print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL))"
    )
    returned, output = run(server, "pass", before)
    assert (returned, "True" in output) == (0, True)


def test_a_long_job_sends_a_hundred_at_a_time(server: FaultServer) -> None:
    run(server, "for n in range(249): leanbase.capture('e', distinct_id=n)")
    assert [len(request.events) for request in server.requests] == [100, 100, 50]


def test_results_arguments_threads_and_async() -> None:
    leanbase.transport = sent = MemoryTransport()

    @leanbase.job
    def plain(a: int, *, b: int) -> int:
        leanbase.capture("plain", distinct_id="u")
        return a + b

    @leanbase.job(flush="each")
    async def coroutine() -> Any:
        leanbase.capture("coroutine", distinct_id="u")
        return len(sent.events)

    assert plain(1, b=2) == 3
    assert asyncio.run(coroutine()) == 2

    thread = threading.Thread(target=plain, args=(1,), kwargs={"b": 2})
    thread.start()
    thread.join()
    assert [event["event"] for event in sent.events] == ["plain", "coroutine", "plain"]


def test_wrong_use_is_a_clear_error() -> None:
    with pytest.raises(TypeError, match="decorates a function, not int"):
        leanbase.job(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a class"):
        leanbase.job(int)
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        leanbase.job(client="x")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="'later'"):
        leanbase.job(flush="later")  # type: ignore[call-overload]


def test_an_object_with_an_async_call_is_awaited_inside(memory: MemoryTransport) -> None:
    client = Leanbase("k", transport=memory)

    class Work:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            client.capture("e", distinct_id="u")
            assert memory.events == []
            return "done"

    assert asyncio.run(leanbase.job(client=client)(Work())()) == "done"
    assert len(memory.events) == 1


def test_a_thread_without_the_jobs_context_is_told_of_once(
    client: Leanbase,
    memory: MemoryTransport,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("leanbase.delivery.scope._has_warned_of_thread", False)

    @leanbase.job(client=client)
    def main() -> None:
        for _ in range(2):
            thread = threading.Thread(target=lambda: client.capture("e", distinct_id="u"))
            thread.start()
            thread.join()

    main()
    assert len(memory.events) == 2
    assert caplog.text.count("a thread captured an event outside the context of the handler or job") == 1
