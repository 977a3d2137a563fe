"""The end of the process: what is retained or buffered gets one more attempt, and what is lost is said."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from leanbase import Leanbase
from tests.support.fault_server import Behaviour, FaultServer, black_hole

HEAD = """
import atexit, logging, multiprocessing, os, sys, time, leanbase
from leanbase import Leanbase
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO")
url = sys.argv[1]
def told(error, events):
    for event in events:
        print("told", event["event"], type(error).__name__, flush=True)
"""
NOBODY = "http://127.0.0.1:9"


class Ended:
    def __init__(self, done: subprocess.CompletedProcess[str], seconds: float) -> None:
        assert done.returncode in (0, 3), done.stderr
        assert "internal error" not in done.stderr
        assert "Traceback" not in done.stderr
        self.returncode, self.seconds = done.returncode, seconds
        self.log = done.stderr.splitlines()
        self.said = done.stdout.splitlines()
        self.errors = [line for line in self.log if line.startswith("ERROR")]


def ended(program: str, url: str = NOBODY, **options: Any) -> Ended:
    started = time.monotonic()
    code = HEAD + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60, check=False, **options
    )
    return Ended(done, time.monotonic() - started)


def names(server: FaultServer) -> list[str]:
    return [event["event"] for event in server.events]


LOST = "ERROR %d event(s) are lost: they could not be delivered before the process ended"

FIVE = """
client = Leanbase("k", url, max_retries=0, on_error=told)
for number in range(5): client.capture(f"e{number}", distinct_id="u")
"""


# --- retained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_by", ["", "sys.exit(3)"])
def test_a_script_that_ends_with_retained_events_says_how_many_and_tells_on_error(exit_by: str) -> None:
    done = ended(FIVE + exit_by)
    assert done.errors == [LOST % 5]
    dropped = [line for line in done.said if "DroppedError" in line]
    assert sorted(dropped) == [f"told e{number} DroppedError" for number in range(5)]
    assert done.seconds < 5


def test_they_are_sent_first_if_the_server_is_well_again(server: FaultServer) -> None:
    server.script(*[Behaviour(status=503)] * 3)
    done = ended(FIVE, server.url)
    assert done.errors == []
    assert names(server)[-5:] == [f"e{number}" for number in range(5)], "although the breaker paused"
    assert len(server.requests) == 4


def test_a_script_in_which_all_goes_well_has_no_exit_hook(server: FaultServer) -> None:
    done = ended(
        """
        registered, register = [], atexit.register
        def record(hook, *arguments):
            if hook.__module__.startswith("leanbase"): registered.append(hook)
            return register(hook, *arguments)
        atexit.register = record
        client = Leanbase("k", url)
        client.capture("e", distinct_id="u")
        with client.delivery_scope():
            client.capture("e", distinct_id="u")
        print(registered)
        """,
        server.url,
    )
    assert done.said == ["[]"]
    assert names(server) == ["e", "e"]


def test_after_a_shutdown_nothing_is_said_twice() -> None:
    done = ended(FIVE + "client.shutdown()")
    assert done.errors == []
    assert [line for line in done.log if "could not be delivered before shutdown" in line] == [
        "WARNING 5 event(s) could not be delivered before shutdown"
    ]


@pytest.mark.slow
def test_it_takes_two_seconds_at_most() -> None:
    hole = black_hole()
    done = ended(
        """
        clients = [Leanbase("k", url, send_deadline=0.2, max_retries=0) for _ in range(3)]
        for client in clients: client.capture("e", distinct_id="u")
        print(time.time())
        """,
        f"http://127.0.0.1:{hole.getsockname()[1]}",
    )
    assert time.time() - float(done.said[0]) < 3.5
    assert done.errors == [LOST % 3]
    hole.close()


@pytest.mark.slow
def test_a_client_whose_endpoint_hangs_does_not_take_the_time_of_the_others(server: FaultServer) -> None:
    hole = black_hole()
    done = ended(
        f"""
        hangs = Leanbase("k", "http://127.0.0.1:{hole.getsockname()[1]}", sync_mode=False)
        works = Leanbase("k", url, sync_mode=False)
        hangs.capture("lost", distinct_id="u")
        works.capture("delivered", distinct_id="u")
        """,
        server.url,
    )
    assert names(server) == ["delivered"]
    assert done.errors == [LOST % 1]
    hole.close()


def test_a_client_that_is_switched_off_sends_nothing_and_says_what_is_lost(server: FaultServer) -> None:
    server.always(Behaviour(status=503))
    done = ended(FIVE + "client.disabled = True", server.url)
    assert len(server.requests) == 3
    assert done.errors == [LOST % 5]


def test_what_is_captured_after_it_is_sent_or_said_as_well(server: FaultServer) -> None:
    program = """
    client = Leanbase("k", url, max_retries=0, on_error=told)
    atexit.register(lambda: client.capture("late", distinct_id="u"))
    client.capture("early", distinct_id="u")
    """
    done = ended(program)
    assert done.errors[0] == LOST % 1
    assert len(done.errors) == 2
    assert "1 event(s) could not be delivered before shutdown" in done.errors[1]
    server.script(Behaviour(status=503))
    assert ended(program, server.url).errors == []
    assert names(server) == ["early", "early", "late"]


def test_what_is_captured_after_it_by_another_client_is_said_as_well() -> None:
    done = ended(
        """
        client = Leanbase("k", url, max_retries=0)
        other = Leanbase("k", url, max_retries=0, on_error=told)
        atexit.register(lambda: other.capture("late", distinct_id="u"))
        client.capture("early", distinct_id="u")
        """
    )
    assert done.errors[0] == LOST % 1
    assert len(done.errors) == 2
    assert "told late DroppedError" in done.said


def test_what_a_client_retained_that_is_gone_has_its_turn_as_well(server: FaultServer) -> None:
    server.script(*[Behaviour(status=503)] * 3)
    done = ended(FIVE + "del client; import gc; gc.collect()", server.url)
    assert done.errors == []
    assert names(server)[-5:] == [f"e{number}" for number in range(5)]
    assert ended(FIVE + "del client; import gc; gc.collect()").errors == [LOST % 5]


def test_clients_without_end_that_are_gone_do_not_fill_the_memory() -> None:
    done = ended(
        """
        from leanbase.transports import _at_exit
        kept = [Leanbase("k", url, max_retries=0) for _ in range(5)]
        for client in kept: client.capture("kept", distinct_id="u")
        for number in range(150):
            Leanbase("k", url, max_retries=0, on_error=told).capture(f"e{number}", distinct_id="u")
        print(len(_at_exit._watched), flush=True)
        """
    )
    assert "100" in done.said
    gone = [line for line in done.errors if "their client was garbage collected; keep a reference" in line]
    assert len(gone) == 55
    assert "told e0 DroppedError" in done.said
    assert done.errors[-1] == LOST % 100


def test_a_client_that_is_gone_with_nothing_says_nothing(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        Leanbase("k", server.url).capture("e", distinct_id="u")
        Leanbase("k", server.url, sync_mode=False).capture("e", distinct_id="u")
    gc.collect()
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


# --- children ------------------------------------------------------------------------------------------

METHODS = [
    pytest.param("fork", marks=pytest.mark.skipif(sys.platform == "win32", reason="needs fork")),
    "spawn",
]

CHILD = """
import logging, os, sys, time, leanbase
from leanbase import Leanbase
url = sys.argv[1]
def buffered(number=0):
    client = Leanbase("k", url, sync_mode=False, flush_interval=60)
    client.capture(f"buffered {number}", distinct_id="u")
    globals()["kept"] = client
