"""`install_sigterm_handler()`: what is sent on SIGTERM, by when, and which handler has the signal afterwards.

Each test runs a function of `programs/sigterm.py` in a process of its own, and sends it SIGTERM when it is ready
(`run_and_terminate`), or the program sends signals to itself (`run_to_the_end`). The test asserts the exit code, what
the program printed, and what a `FaultServer` in the process of the test received.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.default import default_client
from leanbase.handlers.termination import grace_seconds
from tests.handlers.terminated import Ended, run_and_terminate, run_to_the_end
from tests.support.events import received_names
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.threads import run_in_threads
from tests.support.unreachable import unreachable_url
from tests.support.waiting import wait_until

PROGRAM = "tests.handlers.programs.sigterm"


def terminate(url: str, function: str, *arguments: str, **options: Any) -> Ended:
    return run_and_terminate(
        PROGRAM, function, *arguments, LEANBASE_API_KEY="k", LEANBASE_HOST=url, **options
    )


def run(url: str, function: str) -> Ended:
    return run_to_the_end(PROGRAM, function, LEANBASE_API_KEY="k", LEANBASE_HOST=url)


# --- what is sent, and by when -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "seconds"),
    [
        ("AWS_LAMBDA_FUNCTION_NAME", 0.24),
        ("VERCEL", 0.4),
        ("K_SERVICE", 8.0),
        ("CLOUD_RUN_JOB", 8.0),
        ("RENDER", 24.0),
        ("ANYTHING", 8.0),
    ],
)
def test_the_flush_may_take_four_fifths_of_the_platforms_grace_period(
    variable: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VERCEL", "K_SERVICE", "CLOUD_RUN_JOB", "RENDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    assert grace_seconds([]) == pytest.approx(seconds)


def test_the_option_replaces_the_platforms_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest of several clients counts, because one thread sends for them all."""
    monkeypatch.setenv("RENDER", "true")
    monkeypatch.setenv("LEANBASE_SIGTERM_GRACE", "120")
    clients = [Leanbase("k", transport="memory"), Leanbase("k", transport="memory", sigterm_grace=60)]
    assert grace_seconds(clients[:1]) == pytest.approx(96.0)
    assert grace_seconds(clients) == pytest.approx(48.0)
    assert grace_seconds([default_client]) == pytest.approx(24.0), "it was not used"
    leanbase.setup()
    assert grace_seconds([default_client]) == pytest.approx(96.0)


def test_events_of_an_open_scope_are_sent(server: FaultServer) -> None:
    ended = terminate(server.url, "collect_in_an_open_scope")
    assert ended.exit_code == -signal.SIGTERM
    assert received_names(server) == ["collected"]


def test_buffered_events_are_sent(server: FaultServer) -> None:
    ended = terminate(server.url, "capture_outside_a_scope", "buffered", LEANBASE_SYNC_MODE="false")
    assert ended.exit_code == -signal.SIGTERM
    assert received_names(server) == ["buffered"]


def test_retained_events_are_sent(server: FaultServer) -> None:
    server.script(Behaviour(status=503))
    ended = terminate(server.url, "capture_outside_a_scope", "retained", LEANBASE_MAX_RETRIES="0")
    assert ended.exit_code == -signal.SIGTERM
    assert received_names(server) == ["retained", "retained"]
    assert len(server.requests) == 2


def test_events_of_another_client_are_sent(server: FaultServer) -> None:
    ended = terminate(server.url, "capture_with_another_client")
    assert ended.exit_code == -signal.SIGTERM
    assert received_names(server) == ["of another client"]


@pytest.mark.slow
@pytest.mark.parametrize("fallback", ["spool", "spool, written first", "log", "none"])
def test_events_that_cannot_be_sent_within_the_grace_period_go_to_the_fallback(
    fallback: str, tmp_path: Path
) -> None:
    options = {
        "spool": {"LEANBASE_FALLBACK": "spool"},
        "spool, written first": {"LEANBASE_TRANSPORT": "spool"},
        "log": {"LEANBASE_FALLBACK": "log"},
        "none": {},
    }
    spool = tmp_path / "spool"
    with unreachable_url() as url:
        ended = terminate(
            url,
            "collect_in_an_open_scope",
            LEANBASE_SPOOL_DIRECTORY=str(spool),
            VERCEL="1",
            **options[fallback],
        )
    assert ended.exit_code == -signal.SIGTERM
    assert ended.seconds < 3  # the grace period is 0.5 s, but the machine may be slow
    on_disk = "".join(path.read_text() for path in spool.glob("*.spool"))
    assert ('"collected"' in on_disk) == fallback.startswith("spool")
    assert ('"collected"' in ended.output) == (fallback == "log")
    assert ("1 event(s) could not be delivered and will be lost" in ended.output) == (fallback == "none")


