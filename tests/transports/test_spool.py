"""The spool: a directory with events that outlive their process, and that any later process sends.

Most tests let one client leave events in the directory (`leave_events`), and then send them through a
transport in memory (`replay`). Others damage the files in between, run processes that do both at once, or
kill them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.transports import HttpTransport, MemoryTransport, SpoolTransport
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.support.events import encoded_events
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.programs import program_command
from tests.support.threads import run_in_threads, start_thread
from tests.support.transports import FailingTransport, GatedTransport, SwitchedTransport
from tests.support.waiting import wait_until

KILLS = 100
"""How many processes the test of killed processes kills."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files(directory: Path, suffix: str = ".spool") -> list[Path]:
    return sorted(directory.glob(f"*{suffix}"))


def leave_events(directory: Path, count: int, name: str = "e") -> None:
    """Leave events in the directory, as a process does that cannot send."""
    client = Leanbase(transport=SpoolTransport(directory))
    for number in range(count):
        assert client.capture(name, distinct_id=number)
    assert client.stats()["spooled"] == count
    assert balanced(client)
    client.shutdown()


def replay(directory: Path, **options: Any) -> list[dict[str, Any]]:
    """Send what the directory holds, and return it."""
    memory = MemoryTransport()
    SpoolTransport(directory, memory, **options).flush(deadline=Deadline.after(10))
    return memory.events


@pytest.mark.rule("Q-57")
def test_the_next_send_takes_the_events_of_earlier_processes_first_and_oldest_first(directory: Path) -> None:
    leave_events(directory, 3, "older")
    leave_events(directory, 2, "newer")
    memory = MemoryTransport()
    client = Leanbase(transport=SpoolTransport(directory, memory))
    client.capture("own", distinct_id="u")
    assert [event["event"] for event in memory.events] == ["older"] * 3 + ["newer"] * 2 + ["own"]
    assert client.stats()["delivered"] == 1
    assert balanced(client)
    client.shutdown()
    assert list(directory.iterdir()) == []


def test_the_directory_and_its_files_are_private(directory: Path) -> None:
    leave_events(directory, 1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(directory)] == [0o600]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigError, match="mode 0700"):
        SpoolTransport(directory)


