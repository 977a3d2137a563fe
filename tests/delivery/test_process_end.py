"""The end of the process: pending events get one more attempt, and lost events are reported.

Each test runs a program in a process of its own: `programs/scripts.py`, or `programs/parents.py` if child
processes are what the test is about. The events go to a server in the test's process, or to an address where
nobody listens. Asserted are the events that the server received, and what the process printed and logged.
"""

from __future__ import annotations

import gc
import logging
import re
import sys
import time

import pytest

from leanbase import Leanbase
from tests.support.events import received_names
from tests.support.fault_server import Behaviour, FaultServer, black_hole
from tests.support.programs import run_program

NOBODY = "http://127.0.0.1:9"
"""An address at which nobody listens."""

LOST = "ERROR %d event(s) are lost: they could not be delivered before the process ended"


class EndedProcess:
    """A process that has ended without a traceback or an internal error."""

    def __init__(self, module: str, *arguments: object) -> None:
        started = time.monotonic()
        ended = run_program(f"tests.delivery.programs.{module}", *arguments)
        self.seconds = time.monotonic() - started
        assert ended.returncode in (0, 3), ended.stderr
        assert "internal error" not in ended.stderr
        assert "Traceback" not in ended.stderr
        self.returncode = ended.returncode
        self.log = ended.stderr.splitlines()
        self.printed = ended.stdout.splitlines()
        self.errors = [line for line in self.log if line.startswith("ERROR")]


def run_script(name: str, url: str = NOBODY, *arguments: str) -> EndedProcess:
    return EndedProcess("scripts", name, url, *arguments)


def run_parent(
    name: str, url: str, *arguments: str, library: str = "multiprocessing", method: str = "fork"
) -> EndedProcess:
    return EndedProcess("parents", name, library, method, url, *arguments)


# --- retained events -----------------------------------------------------------------------------------


@pytest.mark.rule("Q-50")
@pytest.mark.parametrize(
    ("script", "exit_code"), [("return_normally", 0), ("exit_with_a_code", 3)], ids=["return", "sys.exit"]
)
def test_lost_events_are_counted_in_the_log_and_given_to_on_error(script: str, exit_code: int) -> None:
    ended = run_script(script)
    assert ended.returncode == exit_code
    assert ended.errors == [LOST % 5]
    dropped = [line for line in ended.printed if "DroppedError" in line]
    assert sorted(dropped) == [f"reported e{number} DroppedError" for number in range(5)]
    assert ended.seconds < 5


@pytest.mark.rule("Q-50", "Q-56")
def test_retained_events_are_sent_at_exit_if_the_server_has_recovered(server: FaultServer) -> None:
    server.script(*[Behaviour(status=503)] * 3)
    ended = run_script("return_normally", server.url)
    assert ended.errors == []
    last_attempt = [f"e{number}" for number in range(5)]
    assert received_names(server)[-5:] == last_attempt, "although the breaker paused"
    assert len(server.requests) == 4


def test_no_exit_hook_is_registered_while_every_send_succeeds(server: FaultServer) -> None:
    assert run_script("print_exit_hooks", server.url).printed == ["[]"]
    assert received_names(server) == ["e", "e"]


def test_events_lost_by_a_shutdown_are_not_reported_again_at_exit() -> None:
    ended = run_script("shut_down")
    assert ended.errors == []
    assert [line for line in ended.log if "could not be delivered before shutdown" in line] == [
        "WARNING shut down with pending events: 5 event(s) could not be delivered before shutdown"
    ]


@pytest.mark.rule("Q-51", "Q-52")
@pytest.mark.slow
def test_exit_takes_two_seconds_at_most_for_all_clients_together() -> None:
    hole = black_hole()
    ended = run_script("retain_in_three_clients", f"http://127.0.0.1:{hole.getsockname()[1]}")
    assert time.time() - float(ended.printed[0]) < 3.5
    assert ended.errors == [LOST % 3]
    hole.close()


