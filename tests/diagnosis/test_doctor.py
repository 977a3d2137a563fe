"""`leanbase doctor` against planted faults, each a real one: sockets, certificates, queues, directories."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import leanbase
from leanbase.cli import main
from leanbase.local.server import LocalServer
from leanbase.settings import PACKAGE
from leanbase.transports._spool_file import SUFFIX
from tests.diagnosis.conftest import KEY, Set, failed
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.unreachable import unreachable_url

FLAGS = {"/flags/": Behaviour(body=b'{"flags": {}}')}


def test_all_is_well(set: Set, doctor: Any) -> None:
    with LocalServer() as server:
        set(host=server.url)
        code, steps = doctor("--send")
        assert code == 0
        assert {step["status"] for step in steps.values()} == {"ok"}
        assert list(steps) == ["settings", "host", "proxy", "dns", "tcp", "endpoint", "key", "clock", "send"]
        (event,) = server.store.events()
        assert event["event"] == "leanbase doctor"
        assert event["properties"]["$process_person_profile"] is False
        assert doctor()[0] == 0
        assert len(server.store.events()) == 1, "without --send nothing is stored"


def test_1_no_key(set: Set, doctor: Any) -> None:
    set(api_key=None, host="http://127.0.0.1:1")
    code, steps = doctor()
    assert code == 1
    assert steps["settings"]["found"] == "api_key is not set"
    assert "LEANBASE_API_KEY" in steps["settings"]["advice"]


def test_2_a_host_that_is_no_url(set: Set, doctor: Any) -> None:
    set(host="leanbase.example.com")
    assert "host must be an http(s) URL" in doctor()[1]["settings"]["found"]


def test_3_a_secret_key_in_the_wrong_place(set: Set, doctor: Any, server: FaultServer) -> None:
    server.routes.update(FLAGS)
    set(host=server.url, api_key="phs_secret")
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["key"])
    assert steps["key"]["found"] == "api_key is set to a secret key"
    assert not server.requests, "it is not sent to find out"


def test_the_key_and_the_host_have_a_place(set: Set, doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    set(host="http://127.0.0.1:9")
    found = doctor()[1]["settings"]["found"]
    assert found == "transport http, host from LEANBASE_HOST, key from LEANBASE_API_KEY"
    monkeypatch.setenv("LEANBASE_PROJECT_API_KEY", "phc_other")
    leanbase.host = "http://127.0.0.1:9"
    found = doctor()[1]["settings"]["found"]
    assert found == f"transport http, host from {PACKAGE}.host, key from LEANBASE_PROJECT_API_KEY"
    leanbase.api_key = "phc_third"
    assert doctor()[1]["settings"]["found"].endswith(f"key from {PACKAGE}.api_key")


def test_4_a_client_that_is_disabled(set: Set, doctor: Any) -> None:
    set(host="http://127.0.0.1:1", disabled="true")
    assert doctor()[1]["settings"]["found"] == "the client sends nothing: disabled"


def test_a_client_that_is_disabled_sends_no_event(set: Set, capfd: pytest.CaptureFixture[str]) -> None:
    set(transport="log", disabled="true")
    assert "send" not in [step.name for step in leanbase.doctor(send=True).steps]
    assert capfd.readouterr().out == ""
    set(disabled="false")
    assert leanbase.doctor(send=True).steps[-1].found == "the event 'leanbase doctor' was handed off"
    assert '"event":"leanbase doctor"' in capfd.readouterr().out


def test_a_fallback_that_fails_does_not_stop_the_send(set: Set, doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a directory")
    with LocalServer() as server:
        set(host=server.url, fallback="spool", spool_directory=str(tmp_path / "spool"))
        steps = doctor("--send")[1]
    assert steps["spool"]["status"] == "failed"
    assert steps["send"]["status"] == "ok"


def test_5_a_host_name_that_does_not_exist(set: Set, doctor: Any) -> None:
    set(host="https://leanbase.invalid")
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["dns"])
    assert "leanbase.invalid cannot be resolved" in steps["dns"]["found"]


def test_6_a_port_where_nobody_listens(set: Set, doctor: Any) -> None:
    set(host="http://127.0.0.1:9")
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["tcp"])
    assert "Connection refused" in steps["tcp"]["found"]


@pytest.mark.slow
def test_7_a_host_without_a_route(set: Set, doctor: Any) -> None:
    with unreachable_url() as url:
        set(host=url)
        code, steps = doctor()
    assert (code, failed(steps)) == (1, ["tcp"])
    assert "does not answer in 3 s" in steps["tcp"]["found"]
    assert "security group" in steps["tcp"]["advice"]


@pytest.fixture
def tls_server() -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    running = FaultServer(tls=context)
    yield running
    running.stop()


def test_8_a_certificate_that_is_not_trusted(set: Set, doctor: Any, tls_server: FaultServer) -> None:
    set(host=tls_server.url)
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["tls"])
    assert "certificate verify failed" in steps["tls"]["found"]
    assert "SSL_CERT_FILE" in steps["tls"]["advice"]


def test_9_https_to_a_port_without_tls(set: Set, doctor: Any, server: FaultServer) -> None:
    set(host=server.url.replace("http:", "https:"))
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["tls"])
    assert "is the port one of an https:// server?" in steps["tls"]["advice"]


def test_10_a_proxy_that_does_not_answer(set: Set, doctor: Any, server: FaultServer) -> None:
    set(host="http://leanbase.example.com", HTTP_PROXY="http://user:secret@127.0.0.1:9")
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["tcp"])
    assert steps["proxy"]["found"] == "through http://127.0.0.1:9, from the environment"
    assert "port 9 of the proxy cannot be reached" in steps["tcp"]["found"]


def test_11_a_proxy_that_is_no_url(set: Set, doctor: Any) -> None:
    set(host="http://leanbase.example.com", HTTP_PROXY="socks5://127.0.0.1:9")
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["proxy"])
    warned = [name for name, step in steps.items() if step["status"] == "warning"]
    assert warned == ["host"], "http:// is said once"


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        (Behaviour(status=404), "responds with 404"),
        (Behaviour(status=501), "responds with 501"),
        (
            Behaviour(status=301, headers={"Location": "https://www.example.com/"}),
            "a redirect to www.example.com",
        ),
        (Behaviour(status=503), "responds with 503"),
        (Behaviour(body=b"<html>", headers={"Content-Type": "text/html"}), "with an HTML page"),
        (Behaviour(instead="reset"), "ConnectionResetError"),
    ],
    ids=["404", "501", "redirect", "503", "page", "reset"],
)
def test_12_an_endpoint_that_is_another(
    behaviour: Behaviour, found: str, set: Set, doctor: Any, server: FaultServer
) -> None:
    server.always(behaviour)
    set(host=server.url)
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["endpoint"])
    assert found in steps["endpoint"]["found"]
    assert steps["endpoint"]["advice"]


@pytest.mark.slow
def test_13_a_server_that_accepts_and_does_not_answer(set: Set, doctor: Any, server: FaultServer) -> None:
    server.always(Behaviour(instead="silence"))
    set(host=server.url)
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["endpoint"])
    assert "no response in time" in steps["endpoint"]["found"]


@pytest.mark.parametrize("path", ["/batch/", "/flags/"])
def test_14_a_wrong_key(path: str, set: Set, doctor: Any, server: FaultServer) -> None:
    server.routes[path] = Behaviour(status=401)
    set(host=server.url)
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["key"])
    assert steps["key"]["found"] == "the server rejects the key"


def test_15_a_clock_that_is_wrong(set: Set, doctor: Any, server: FaultServer) -> None:
    server.routes.update(FLAGS)
    server.always(Behaviour(headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}))
    set(host=server.url)
    code, steps = doctor()
    assert code == 0, "a warning"
    assert steps["clock"]["status"] == "warning"
    assert "s ahead of the server's" in steps["clock"]["found"]


def test_18_a_spool_that_others_can_read(set: Set, doctor: Any, server: FaultServer, tmp_path: Path) -> None:
    server.routes.update(FLAGS)
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o755)
    set(host=server.url, fallback="spool", spool_directory=directory)
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["spool"])
    assert "mode 0700" in steps["spool"]["found"]
    directory.chmod(0o700)
    assert doctor()[0] == 0


def test_events_in_the_spool(set: Set, doctor: Any, server: FaultServer, tmp_path: Path) -> None:
    server.routes.update(FLAGS)
    set(host=server.url, fallback="spool", spool_directory=tmp_path)
    tmp_path.chmod(0o700)
    for project, advice in (("f" * 24, ""), ("", "leanbase replay sends what they hold")):
        name = "-".join(filter(None, ("0" * 20, "1", "aaaaaaaa", project))) + SUFFIX
        (tmp_path / name).write_bytes(b"x" * 10)
        spool = doctor()[1]["spool"]
        assert (spool["status"], spool["advice"]) == ("ok", advice), "replay leaves those of other projects"
    assert "2 file(s), 20 bytes" in spool["found"]


def test_19_flag_definitions_that_cannot_be_loaded(
    set: Set, doctor: Any, server: FaultServer, tmp_path: Path
) -> None:
    server.routes.update(FLAGS)
    set(host=server.url, flag_definitions=f"file:{tmp_path}/missing.json")
    code, steps = doctor()
    assert (code, steps["flags"]["status"]) == (0, "warning")
    (tmp_path / "missing.json").write_text('{"flags": []}')
    assert doctor()[1]["flags"]["status"] == "ok"


def test_20_settings_that_are_not_what_they_look_like(set: Set, doctor: Any, server: FaultServer) -> None:
    server.routes.update(FLAGS)
    set(host=server.url, timeout=60, flush_att=7)
    code, steps = doctor()
    assert (code, steps["settings"]["status"]) == (0, "warning")
    assert "timeout (60 s) never applies: send_deadline ends a send after 10 s" in steps["settings"]["advice"]
    assert "did you mean LEANBASE_FLUSH_AT?" in steps["settings"]["advice"]
    set(transport="carrier pigeon")
    assert "transport 'carrier pigeon' is unknown" in doctor()[1]["settings"]["found"]


def test_21_plain_http(set: Set, doctor: Any) -> None:
    with socket.create_server(("", 0)) as listener:
        set(host=f"http://{socket.gethostname()}:{listener.getsockname()[1]}")
        _, steps = doctor()
    assert steps["host"]["status"] == "warning"
    assert "unencrypted" in steps["host"]["advice"]


def test_for_people(set: Set, server: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    set(host="http://127.0.0.1:9")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["ok", "settings", "transport", "http,"]
    assert lines[-2].startswith("failed   tcp")
    assert lines[-1].strip() == "-> is it the right port?"
    assert main(["--quiet", "doctor"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["failed", "->"]


def test_as_data_from_a_handler(set: Set, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    server.routes.update(FLAGS)
    leanbase.host, leanbase.api_key = server.url, KEY
    set(api_key=None)
    diagnosis = leanbase.doctor()
    assert diagnosis
    assert [step.status for step in diagnosis.steps] == ["ok"] * len(diagnosis.steps)
    assert KEY not in repr(diagnosis) + str(diagnosis) + caplog.text
    assert str(diagnosis).startswith("ok ")
    server.always(Behaviour(status=401))
    failing = leanbase.doctor(send=True)
    assert not failing
    statuses = {step.name: step.status for step in failing.steps}
    assert statuses["key"] == "failed"
    assert "send" not in statuses