def test_a_directory_that_is_a_symbolic_link_is_refused(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        SpoolTransport(directory)


def test_symbolic_links_and_special_files_in_the_directory_are_skipped(
    directory: Path, tmp_path: Path
) -> None:
    leave_events(directory, 1)
    (tmp_path / "target").write_bytes(files(directory)[0].read_bytes())
    (directory / "0.spool").symlink_to(tmp_path / "target")
    os.mkfifo(directory / "1.spool", 0o600)
    os.close(os.open(directory / "1.spool", os.O_RDWR | os.O_NONBLOCK))
    assert len(replay(directory)) == 1
    assert (tmp_path / "target").exists()


@pytest.mark.rule("Q-57", "Q-58")
def test_a_spool_as_fallback_stores_undelivered_events_and_sends_them_later(
    directory: Path, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(status=503))
    options: dict[str, Any] = {"fallback": "spool", "spool_directory": directory, "max_retries": 0}
    client = Leanbase("k", server.url, **options)
    for number in range(2):
        client.capture("in the outage", distinct_id=number)
    assert client.stats()["spooled"] == 2
    assert f"1 event(s) are stored in {directory} until the next send" in caplog.text
    server.always(Behaviour())
    received = len(server.events)
    client.capture("back", distinct_id="u")
    assert [event["event"] for event in server.events[received:]] == ["in the outage"] * 2 + ["back"]
    assert client.stats()["delivered"] == 1
    assert client.stats()["spooled"] == 2
    assert balanced(client)
    assert client.shutdown()
    assert list(directory.iterdir()) == []


def test_a_client_does_not_send_the_events_of_another_project(directory: Path, server: FaultServer) -> None:
    def client_of(api_key: str | None) -> Leanbase:
        host = server.url if api_key else None
        return Leanbase(api_key, host, transport="spool", spool_directory=str(directory), max_retries=0)

    server.always(Behaviour(status=503))
    for key in ("phc_one", "phc_two", None):
        one = client_of(key)
        assert one.capture(f"of {key}", distinct_id="u")
        assert one.stats()["spooled"] == 1
        one.shutdown()
    assert not any("phc" in path.name for path in files(directory))
    server.always(Behaviour())
    del server.requests[:]
    assert client_of("phc_one").flush()
    assert [event["event"] for event in server.events] == ["of phc_one", "of None"]
    assert {request.envelope["api_key"] for request in server.requests} == {"phc_one"}
    assert client_of("phc_two").flush()
    assert server.events[-1]["event"] == "of phc_two"
    assert server.requests[-1].envelope["api_key"] == "phc_two"
    assert files(directory) == []


@pytest.mark.rule("Q-1")
def test_events_of_an_outage_are_sent_in_order_before_newer_ones(directory: Path) -> None:
    inner = SwitchedTransport()
    client = Leanbase(transport=SpoolTransport(directory, inner))
    inner.is_available = False
    for number in range(5):
        client.capture("e", distinct_id=number)
    inner.is_available = True
    client.capture("e", distinct_id=5)
    assert [event["distinct_id"] for event in inner.events] == [str(number) for number in range(6)]


def test_a_truncated_last_line_is_skipped(directory: Path) -> None:
    leave_events(directory, 3)
    (path,) = files(directory)
    path.write_bytes(path.read_bytes()[:-20])
    assert [event["distinct_id"] for event in replay(directory)] == ["0", "1"]
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b"{}\n", b'{"event":"e"}\n', b'"text"\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"]
)
def test_lines_that_are_not_events_are_skipped_and_the_file_is_renamed(
    directory: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave_events(directory, 2)
    (path,) = files(directory)
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first + damage + second)
    assert [event["distinct_id"] for event in replay(directory)] == ["0", "1"]
    assert files(directory) == []
    assert len(files(directory, ".damaged")) == 1
    assert "a damaged spool file was renamed" in caplog.text


def test_a_file_with_an_unknown_header_is_renamed(directory: Path) -> None:
    leave_events(directory, 1)
    (directory / "0.spool").write_bytes(b"what is this?\n" * 10)
    assert len(replay(directory)) == 1
    assert len(files(directory, ".damaged")) == 1


def test_invalid_values_in_a_file_are_repaired(directory: Path) -> None:
    """The server would reject the whole batch because of them."""
    leave_events(directory, 1)
    (path,) = files(directory)
    header, line = path.read_bytes().splitlines(keepends=True)
    event = json.loads(line)
    invalid = [
        json.dumps({**event, "properties": {"half": "\ud83d"}}),
        json.dumps({**event, "properties": {"not a number": float("nan")}}),
        json.dumps({**event, "uuid": "none"}),
    ]
    path.write_bytes(header + "".join(f"{each}\n" for each in invalid).encode() + line)
    found = replay(directory)
    assert len(found) == 4
    json.dumps(found, allow_nan=False).encode()


@pytest.mark.rule("Q-57")
def test_the_size_of_the_spool_is_bounded(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory, max_bytes=5000))
    for number in range(50):
        client.capture("e", distinct_id=number)
    assert sum(path.stat().st_size for path in files(directory)) <= 5000
    assert 0 < client.stats()["spooled"] < 50
    assert client.stats()["retained"] == 50 - client.stats()["spooled"]
    assert balanced(client)