@pytest.mark.slow
def test_a_scope_that_closes_during_the_flush_loses_no_event(tmp_path: Path) -> None:
    """The exit of the program waits for the flush, because until its end the fallback has no event."""
    with unreachable_url() as url:
        ended = terminate(
            url,
            "close_the_scope_during_the_flush",
            LEANBASE_FALLBACK="spool",
            LEANBASE_SPOOL_DIRECTORY=str(tmp_path / "spool"),
            LEANBASE_SEND_DEADLINE="0.3",
        )
    assert ended.exit_code == -signal.SIGTERM
    assert "went on" in ended.output
    assert '"collected"' in "".join(path.read_text() for path in (tmp_path / "spool").glob("*.spool"))


@pytest.mark.slow
def test_a_program_that_outlives_its_grace_period_sends_as_before(server: FaultServer) -> None:
    """The limit of the flush does not remain in scopes that were open."""
    ended = run(server.url, "outlive_the_grace_period")
    assert (ended.exit_code, "not delivered" in ended.output) == (0, False), ended.output
    assert received_names(server) == ["before", "after"]


# --- who has the signal afterwards ---------------------------------------------------------------------


def test_the_previous_handler_runs_in_the_main_thread_when_the_events_are_sent(server: FaultServer) -> None:
    ended = terminate(server.url, "exit_in_the_previous_handler")
    assert ended.exit_code == 3
    assert "previous True" in ended.output
    assert len(server.events) == 1


def test_a_previous_handler_that_returns_is_called_for_each_signal(server: FaultServer) -> None:
    ended = terminate(server.url, "return_from_the_previous_handler")
    assert ended.exit_code == 0
    assert ended.output.count("previous") == 2
    assert "went on" in ended.output
    assert received_names(server) == ["collected", "later"]


@pytest.mark.slow
def test_an_ignored_signal_stays_ignored(server: FaultServer) -> None:
    ended = terminate(server.url, "ignore_the_signal")
    assert (ended.exit_code, "went on" in ended.output) == (0, True)
    assert len(server.events) == 1


@pytest.mark.slow
def test_an_event_loop_that_handles_the_signal_gets_each_signal_once(server: FaultServer) -> None:
    ended = run(server.url, "handle_in_an_event_loop")
    assert (ended.exit_code, "went on" in ended.output) == (0, True)
    assert ended.output.count("handled") == 2
    assert "delivered inside the scope: 2" in ended.output
    assert len(server.events) == 2


def test_a_second_signal_ends_the_process_during_the_flush(server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    ended = terminate(
        server.url,
        "collect_in_an_open_scope",
        before_second_signal=lambda: wait_until(lambda: server.requests),
    )
    assert ended.exit_code == -signal.SIGTERM
    assert ended.seconds < 5  # the flush alone would take 8 s


def test_a_forked_child_is_killed_and_does_not_send_its_parents_events(server: FaultServer) -> None:
    ended = run(server.url, "terminate_a_forked_child")
    assert (ended.exit_code, "child -15" in ended.output) == (0, True)
    assert server.events == []


def test_a_handler_that_calls_the_installed_one_causes_no_loop(server: FaultServer) -> None:
    ended = terminate(server.url, "wrap_the_handler")
    assert ended.exit_code == -signal.SIGTERM
    assert ended.output.count("wrapper") == 1
    assert len(server.events) == 1


# --- wrong use -----------------------------------------------------------------------------------------


@pytest.mark.rule("G-1")
def test_outside_the_main_thread_the_function_of_the_module_returns_false() -> None:
    returned: list[bool] = []
    run_in_threads(lambda: returned.append(leanbase.install_sigterm_handler()))
    assert returned == [False]


@pytest.mark.rule("G-1")
def test_a_client_of_the_wrong_type_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not leanbase.install_sigterm_handler("client")  # type: ignore[arg-type]
    assert "client must be a Leanbase, not str" in caplog.text
