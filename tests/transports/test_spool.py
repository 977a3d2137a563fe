"""The spool: what is in it outlives its process, and is sent once, whoever sends it."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.transports import HttpTransport, MemoryTransport, SpoolTransport
from leanbase.transports.deadline import Deadline
from tests.conftest import balanced
from tests.support.fault_server import Behaviour, FaultServer
from tests.transports.doubles import Failing, events


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def files(directory: Path, suffix: str = ".spool") -> list[Path]:
    return sorted(directory.glob(f"*{suffix}"))


def leave(directory: Path, count: int, name: str = "e") -> None:
    """Leave events behind, as a process does that cannot send."""
    client = Leanbase(transport=SpoolTransport(directory))
    for number in range(count):
        assert client.capture(name, distinct_id=number)
    assert client.stats()["spooled"] == count
    assert balanced(client)
    client.shutdown()


def replayed(directory: Path, **options: Any) -> list[dict[str, Any]]:
    memory = MemoryTransport()
    SpoolTransport(directory, memory, **options).flush(deadline=Deadline.after(10))
    return memory.events


def test_what_one_process_leaves_the_next_send_takes_oldest_first(directory: Path) -> None:
    leave(directory, 3, "older")
    leave(directory, 2, "newer")
    memory = MemoryTransport()
    client = Leanbase(transport=SpoolTransport(directory, memory))
    client.capture("own", distinct_id="u")
    assert [event["event"] for event in memory.events] == ["older"] * 3 + ["newer"] * 2 + ["own"]
    assert client.stats()["delivered"] == 1
    assert balanced(client)
    client.shutdown()
    assert list(directory.iterdir()) == []


def test_files_are_private(directory: Path) -> None:
    leave(directory, 1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(directory)] == [0o600]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigError, match="mode 0700"):
        SpoolTransport(directory)


def test_a_link_is_refused(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        SpoolTransport(directory)


def test_links_and_strange_files_in_it_are_not_followed(directory: Path, tmp_path: Path) -> None:
    leave(directory, 1)
    (tmp_path / "target").write_bytes(files(directory)[0].read_bytes())
    (directory / "0.spool").symlink_to(tmp_path / "target")
    os.mkfifo(directory / "1.spool", 0o600)
    os.close(os.open(directory / "1.spool", os.O_RDWR | os.O_NONBLOCK))
    assert len(replayed(directory)) == 1
    assert (tmp_path / "target").exists()


def test_as_a_fallback_it_takes_what_was_not_delivered_and_gives_it_back(
    directory: Path, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(Behaviour(status=503))
    options: dict[str, Any] = {"fallback": "spool", "spool_directory": directory, "max_retries": 0}
    client = Leanbase("k", server.url, **options)
    for number in range(2):
        client.capture("while away", distinct_id=number)
    assert client.stats()["spooled"] == 2
    assert f"1 event(s) are stored in {directory} until the next send" in caplog.text
    server.always(Behaviour())
    refused = len(server.events)
    client.capture("back", distinct_id="u")
    assert [event["event"] for event in server.events[refused:]] == ["while away"] * 2 + ["back"]
    assert client.stats()["delivered"] == 1
    assert client.stats()["spooled"] == 2
    assert balanced(client)
    assert client.shutdown()
    assert list(directory.iterdir()) == []


def test_what_one_project_leaves_no_other_sends(directory: Path, server: FaultServer) -> None:
    def client(api_key: str | None) -> Leanbase:
        host = server.url if api_key else None
        return Leanbase(api_key, host, transport="spool", spool_directory=str(directory), max_retries=0)

    server.always(Behaviour(status=503))
    for key in ("phc_one", "phc_two", None):
        one = client(key)
        assert one.capture(f"of {key}", distinct_id="u")
        assert one.stats()["spooled"] == 1
        one.shutdown()
    assert not any("phc" in path.name for path in files(directory))
    server.always(Behaviour())
    del server.requests[:]
    assert client("phc_one").flush()
    assert [event["event"] for event in server.events] == ["of phc_one", "of None"]
    assert {request.envelope["api_key"] for request in server.requests} == {"phc_one"}
    assert client("phc_two").flush()
    assert server.events[-1]["event"] == "of phc_two"
    assert server.requests[-1].envelope["api_key"] == "phc_two"
    assert files(directory) == []


def test_while_the_server_is_away_nothing_is_sent_out_of_order(directory: Path) -> None:
    inner = Switch()
    client = Leanbase(transport=SpoolTransport(directory, inner))
    inner.is_away = True
    for number in range(5):
        client.capture("e", distinct_id=number)
    inner.is_away = False
    client.capture("e", distinct_id=5)
    assert [event["distinct_id"] for event in inner.events] == [str(number) for number in range(6)]


class Switch(MemoryTransport):
    is_away = False

    def send(self, events: Any, *, deadline: Deadline) -> Any:
        if self.is_away:
            return Failing().send(events, deadline=deadline)
        return super().send(events, deadline=deadline)


def test_a_torn_last_line_is_passed_over(directory: Path) -> None:
    leave(directory, 3)
    (path,) = files(directory)
    path.write_bytes(path.read_bytes()[:-20])
    assert [event["distinct_id"] for event in replayed(directory)] == ["0", "1"]
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b"{}\n", b'{"event":"e"}\n', b'"text"\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"]
)
def test_lines_that_are_no_events_are_passed_over_and_the_file_set_aside(
    directory: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave(directory, 2)
    (path,) = files(directory)
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first + damage + second)
    assert [event["distinct_id"] for event in replayed(directory)] == ["0", "1"]
    assert files(directory) == []
    assert len(files(directory, ".damaged")) == 1
    assert "a damaged spool file was renamed" in caplog.text


def test_a_file_with_a_strange_header_is_set_aside(directory: Path) -> None:
    leave(directory, 1)
    (directory / "0.spool").write_bytes(b"what is this?\n" * 10)
    assert len(replayed(directory)) == 1
    assert len(files(directory, ".damaged")) == 1


def test_what_is_in_a_file_cannot_spoil_a_batch(directory: Path) -> None:
    """Valid JSON that the server would refuse, and with it all that is sent along."""
    leave(directory, 1)
    (path,) = files(directory)
    header, line = path.read_bytes().splitlines(keepends=True)
    event = json.loads(line)
    spoilt = [
        json.dumps({**event, "properties": {"half": "\ud83d"}}),
        json.dumps({**event, "properties": {"not a number": float("nan")}}),
        json.dumps({**event, "uuid": "none"}),
    ]
    path.write_bytes(header + "".join(f"{each}\n" for each in spoilt).encode() + line)
    found = replayed(directory)
    assert len(found) == 4
    json.dumps(found, allow_nan=False).encode()


def test_its_size_is_bounded(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory, max_bytes=5000))
    for number in range(50):
        client.capture("e", distinct_id=number)
    assert sum(path.stat().st_size for path in files(directory)) <= 5000
    assert 0 < client.stats()["spooled"] < 50
    assert client.stats()["retained"] == 50 - client.stats()["spooled"]
    assert balanced(client)


def test_a_directory_that_vanished_is_made_anew(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    directory.rmdir()
    client.capture("e", distinct_id="u")
    assert client.stats()["spooled"] == 1
    assert len(replayed_after(client, directory)) == 1


def replayed_after(client: Leanbase, directory: Path) -> list[dict[str, Any]]:
    client.shutdown()
    return replayed(directory)


def test_a_running_process_keeps_its_file(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    client.capture("e", distinct_id="u")
    assert replayed(directory) == []
    assert len(replayed_after(client, directory)) == 1


def test_threads_share_one_file_and_nothing_is_sent_twice(directory: Path) -> None:
    inner = Switch()
    client = Leanbase(transport=SpoolTransport(directory, inner))

    def work(name: int) -> None:
        for number in range(50):
            inner.is_away = random.random() < 0.3
            client.capture("e", distinct_id=f"{name}-{number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inner.is_away = False
    client.flush()
    ids = [event["distinct_id"] for event in inner.events]
    assert len(ids) == len(set(ids)) == 200
    assert balanced(client)


def test_processes_that_replay_at_once_never_send_the_same_file(directory: Path, server: FaultServer) -> None:
    for number in range(20):
        leave(directory, 5, f"left {number}")
    script = (
        "import sys\nfrom leanbase.transports import Deadline\n"
        "from leanbase.transports import HttpTransport, SpoolTransport\n"
        "spool = SpoolTransport(sys.argv[1], HttpTransport('k', sys.argv[2]))\n"
        "spool.flush(deadline=Deadline.after(20))\n"
    )
    command = [sys.executable, "-c", script, str(directory), server.url]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0, 0, 0, 0]
    uuids = [event["uuid"] for event in server.events]
    assert len(uuids) == len(set(uuids)) == 100
    assert list(directory.iterdir()) == []


@pytest.mark.rule("Q-60")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_a_file_of_its_own(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    client.capture("parent", distinct_id="u")
    pid = os.fork()
    if not pid:
        client.capture("child", distinct_id="u")
        os._exit(0 if client.stats()["captured"] == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert [event["event"] for event in replayed(directory)] == ["child"]  # the parent's is still locked
    client.shutdown()
    assert [event["event"] for event in replayed(directory)] == ["parent"]


LOOP = """
import sys
from leanbase import Leanbase
from leanbase.transports import HttpTransport, SpoolTransport
inner = HttpTransport("k", sys.argv[2], max_retries=0) if sys.argv[2] else None
client = Leanbase(transport=SpoolTransport(sys.argv[1], inner), send_deadline=5)
number = 0
while True:
    uuid = client.capture("e", distinct_id=number)
    sys.stdout.write(f"{uuid}\\n")  # one write a line
    sys.stdout.flush()
    number += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(("serves", "kills"), [("nobody", 100), ("server", 100)])