def retained(number=0):
    client = Leanbase("k", url, max_retries=0)
    client.capture("retained", distinct_id="u")
    globals()["kept"] = client
def fork_again(number=0):
    buffered("outer")
    pid = os.fork()
    if not pid:
        kept.capture("inner", distinct_id="u")
        sys.exit(0)
    os.waitpid(pid, 0)
"""

PROGRAM = """
from child import *
if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    import {library} as library
    context = library.get_context("{method}")
    {body}
"""


@pytest.fixture
def program(tmp_path: Any) -> Any:
    def run(body: str, url: str, *, library: str = "multiprocessing", method: str = "fork") -> Ended:
        (tmp_path / "child.py").write_text(CHILD)
        main = tmp_path / "main.py"
        main.write_text(PROGRAM.format(library=library, method=method, body=body))
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(main), url], capture_output=True, text=True, timeout=60, check=False
        )
        return Ended(done, time.monotonic() - started)

    return run


LIBRARIES = ["multiprocessing", "billiard"]
PROCESS = (
    "process = context.Process(target={}); process.start(); process.join(20); sys.exit(process.exitcode)"
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_child_that_skips_atexit_sends_its_buffer(
    library: str, method: str, program: Any, server: FaultServer
) -> None:
    pytest.importorskip(library)
    program(PROCESS.format("buffered"), server.url, library=library, method=method)
    assert names(server) == ["buffered 0"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_child_with_retained_events_tries_once_more_and_says_what_is_lost(
    library: str, program: Any, server: FaultServer
) -> None:
    pytest.importorskip(library)
    server.script(Behaviour(status=503))
    program(PROCESS.format("retained"), server.url, library=library)
    assert names(server) == ["retained", "retained"]
    assert program(PROCESS.format("retained"), NOBODY, library=library).errors == [LOST % 1]


def test_a_childs_own_child_ends_for_itself(program: Any, server: FaultServer) -> None:
    program(PROCESS.format("fork_again"), server.url)
    assert sorted(names(server)) == ["buffered outer", "inner"]


POOL = "with context.Pool(3) as pool: pool.map(buffered, range(6), 1)"


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_left_loses_no_buffer(method: str, program: Any, server: FaultServer) -> None:
    """The `with` ends its workers with SIGTERM."""
    done = program(POOL, server.url, method=method)
    assert done.errors == []
    assert sorted(names(server)) == [f"buffered {number}" for number in range(6)]
    assert done.seconds < 15


def test_a_pool_inside_a_job_loses_no_buffer(program: Any, server: FaultServer) -> None:
    """The job handles SIGTERM; that is not for its children."""
    body = (
        "leanbase.api_key, leanbase.host = 'k', url\n"
        "    @leanbase.job\n"
        "    def nightly():\n"
        f"        {POOL}\n"
        "    nightly()"
    )
    program(body, server.url)
    assert sorted(names(server)) == [f"buffered {number}" for number in range(6)]


@pytest.mark.slow
def test_a_pool_that_is_left_says_what_is_lost(program: Any) -> None:
    done = program(POOL, NOBODY)
    assert sum(int(re.findall(r"\d+", line)[0]) for line in done.errors) == 6


def test_a_pool_that_is_closed_and_joined_loses_no_buffer(program: Any, server: FaultServer) -> None:
    program("pool = context.Pool(2); pool.map(buffered, range(4), 1); pool.close(); pool.join()", server.url)
    assert sorted(names(server)) == [f"buffered {number}" for number in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_workers_that_are_recycled_lose_no_buffer(library: str, program: Any, server: FaultServer) -> None:
    pytest.importorskip(library)
    tasks = {"multiprocessing": "maxtasksperchild=1", "billiard": "maxtasksperchild=1"}[library]
    body = f"pool = library.Pool(2, {tasks}); pool.map(buffered, range(6), 1); pool.close(); pool.join()"
    program(body, server.url, library=library)
    assert sorted(names(server)) == [f"buffered {number}" for number in range(6)]


@pytest.mark.parametrize("with_callback", [False, True])
def test_a_pool_of_billiard_that_is_terminated_loses_no_buffer(
    with_callback: bool, program: Any, server: FaultServer
) -> None:
    pytest.importorskip("billiard")
    callback = ", on_process_exit=lambda pid, code: os.write(1, b'callback\\n')" if with_callback else ""
    body = (
        f"import os, billiard.pool; pool = billiard.pool.Pool(2{callback}); pool.map(buffered, range(4), 1)"
    )
    body += "; pool.terminate(); pool.join()"
    done = program(body, server.url, library="billiard")
    assert sorted(names(server)) == [f"buffered {number}" for number in range(4)]
    assert with_callback == ("callback" in done.said)


def test_sigterm_in_the_moment_before_the_main_thread_blocks_is_heard(
    program: Any, server: FaultServer
) -> None:
    """As when it comes to another thread: nothing interrupts the lock that the main thread waits for."""
    body = (
        "import signal, threading, child\n"
        "    def blocked():\n"
        "        child.buffered()\n"
        "        def signal_self():\n"
        "            time.sleep(0.2)\n"
        "            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "        threading.Thread(target=signal_self, daemon=True).start()\n"
        "        lock = threading.Lock(); lock.acquire(); lock.acquire()\n"
        "    process = context.Process(target=blocked); process.start(); process.join(20)\n"
        "    print(process.exitcode)"
    )
    assert program(body, server.url).said == ["-15"]
    assert names(server) == ["buffered 0"]


def test_a_childs_wake_up_is_not_its_childs(program: Any, server: FaultServer) -> None:
    body = (
        "import signal, child\n"
        "    def forks():\n"
        "        child.buffered()\n"
        "        reading, writing = os.pipe()\n"
        "        pid = os.fork()\n"
        "        if not pid:\n"
        "            os.write(writing, b'.')\n"
        "            time.sleep(30)\n"
        "            os._exit(0)\n"
        "        os.read(reading, 1)\n"
        "        os.kill(pid, signal.SIGTERM)\n"
        "        print(os.waitpid(pid, 0)[1], flush=True)\n"
        "        time.sleep(0.3)\n"
        "    process = context.Process(target=forks); process.start(); process.join(20)\n"
        "    print(process.exitcode)"
    )
    assert program(body, server.url).said == ["15", "0"]
    assert names(server) == ["buffered 0"]


@pytest.mark.slow
def test_a_child_in_the_middle_of_a_long_call_of_c_ends_as_well(program: Any, server: FaultServer) -> None:
    body = (
        "import child, hashlib\n"
        "    def works(queue):\n"
        "        child.buffered()\n"
        "        queue.put(1)\n"
        "        hashlib.pbkdf2_hmac('sha256', b'a', b'b', 100_000_000)\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=works, args=(queue,)); process.start(); queue.get()\n"
        "    time.sleep(0.2); process.terminate(); process.join(5)\n"
        "    print(process.exitcode is not None)\n"
        "    process.kill()"
    )
    assert program(body, server.url).said == ["True"]
    assert names(server) == ["buffered 0"]


def test_a_handler_that_the_child_installs_later_is_called_once_for_a_signal(
    program: Any, server: FaultServer
) -> None:
    body = (
        "import signal, child\n"
        "    def works():\n"
        "        child.buffered()\n"
        "        signal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(1)\n"
        "    process = context.Process(target=works); process.start(); process.join(20)"
    )
    assert program(body, server.url).said == ["mine"]
    assert names(server) == ["buffered 0"]


def test_a_handler_of_the_childs_own_for_sigterm_is_left_alone(program: Any, server: FaultServer) -> None:
    body = (
        "import signal, child\n"
        "    def own_handler():\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        child.buffered()\n"
        "        print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, flush=True)\n"
        "    process = context.Process(target=own_handler); process.start(); process.join(20)"
    )
    assert program(body, server.url).said == ["True"]
    assert names(server) == ["buffered 0"]