@pytest.mark.rule("Q-51")
@pytest.mark.slow
def test_a_client_whose_server_hangs_leaves_time_for_the_other_clients(server: FaultServer) -> None:
    hole = black_hole()
    ended = run_script("buffer_for_two_servers", server.url, f"http://127.0.0.1:{hole.getsockname()[1]}")
    assert received_names(server) == ["delivered"]
    assert ended.errors == [LOST % 1]
    hole.close()


@pytest.mark.rule("C-40", "Q-50")
def test_a_disabled_client_sends_nothing_at_exit_and_logs_the_loss(server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    ended = run_script("disable_the_client", server.url)
    assert len(server.requests) == 3
    assert ended.errors == [LOST % 5]


@pytest.mark.rule("Q-50")
def test_an_event_captured_after_the_exit_hook_is_sent_or_reported(server: FaultServer) -> None:
    ended = run_script("capture_at_exit")
    assert ended.errors[0] == LOST % 1
    assert len(ended.errors) == 2
    assert "1 event(s) could not be delivered before shutdown" in ended.errors[1]
    server.script(Behaviour(status=503))
    assert run_script("capture_at_exit", server.url).errors == []
    assert received_names(server) == ["early", "early", "late"]


@pytest.mark.rule("Q-50")
def test_an_event_that_another_client_captures_after_the_exit_hook_is_reported() -> None:
    ended = run_script("capture_at_exit_with_another_client")
    assert ended.errors[0] == LOST % 1
    assert len(ended.errors) == 2
    assert "reported late DroppedError" in ended.printed


@pytest.mark.rule("Q-50")
def test_retained_events_of_a_garbage_collected_client_are_sent_or_reported(server: FaultServer) -> None:
    server.script(*[Behaviour(status=503)] * 3)
    ended = run_script("forget_the_client", server.url)
    assert ended.errors == []
    assert received_names(server)[-5:] == [f"e{number}" for number in range(5)]
    assert run_script("forget_the_client").errors == [LOST % 5]


@pytest.mark.slow
def test_the_events_of_at_most_a_hundred_garbage_collected_clients_stay_in_memory() -> None:
    ended = run_script("forget_many_clients")
    assert "100" in ended.printed
    gone = [line for line in ended.errors if "their client was garbage collected; keep a reference" in line]
    assert len(gone) == 55
    assert "reported e0 DroppedError" in ended.printed
    assert ended.errors[-1] == LOST % 100


def test_a_garbage_collected_client_without_pending_events_logs_nothing(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        Leanbase("k", server.url).capture("e", distinct_id="u")
        Leanbase("k", server.url, sync_mode=False).capture("e", distinct_id="u")
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- child processes -----------------------------------------------------------------------------------

METHODS = [
    pytest.param("fork", marks=pytest.mark.skipif(sys.platform == "win32", reason="needs fork")),
    "spawn",
]
LIBRARIES = ["multiprocessing", "billiard"]


@pytest.mark.rule("Q-50", "Q-62")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_child_that_skips_atexit_sends_its_buffer(library: str, method: str, server: FaultServer) -> None:
    pytest.importorskip(library)
    ended = run_parent("start_one_child", server.url, "child_buffers", library=library, method=method)
    assert ended.printed == ["0"]
    assert received_names(server) == ["buffered 0"]


@pytest.mark.slow
@pytest.mark.rule("Q-50")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_child_sends_its_retained_events_once_more_and_logs_the_loss(
    library: str, server: FaultServer
) -> None:
    pytest.importorskip(library)
    server.script(Behaviour(status=503))
    run_parent("start_one_child", server.url, "child_retains", library=library)
    assert received_names(server) == ["retained", "retained"]
    ended = run_parent("start_one_child", NOBODY, "child_retains", library=library)
    assert ended.errors == [LOST % 1]
    assert ended.printed == ["0"]


@pytest.mark.rule("Q-60", "Q-62")
def test_a_child_and_its_own_child_each_send_their_buffer(server: FaultServer) -> None:
    assert run_parent("start_one_child", server.url, "child_forks_again").printed == ["0"]
    assert sorted(received_names(server)) == ["buffered outer", "inner"]


@pytest.mark.rule("Q-62")
@pytest.mark.parametrize("method", METHODS)
def test_the_workers_of_a_pool_that_is_left_send_their_buffers(method: str, server: FaultServer) -> None:
    """Leaving the `with` block of a pool ends its workers with SIGTERM."""
    ended = run_parent("leave_a_pool", server.url, method=method)
    assert ended.errors == []
    assert sorted(received_names(server)) == [f"buffered {number}" for number in range(6)]
    assert ended.seconds < 15


@pytest.mark.rule("Q-62")
def test_the_workers_of_a_pool_inside_a_job_send_their_buffers(server: FaultServer) -> None:
    """The job handles SIGTERM, and forked workers inherit its handler."""
    run_parent("leave_a_pool_in_a_job", server.url)
    assert sorted(received_names(server)) == [f"buffered {number}" for number in range(6)]


@pytest.mark.rule("Q-50")
@pytest.mark.slow
def test_the_workers_of_a_pool_that_is_left_log_the_loss() -> None:
    ended = run_parent("leave_a_pool", NOBODY)
    assert sum(int(re.findall(r"\d+", line)[0]) for line in ended.errors) == 6


@pytest.mark.rule("Q-62")
def test_the_workers_of_a_pool_that_is_closed_and_joined_send_their_buffers(server: FaultServer) -> None:
    run_parent("close_and_join_a_pool", server.url)
    assert sorted(received_names(server)) == [f"buffered {number}" for number in range(4)]


@pytest.mark.rule("Q-62")
@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_workers_that_are_recycled_send_their_buffers(library: str, server: FaultServer) -> None:
    pytest.importorskip(library)
    run_parent("recycle_workers", server.url, library=library)
    assert sorted(received_names(server)) == [f"buffered {number}" for number in range(6)]


@pytest.mark.slow
@pytest.mark.rule("Q-62")
@pytest.mark.parametrize("callback", [(), ("callback",)], ids=["no callback", "callback"])
def test_the_workers_of_a_terminated_billiard_pool_send_their_buffers(
    callback: tuple[str, ...], server: FaultServer
) -> None:
    pytest.importorskip("billiard")
    ended = run_parent("terminate_a_billiard_pool", server.url, *callback, library="billiard")
    assert sorted(received_names(server)) == [f"buffered {number}" for number in range(4)]
    assert set(ended.printed) == set(callback)


@pytest.mark.slow
def test_sigterm_just_before_the_main_thread_blocks_ends_a_child(server: FaultServer) -> None:
    """The signal comes to another thread: nothing interrupts the lock that the main thread waits for."""
    assert run_parent("start_one_child", server.url, "child_blocks_on_a_lock").printed == ["-15"]
    assert received_names(server) == ["buffered 0"]


@pytest.mark.slow
def test_a_signal_to_a_childs_own_child_does_not_end_the_child(server: FaultServer) -> None:
    """Both have the file descriptor by which a thread of the child is notified of signals."""
    ended = run_parent("start_one_child", server.url, "child_terminates_its_own_child")
    assert ended.printed == ["15", "0"]
    assert received_names(server) == ["buffered 0"]


@pytest.mark.slow
def test_sigterm_ends_a_child_in_the_middle_of_a_long_call_of_c_code(server: FaultServer) -> None:
    assert run_parent("terminate_a_computing_child", server.url).printed == ["True"]
    assert received_names(server) == ["buffered 0"]


@pytest.mark.slow
def test_a_handler_that_a_child_installs_later_is_called_once_for_a_signal(server: FaultServer) -> None:
    ended = run_parent("start_one_child", server.url, "child_installs_a_handler_later")
    assert ended.printed == ["mine", "0"]
    assert received_names(server) == ["buffered 0"]


def test_a_childs_own_handler_of_sigterm_is_not_replaced(server: FaultServer) -> None:
    assert run_parent("start_one_child", server.url, "child_ignores_sigterm").printed == ["True", "0"]
    assert received_names(server) == ["buffered 0"]