def test_a_directory_that_was_removed_is_created_again(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    directory.rmdir()
    client.capture("e", distinct_id="u")
    assert client.stats()["spooled"] == 1
    assert len(shut_down_and_replay(client, directory)) == 1


def shut_down_and_replay(client: Leanbase, directory: Path) -> list[dict[str, Any]]:
    client.shutdown()
    return replay(directory)


def test_the_file_of_a_running_process_is_not_replayed(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    client.capture("e", distinct_id="u")
    assert replay(directory) == []
    assert len(shut_down_and_replay(client, directory)) == 1


@pytest.mark.rule("G-4", "Q-57")
def test_events_of_several_threads_are_sent_once_despite_failures(directory: Path) -> None:
    inner = SwitchedTransport()
    client = Leanbase(transport=SpoolTransport(directory, inner))

    def work(name: int) -> None:
        for number in range(50):
            inner.is_available = random.random() >= 0.3
            client.capture("e", distinct_id=f"{name}-{number}")

    run_in_threads(*[partial(work, name) for name in range(4)])
    inner.is_available = True
    client.flush()
    ids = [event["distinct_id"] for event in inner.events]
    assert len(ids) == len(set(ids)) == 200
    assert balanced(client)


@pytest.mark.slow
def test_processes_that_replay_at_once_send_each_file_once(directory: Path, server: FaultServer) -> None:
    for number in range(20):
        leave_events(directory, 5, f"left {number}")
    command = program_command("tests.transports.programs.replay_spool", directory, server.url)
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0, 0, 0, 0]
    uuids = [event["uuid"] for event in server.events]
    assert len(uuids) == len(set(uuids)) == 100
    assert list(directory.iterdir()) == []


@pytest.mark.rule("Q-60")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_its_own_file(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    client.capture("parent", distinct_id="u")
    pid = os.fork()
    if not pid:
        client.capture("child", distinct_id="u")
        os._exit(0 if client.stats()["captured"] == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert [event["event"] for event in replay(directory)] == [
        "child"
    ]  # the file of the parent is still locked
    client.shutdown()
    assert [event["event"] for event in replay(directory)] == ["parent"]


@pytest.mark.slow
@pytest.mark.parametrize("is_sending", [False, True], ids=["only storing", "sending"])
def test_processes_killed_at_random_moments_lose_no_event(
    directory: Path, server: FaultServer, is_sending: bool
) -> None:
    """Every event whose `capture()` has returned arrives. Events in flight may arrive twice, with one uuid."""
    random.seed(7)
    returned: set[str] = set()
    for _ in range(KILLS // 4):
        urls = [server.url] if is_sending else []
        command = program_command("tests.transports.programs.spool_forever", directory, *urls)
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        for process in processes:
            assert process.stdout is not None
            returned.add(process.stdout.readline().strip())  # so that it has begun
        for process in processes:
            time.sleep(random.random() * 0.02)
            process.send_signal(signal.SIGKILL)
        for process in processes:
            output, _ = process.communicate()
            returned.update(line for line in output.split("\n")[:-1] if line)
    last = Leanbase(transport=SpoolTransport(directory, HttpTransport("k", server.url)))
    assert last.flush(timeout=30)
    complete = [request for request in server.requests if request.raw]
    arrived = [event["uuid"] for request in complete for event in request.events]
    assert returned <= set(arrived)
    assert len(returned) > KILLS
    duplicates = len(arrived) - len(set(arrived))
    assert duplicates <= KILLS, "at most the event that each process had in flight"
    assert files(directory) == []


def test_rejected_events_are_removed_from_the_spool(directory: Path, server: FaultServer) -> None:
    leave_events(directory, 2)
    server.always(Behaviour(status=400))
    SpoolTransport(directory, HttpTransport("k", server.url)).flush(deadline=Deadline.after(5))
    assert list(directory.iterdir()) == []


def test_with_an_expired_deadline_nothing_is_replayed(directory: Path) -> None:
    leave_events(directory, 2)
    memory = MemoryTransport()
    receipt = SpoolTransport(directory, memory).send(encoded_events(1), deadline=Deadline.after(0))
    assert receipt.spooled == 1
    assert memory.events == []
    assert len(files(directory)) == 2


def start_capture(client: Leanbase, name: str, **properties: Any) -> threading.Thread:
    return start_thread(client.capture, name, distinct_id="u", properties=properties)


@pytest.mark.parametrize("end", ["shutdown", "disconnect"])
def test_the_file_stays_open_for_a_send_that_is_in_flight_during_the_close(directory: Path, end: str) -> None:
    """If it were closed, its descriptor could belong to another file when the send writes to it."""
    inner = GatedTransport()
    client = Leanbase(transport=SpoolTransport(directory, inner))
    sender = start_capture(client, "e")
    assert inner.begun.acquire(timeout=20)
    getattr(client, end)(timeout=0.05)
    with (directory / "others").open("w+b") as other:
        other.write(b"X" * 60)
        other.flush()
        inner.may_continue.release(10)
        sender.join()
        other.seek(0)
        assert other.read() == b"X" * 60
    assert client.stats()["delivered"] == 1
    assert files(directory) == []


@pytest.mark.rule("Q-57")
def test_a_disconnect_while_other_threads_wait_to_send_loses_no_event(directory: Path) -> None:
    inner = GatedTransport()
    client = Leanbase(transport=SpoolTransport(directory, inner))
    threads = [start_capture(client, "a", text="x" * 100)]
    assert inner.begun.acquire(timeout=20)
    threads.append(start_capture(client, "b", text="x" * 3000))
    wait_until(lambda: files(directory)[0].stat().st_size >= 3000)
    client.disconnect(timeout=0.01)
    threads.append(start_capture(client, "c"))
    wait_until(lambda: len(files(directory)) >= 2)
    inner.may_continue.release(100)
    for thread in threads:
        thread.join()
    for name in "de":
        client.capture(name, distinct_id="u")
    assert client.shutdown()
    assert {event["event"] for event in inner.events} == set("abcde")
    assert len({event["uuid"] for event in inner.events}) == 5
    assert balanced(client)
    assert files(directory) == []


def test_a_client_without_a_key_does_not_send_the_events_of_a_project(directory: Path) -> None:
    leaving = Leanbase(
        "phc_one", transport=FailingTransport(), fallback="spool", spool_directory=str(directory)
    )
    assert leaving.capture("of one", distinct_id="u")
    assert leaving.stats()["spooled"] == 1
    leaving.shutdown()
    memory = MemoryTransport()
    keyless = Leanbase(transport=memory, fallback="spool", spool_directory=str(directory))
    keyless.capture("without a key", distinct_id="u")
    keyless.shutdown()
    assert [event["event"] for event in memory.events] == ["without a key"]
    assert len(files(directory)) == 1


@pytest.mark.rule("G-1")
@pytest.mark.parametrize("broken", ["unlink", "pwrite"])
def test_events_are_delivered_although_the_disk_fails(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    leave_events(directory, 1, "old")
    memory = MemoryTransport()
    client = Leanbase(transport=SpoolTransport(directory, memory, write_first=False))

    def fail(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, broken, fail)
    for name in ("one", "two"):
        assert client.capture(name, distinct_id="u")
    assert [event["event"] for event in memory.events] == ["old", "one", "two"]
    assert client.stats()["delivered"] == 2
    assert "Read-only file system" in caplog.text


@pytest.mark.rule("G-1")
def test_events_are_delivered_although_the_directory_has_become_a_file(
    directory: Path, server: FaultServer
) -> None:
    client = Leanbase("k", server.url, fallback="spool", spool_directory=str(directory))
    directory.rmdir()
    directory.touch()
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1
    assert client.flush()


@pytest.mark.rule("Q-59")
def test_a_capture_in_a_signal_handler_during_a_write_overwrites_nothing(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory, fsync=True))
    original, handlers = os.fsync, [lambda: client.capture("in the handler", distinct_id="u")]

    def fsync(descriptor: int) -> None:
        if handlers:
            handlers.pop()()  # in the same thread, like a signal handler
        original(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        client.capture("interrupted", distinct_id="u", properties={"text": "x" * 5000})
    client.capture("next", distinct_id="u")
    assert client.stats()["spooled"] == 3
    assert client.shutdown()
    assert [event["event"] for event in replay(directory)] == ["interrupted", "in the handler", "next"]
    assert files(directory, ".damaged") == []


def test_after_its_file_was_removed_a_client_writes_a_new_one(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    client.capture("removed", distinct_id="u")
    files(directory)[0].unlink()
    client.capture("stored", distinct_id="u")
    client.shutdown()
    assert [event["event"] for event in replay(directory)] == ["stored"]