def test_killed_at_random_moments_it_loses_nothing(
    directory: Path, server: FaultServer, serves: str, kills: int
) -> None:
    """Every event whose capture() had returned arrives; what was on its way comes again with its uuid."""
    random.seed(7)
    returned: set[str] = set()
    batches = max(1, kills // 4)
    for _ in range(batches):
        command = [sys.executable, "-c", LOOP, str(directory), server.url if serves == "server" else ""]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        for process in processes:
            assert process.stdout is not None
            returned.add(process.stdout.readline().strip())  # it has begun
        for process in processes:
            time.sleep(random.random() * 0.02)
            process.send_signal(signal.SIGKILL)
        for process in processes:
            output, _ = process.communicate()
            returned.update(line for line in output.split("\n")[:-1] if line)
    last = Leanbase(transport=SpoolTransport(directory, HttpTransport("k", server.url)))
    assert last.flush(timeout=30)
    whole = [request for request in server.requests if request.raw]  # others were killed in the middle
    arrived = [event["uuid"] for request in whole for event in request.events]
    assert returned <= set(arrived)
    assert len(returned) > kills
    twice = len(arrived) - len(set(arrived))
    assert twice <= kills  # at most what was on its way
    assert files(directory) == []


def test_events_that_are_refused_for_good_do_not_stay(directory: Path, server: FaultServer) -> None:
    leave(directory, 2)
    server.always(Behaviour(status=400))
    SpoolTransport(directory, HttpTransport("k", server.url)).flush(deadline=Deadline.after(5))
    assert list(directory.iterdir()) == []


def test_an_expired_deadline_leaves_everything_where_it_is(directory: Path) -> None:
    leave(directory, 2)
    memory = MemoryTransport()
    receipt = SpoolTransport(directory, memory).send(events(1), deadline=Deadline.after(0))
    assert receipt.spooled == 1
    assert memory.events == []
    assert len(files(directory)) == 2


class Gated(MemoryTransport):
    """Each send tells that it has begun and waits to be let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def send(self, events: Any, *, deadline: Deadline) -> Any:
        self.begun.release()
        assert self.go_on.acquire(timeout=20)
        return super().send(events, deadline=deadline)


def capturing(client: Leanbase, name: str, **properties: Any) -> threading.Thread:
    thread = threading.Thread(
        target=client.capture, args=(name,), kwargs={"distinct_id": "u", "properties": properties}
    )
    thread.start()
    return thread


@pytest.mark.parametrize("end", ["shutdown", "disconnect"])
def test_closed_while_another_thread_sends_it_keeps_the_file_open_for_it(directory: Path, end: str) -> None:
    """Its descriptor may be another file's by the time the send is done with."""
    inner = Gated()
    client = Leanbase(transport=SpoolTransport(directory, inner))
    sender = capturing(client, "e")
    assert inner.begun.acquire(timeout=20)
    getattr(client, end)(timeout=0.05)
    with (directory / "others").open("w+b") as other:
        other.write(b"X" * 60)
        other.flush()
        inner.go_on.release(10)
        sender.join()
        other.seek(0)
        assert other.read() == b"X" * 60
    assert client.stats()["delivered"] == 1
    assert files(directory) == []


def test_released_while_others_wait_for_their_turn_it_loses_none(directory: Path) -> None:
    inner = Gated()
    client = Leanbase(transport=SpoolTransport(directory, inner))
    threads = [capturing(client, "a", text="x" * 100)]
    assert inner.begun.acquire(timeout=20)
    threads.append(capturing(client, "b", text="x" * 3000))
    while files(directory)[0].stat().st_size < 3000:
        time.sleep(0.01)
    client.disconnect(timeout=0.01)
    threads.append(capturing(client, "c"))
    while len(files(directory)) < 2:
        time.sleep(0.01)
    inner.go_on.release(100)
    for thread in threads:
        thread.join()
    for name in "de":
        client.capture(name, distinct_id="u")
    assert client.shutdown()
    assert {event["event"] for event in inner.events} == set("abcde")
    assert len({event["uuid"] for event in inner.events}) == 5
    assert balanced(client)
    assert files(directory) == []


def test_a_client_without_a_key_sends_nobody_elses_events(directory: Path) -> None:
    leaving = Leanbase("phc_one", transport=Failing(), fallback="spool", spool_directory=str(directory))
    assert leaving.capture("of one", distinct_id="u")
    assert leaving.stats()["spooled"] == 1
    leaving.shutdown()
    memory = MemoryTransport()
    keyless = Leanbase(transport=memory, fallback="spool", spool_directory=str(directory))
    keyless.capture("of nobody", distinct_id="u")
    keyless.shutdown()
    assert [event["event"] for event in memory.events] == ["of nobody"]
    assert len(files(directory)) == 1


@pytest.mark.parametrize("broken", ["unlink", "pwrite"])
def test_a_disk_that_fails_stands_in_nobodys_way(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    leave(directory, 1, "old")
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


def test_a_directory_that_is_none_any_more_stands_in_nobodys_way(
    directory: Path, server: FaultServer
) -> None:
    client = Leanbase("k", server.url, fallback="spool", spool_directory=str(directory))
    directory.rmdir()
    directory.touch()
    client.capture("e", distinct_id="u")
    assert client.stats()["delivered"] == 1
    assert client.flush()


def test_a_signal_handler_that_captures_during_a_write_overwrites_nothing(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory, fsync=True))
    real, left = os.fsync, [lambda: client.capture("in the handler", distinct_id="u")]

    def fsync(descriptor: int) -> None:
        if left:
            left.pop()()  # as a signal handler does, in the same thread
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        client.capture("interrupted", distinct_id="u", properties={"text": "x" * 5000})
    client.capture("next", distinct_id="u")
    assert client.stats()["spooled"] == 3
    assert client.shutdown()
    assert [event["event"] for event in replayed(directory)] == ["interrupted", "in the handler", "next"]
    assert files(directory, ".damaged") == []


def test_a_file_that_somebody_removed_is_not_written_to(directory: Path) -> None:
    client = Leanbase(transport=SpoolTransport(directory))
    client.capture("removed", distinct_id="u")
    files(directory)[0].unlink()
    client.capture("kept", distinct_id="u")
    client.shutdown()
    assert [event["event"] for event in replayed(directory)] == ["kept"]
