"""The local ingestion server: it rejects invalid batches, listens on loopback only, and shows events in a table.

Most tests send raw requests to a `LocalServer` in this process, over a real socket, because a client of the SDK sends
no invalid batch. The tests of the command run `leanbase local`.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import leanbase.local
from leanbase import Leanbase
from leanbase.cli.parsing import PROGRAM
from leanbase.errors import ConfigError
from leanbase.local.faults import Faults
from leanbase.local.server import LocalServer, is_loopback
from leanbase.local.store import Arrival, Store
from leanbase.local.table import render
from leanbase.transports import MemoryTransport

EVENT = {
    "event": "order created",
    "distinct_id": "user_1",
    "uuid": "0198c0de-0000-7000-8000-000000000abc",
    "timestamp": "2026-01-02T03:04:05.123456+00:00",
    "properties": {"total": 42, "$lib": "leanbase-python"},
}
ENVELOPE: dict[str, Any] = {
    "api_key": "phc_x",
    "historical_migration": False,
    "sent_at": "2026-01-02T03:04:05Z",
    "batch": [EVENT],
}


def send(
    server: LocalServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Any]:
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Content-Type": "application/json", **names})
    response = connection.getresponse()
    result = response.status, json.loads(response.read())
    connection.close()
    return result


def post(server: LocalServer, envelope: Any, **headers: str) -> tuple[int, Any]:
    body = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    return send(server, "POST", "/batch/", body, **headers)


def test_a_valid_batch_is_stored_and_listed(local: LocalServer) -> None:
    assert post(local, ENVELOPE) == (200, {"status": 1})
    assert post(local, gzip.compress(json.dumps(ENVELOPE).encode()), Content_Encoding="gzip")[0] == 200
    status, body = send(local, "GET", "/events")
    (event,) = body["events"]
    assert status == 200
    assert {name: event[name] for name in EVENT} == EVENT
    assert event["times_received"] == 2
    assert event["request"] == 1
    assert send(local, "GET", f"/events?after={event['id']}")[1] == {"events": []}
    assert send(local, "DELETE", "/events")[0] == 200
    assert local.store.events() == []


def changed(**changes: Any) -> dict[str, Any]:
    """Return a batch with one event, with changes to its keys."""
    return {**ENVELOPE, "batch": [{**EVENT, **changes}]}


def without(name: str) -> dict[str, Any]:
    """Return a batch with one event, without one of its keys."""
    return {**ENVELOPE, "batch": [{key: value for key, value in EVENT.items() if key != name}]}


REJECTED: list[tuple[str, Any, str]] = [
    ("no distinct_id", without("distinct_id"), "distinct_id"),
    ("empty distinct_id", changed(distinct_id=""), "distinct_id"),
    ("numeric distinct_id", changed(distinct_id=7), "distinct_id"),
    ("no name", without("event"), "event"),
    ("invalid uuid", changed(uuid="7"), "uuid"),
    ("local timestamp", changed(timestamp="2026-01-02T03:04:05+02:00"), "timestamp"),
    ("no properties", without("properties"), "properties"),
    ("event that is not an object", {**ENVELOPE, "batch": ["event"]}, "batch[0]"),
    ("empty batch", {**ENVELOPE, "batch": []}, "non-empty array"),
    ("no batch", {**ENVELOPE, "batch": None}, "non-empty array"),
    ("numeric API key", {**ENVELOPE, "api_key": 7}, "api_key"),
    (
        "sentAt instead of sent_at",
        {**{k: v for k, v in ENVELOPE.items() if k != "sent_at"}, "sentAt": "x"},
        "sent_at",
    ),
    ("string instead of a boolean", {**ENVELOPE, "historical_migration": "false"}, "historical_migration"),
    ("NaN", json.dumps(changed(properties={"n": float("nan")})).encode(), "NaN"),
    ("Infinity", json.dumps(changed(properties={"n": float("-inf")})).encode(), "Infinity"),
    ("lone surrogate", json.dumps(changed(properties={"s": "\ud800"})).encode(), "surrogate"),
    ("lone surrogate in a key", json.dumps(changed(properties={"\udfff": 1})).encode(), "surrogate"),
    ("not UTF-8", b'{"api_key":"\xff"}', "UTF-8"),
    ("duplicate key", b'{"api_key":"a","api_key":"b"}', "twice"),
    ("invalid JSON", b"api_key=x", "not JSON"),
    ("array instead of an object", b"[]", "object"),
    ("200 levels", json.dumps(changed(properties=json.loads("[" * 200 + "]" * 200))).encode(), "deep"),
    ("100,000 levels", b"[" * 100_000, "deep"),
]


@pytest.mark.parametrize(
    ("batch", "reason"), [case[1:] for case in REJECTED], ids=[case[0] for case in REJECTED]
)
def test_a_batch_that_the_ingestion_endpoint_rejects_is_rejected_with_the_reason(
    batch: Any, reason: str, local: LocalServer
) -> None:
    status, body = post(local, batch)
    assert status == 400
    assert reason in body["error"]
    assert local.store.events() == []


def test_other_invalid_requests_are_rejected(local: LocalServer) -> None:
    assert post(local, {**ENVELOPE, "api_key": ""})[0] == 401
    assert send(local, "POST", "/batch", b"{}")[0] == 404
    assert send(local, "GET", "/nothing")[0] == 404
    assert send(local, "PUT", "/faults", b"[]")[0] == 400
    assert send(local, "PUT", "/faults", b'{"reject_key": "k"}')[0] == 400
    assert send(local, "PUT", "/faults", b'{"status": true}')[0] == 400
    assert send(local, "PUT", "/faults", b'{"status": 99}')[0] == 400
    assert send(local, "DELETE", "/batch/")[0] == 404
    assert send(local, "GET", "/events?after=x")[0] == 400
    assert post(local, b"{}", Content_Type="text/plain")[0] == 415
    assert post(local, b"{}", Content_Encoding="br")[0] == 415
    assert post(local, b"plain", Content_Encoding="gzip")[0] == 400
    assert post(local, gzip.compress(b"{}")[:-4], Content_Encoding="gzip")[0] == 400


def test_a_failure_of_the_store_is_status_500(local: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("leanbase.local.store.Store.add", fail)
    status, body = post(local, ENVELOPE)
    assert status == 500
    assert body["error"] == "the local server failed: OperationalError"


def test_a_decompression_bomb_is_rejected(local: LocalServer) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(compressor.compress(b" " * 1_000_000) for _ in range(30)) + compressor.flush()
    status, body = post(local, bomb, Content_Encoding="gzip")
    assert status == 413
    assert "too large" in body["error"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "10.0.0.1"])
def test_a_request_for_another_host_is_rejected(host: str, local: LocalServer) -> None:
    """A web page whose host name is resolved to 127.0.0.1 (DNS rebinding) cannot read events."""
    status, body = send(local, "GET", "/events", Host=host)
    assert status == 403
    assert "events" not in body


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_beyond_loopback_a_token_guards_the_server(host: str) -> None:
    with LocalServer(host) as server:
        token = server.url.rpartition("/")[2]
        assert len(token) >= 20
        port = int(server.url.split(":")[2].partition("/")[0])
        client = Leanbase("k", f"http://127.0.0.1:{port}/{token}")
        client.capture("e", distinct_id="u")
        assert client.stats()["delivered"] == 1

        def status(path: str, method: str = "GET") -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, headers={"Host": "any.example"})
            response = connection.getresponse()
            response.read()
            connection.close()
            return response.status

        for path in (
            "/",
            "/events",
            "/events/stream",
            "/page.js",
            f"/{token[:-1]}/",
            f"/{token}x/events",
            "//",
            "",
        ):
            assert status(path) == 404, path
        assert status("/batch/", "POST") == 404
        assert status("/events", "DELETE") == 404
        assert status("/faults", "PUT") == 404
        assert status(f"/{token}") == 308
        for path in ("/", "/events", "/page.js", "/faults"):
            assert status(f"/{token}{path}") == 200
        assert len(server.store.events()) == 1


def test_a_token_may_be_given(tmp_path: Path) -> None:
    with LocalServer(token="a-long-token") as server:
        assert server.url.endswith("/a-long-token")
    for bad in ("short", "has space in it", "slash/slash/slash"):
        with pytest.raises(ConfigError, match="token must have at least 8"):
            LocalServer(token=bad)


def test_all_forms_of_loopback_hosts_are_recognised() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST"]))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_the_server_listens_on_ipv6_loopback() -> None:
    try:
        server = LocalServer("::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    with server:
        client = Leanbase("k", server.url)
        client.capture("e", distinct_id="u")
        assert client.stats()["delivered"] == 1


def test_events_in_a_database_file_outlive_the_server_and_are_private(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    for expected in (1, 2):
        with LocalServer(store=Store(path)) as server:
            client = Leanbase("k", server.url)
            client.capture("e", distinct_id="u")
            client.shutdown()
            assert len(server.store.events()) == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_command_prints_its_url_and_the_events_it_receives() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", PROGRAM, "local", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout as output:
        first = output.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found
        client = Leanbase("k", found.group())
        client.capture("signed\x1b[2J up", distinct_id="user_1", properties={"plan": "pro"})
        assert client.stats()["delivered"] == 1
        line = output.readline()
        process.send_signal(signal.SIGINT)
        assert output.readline() == ""
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"
    assert "user_1" in line
    assert "plan=pro" in line
    assert "\x1b" not in line
    assert process.returncode == 0


def test_the_command_rejects_other_addresses_and_ports_in_use(local: LocalServer) -> None:
    port = local.url.rpartition(":")[2]
    for arguments, reason in (
        ("--host 203.0.113.7", "assign requested address"),
        ("--token short", "token must have at least 8"),
        ("--status 99", "status must be from 200 to 599"),
        ("--delay -1", "delay must be from 0 to 600 seconds"),
        (f"--port {port}", "in use"),
        ("--port 99999", "port"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", PROGRAM, "local", *arguments.split()],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert reason in done.stderr


def test_the_table_shows_an_exception_and_its_place(memory: MemoryTransport) -> None:
    client = Leanbase("phc_test", transport=memory, project_root=str(Path(__file__).parent))
    with contextlib.suppress(ValueError), client.new_context():
        json.loads("{")
    client.capture("$exception", distinct_id="u", properties={"$exception_list": "made by hand"})
    first, second = render(memory.events, 300).splitlines()[2:]
    assert "JSONDecodeError: Expecting property name" in first
    assert "in test_the_table_shows_an_exception_and_its_place" in first
    assert "(error, not handled)" in first
    assert "$exception_list" not in first
    assert "$exception_list=made by hand" in second


def test_the_table_fits_into_its_width_and_has_no_control_characters() -> None:
    table = render(
        [EVENT, {**EVENT, "event": "x" * 60, "properties": {"a\nb": ["\x07"], "$current_url": "u"}}], 100
    )
    lines = table.splitlines()
    assert lines[0].split() == ["time", "event", "distinct", "id", "properties"]
    assert lines[2].split() == ["03:04:05.123", "order", "created", "user_1", "total=42"]
    assert "…" in lines[3]
    assert all(len(line) <= 100 for line in lines)
    assert all(line.isprintable() for line in lines)


def test_an_event_received_again_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalServer(show=True) as server:
        for _ in range(2):
            assert post(server, ENVELOPE)[0] == 200
    first, second = (line for line in capsys.readouterr().out.splitlines() if "order created" in line)
    assert "again" not in first
    assert second.endswith("(again: the same event, counted once)")


# --- flags -----------------------------------------------------------------------------------------------------

DEFINITIONS = {
    "flags": [
        {"id": 1, "key": "beta", "active": True, "version": 2, "filters": {"groups": [{}], "payloads": {"true": "1"}}},
        {"id": 2, "key": "static", "active": True, "filters": {"groups": [{"properties": [{"type": "cohort", "key": "id", "value": 9}]}]}},
    ]
}  # fmt: skip


def test_flags_are_answered_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps(DEFINITIONS))
    with LocalServer(flags=path) as server:
        remote = Leanbase("phc_test", server.url)
        found = remote.evaluate_flags("user_1")
        assert {key: found.get_flag(key) for key in found.keys} == {"beta": True, "static": False}
        assert found.get_flag_payload("beta") == 1
        here = Leanbase("phc_test", server.url, secret_key="phs", spool_directory=str(tmp_path / "shared"))
        assert here.get_all_flags("user_1", only_evaluate_locally=True) == {"beta": True}
        path.write_text(json.dumps({"flags": DEFINITIONS["flags"][1:]}))
        assert list(remote.get_all_flags("user_1")) == ["static"], "the file is read each time"
        remote.shutdown()
        here.shutdown()


def test_a_server_without_flags_has_none(local: LocalServer) -> None:
    client = Leanbase("phc_test", local.url)
    found = client.evaluate_flags("user_1")
    assert (found.keys, found.error) == ([], None)
    client.shutdown()


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": "Bearer phs"}, 404)])
def test_definitions_need_a_secret_and_a_file(
    headers: dict[str, str], status: int, local: LocalServer
) -> None:
    request = urllib.request.Request(
        f"{local.url}/flags/definitions?token=phc_test&send_cohorts", headers=headers
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == status
    error.value.close()


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (Faults(status=503), (503, {"status": 0, "error": "simulated by --status"})),
        (Faults(status=204), (204, None)),
        (Faults(reject="invalid-key"), (401, {"status": 0, "error": "API key invalid"})),
        (Faults(reject="rate-limit"), (429, {"status": 0, "error": "too many requests"})),
        (Faults(reject="quota"), (200, {"status": 1, "quota_limited": ["events"]})),
        (Faults(reject_key="phc_x"), (401, {"status": 0, "error": "API key invalid"})),
        (Faults(reject_key="phc_other"), (200, {"status": 1})),
    ],
)
def test_played_faults_store_nothing(faults: Faults, expected: tuple[int, Any]) -> None:
    with LocalServer(faults=faults) as server:
        status, body = post_raw(server, ENVELOPE)
        assert (status, json.loads(body) if body else None) == expected
        assert len(server.store.events()) == (1 if faults.reject_key == "phc_other" else 0)
        (request,) = server.store.requests()
        assert request["status"] == expected[0]
        assert "phc_" not in json.dumps(request)


def post_raw(server: LocalServer, envelope: Any) -> tuple[int, bytes]:
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/batch/", json.dumps(envelope).encode(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_a_rejected_key_is_rejected_for_flags_too() -> None:
    with LocalServer(faults=Faults(reject_key="phc_x")) as server:
        status, _ = send(
            server, "POST", "/flags/", json.dumps({"api_key": "phc_x", "distinct_id": "u"}).encode()
        )
        assert status == 401


def test_a_delay_comes_after_the_events_are_stored() -> None:
    with LocalServer(faults=Faults(delay=0.4)) as server:
        started = time.monotonic()
        post(server, ENVELOPE)
        assert time.monotonic() - started >= 0.4
        client = Leanbase("k", server.url, timeout=0.2, max_retries=1, send_deadline=1)
        client.capture("e", distinct_id="u")
        stored = [(event["event"], event["times_received"]) for event in server.store.events()]
        assert stored == [("order created", 1), ("e", 2)], "a client that does not wait sends it again"


def test_the_stream_sends_each_arrival_as_it_comes(local: LocalServer) -> None:
    port = int(local.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/events/stream")
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "text/event-stream"
    post(local, ENVELOPE)
    post(local, {**ENVELOPE, "api_key": ""})
    lines: list[str] = []
    while len([line for line in lines if line.startswith("data: ")]) < 3:
        lines.append(response.readline().decode().rstrip())
    first, second, third = (
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")
    )
    assert first["event"] == "order created"
    assert first["properties"] == EVENT["properties"]
    assert (second["status"], second["events"]) == (200, 1)
    assert (third["status"], third["error"]) == (401, "api_key must be a non-empty string")
    assert "id: 1" in lines
    connection.close()
    again = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    post(local, changed(uuid="0198c0de-0000-7000-8000-000000000def"))
    again.request("GET", "/events/stream", headers={"Last-Event-ID": "1"})
    response = again.getresponse()
    while not (line := response.readline().decode()).startswith("data: "):
        pass
    assert json.loads(line.removeprefix("data: "))["id"] == 2, "what came meanwhile is not missed"
    again.close()


def test_responses_have_the_headers_that_keep_the_page_safe(local: LocalServer) -> None:
    for path in ("/", "/page.js", "/events", "/nothing"):
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", int(local.url.rpartition(":")[2]))
        ) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
        assert (response.getheader("Content-Security-Policy") or "").startswith("default-src 'self'")
        assert response.getheader("X-Content-Type-Options") == "nosniff"
    files = list((Path(leanbase.local.__file__).parent / "page").iterdir())
    assert len(files) == 5
    for file in files:
        text = file.read_text()
        assert not re.search(
            r"style=|<script>|<style|\son\w+=\"|innerHTML|eval\(|https?://(?!www.w3.org)", text
        ), file.name


@pytest.mark.parametrize("is_file", [False, True])
def test_a_store_in_memory_keeps_the_newest_events(
    is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanbase.local.store.KEPT_IN_MEMORY", 10)
    kept = Store(tmp_path / "events.db" if is_file else None)
    for number in range(5):
        batch = [
            {
                "event": f"event {number}",
                "distinct_id": "u",
                "uuid": str(UUID(int=number * 10 + position)),
                "timestamp": "2026-01-02T03:04:05Z",
                "properties": {},
            }
            for position in range(4)
        ]
        kept.add({"batch": batch, "historical_migration": False}, Arrival({}))
    names = [event["event"] for event in kept.events()]
    kept.close()
    assert len(names) == (20 if is_file else 10)
    assert names[-1] == "event 4"
