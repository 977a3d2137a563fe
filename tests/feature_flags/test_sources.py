"""Where definitions come from: files, stores of AWS, the agent of AppConfig, providers, a file for one host."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.feature_flags import Definitions, DefinitionsSource, SourceError
from leanbase.feature_flags.definitions import host_hash
from leanbase.feature_flags.sources import sources_of
from leanbase.feature_flags.sources.appconfig import AppConfigSource
from leanbase.feature_flags.sources.file import FileSource
from leanbase.feature_flags.sources.s3 import S3Source
from leanbase.settings import PACKAGE, Settings
from leanbase.testing import SourceContract
from leanbase.transports.deadline import Deadline
from tests.feature_flags.conftest import FlagServer, flag
from tests.support.moto_server import CREDENTIALS
from tests.support.threads import run_in_threads

Make = Callable[..., Leanbase]


def bundle(*keys: str, **more: Any) -> bytes:
    definitions = Definitions.from_json({"flags": [flag(key) for key in keys]}, **more)
    return json.dumps(definitions.bundle("https://leanbase.example.com")).encode()


def load(source: DefinitionsSource, known: Definitions | None = None) -> Definitions | None:
    try:
        return source.load(known, deadline=Deadline.after(5))
    finally:
        source.close()


# --- files -----------------------------------------------------------------------------------------------------


class TestFiles(SourceContract):
    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path) -> None:
        self.file = tmp_path / "flags.json"
        self.file.write_bytes(bundle("beta"))

    def make_source(self) -> DefinitionsSource:
        return FileSource(str(self.file))

    def test_a_changed_file_is_read_again(self) -> None:
        source = self.make_source()
        found = load(source)
        self.file.write_bytes(bundle("new", "newer"))
        assert list(load(source, found) or ()) == ["new", "newer"]

    @pytest.mark.parametrize(
        "content", [b"", b"no", b"{}", b'{"flags": [{"id": 1}]}', b'{"leanbase_flags": 2}']
    )
    def test_a_file_without_definitions(self, content: bytes) -> None:
        self.file.write_bytes(content)
        with pytest.raises(SourceError, match="has no definitions in it"):
            load(self.make_source())

    def test_no_file(self) -> None:
        self.file.unlink()
        with pytest.raises(SourceError, match="No such file"):
            load(self.make_source())

    def test_the_answer_of_the_server_is_a_file_too(self) -> None:
        self.file.write_text(json.dumps({"flags": [flag("beta")]}))
        assert list(load(self.make_source()) or ()) == ["beta"]


def test_a_bundle_has_what_evaluation_needs_and_no_more() -> None:
    raw = {**flag("beta"), "name": "Beta", "created_by": {"email": "jo@example.com"}, "created_at": "2026"}
    definitions = Definitions.from_json(
        {"flags": [raw], "cohorts": {}, "other": 1}, etag='"v1"', fetched_at=0.0
    )
    content = definitions.bundle("https://leanbase.example.com/")
    assert content == {
        "leanbase_flags": 1,
        "host_hash": host_hash("https://leanbase.example.com"),
        "fetched_at": "1970-01-01T00:00:00Z",
        "etag": '"v1"',
        "definitions": {"flags": [flag("beta")], "cohorts": {}},
    }
    again = Definitions.from_json(json.dumps(content))
    assert (again.etag, again.fetched_at, list(again)) == ('"v1"', 0.0, ["beta"])


def test_a_bundle_of_another_host_is_used_and_said_once(
    tmp_path: Path, flags: FlagServer, client_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "flags.json"
    path.write_bytes(bundle("beta"))
    client = client_of(flags, flag_definitions=f"file:{path}")
    for _ in range(2):
        assert client.get_all_flags("u") == {"beta": True}
    assert caplog.text.count("another host") == 1


def test_a_bundle_with_an_etag_makes_the_first_question_cheap(
    tmp_path: Path, flags: FlagServer, client_of: Make
) -> None:
    path = tmp_path / "flags.json"
    path.write_bytes(bundle("beta", etag='"v1"', fetched_at=time.time() - 1000))
    flags.serve_definitions(status=304, respond=None, body=b"")
    client = client_of(flags, secret_key="phs_secret", flag_definitions=f"api,file:{path}")
    assert client.get_all_flags("u") == {"beta": True}
    (request,) = flags.to("/flags")
    assert request.headers["if-none-match"] == '"v1"'


# --- names --------------------------------------------------------------------------------------------------


class Constant(DefinitionsSource):
    """A source of an application."""

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        return None if known else Definitions.from_json({"flags": [flag("constant")]})


@pytest.mark.parametrize(
    "given", [f"{__name__}:Constant", Constant(), [Constant()], (f"{__name__}:Constant",)]
)
def test_sources_of_the_application(given: Any, flags: FlagServer, client_of: Make) -> None:
    assert client_of(flags, flag_definitions=given).get_all_flags("u") == {"constant": True}


@pytest.mark.parametrize("given", ["redis://localhost", "flags.json", "s3:", "api,,nothing", ["api", "x y"]])
def test_an_unknown_name_is_an_error_when_the_client_is_made(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"flag_definitions .* is unknown: use api, file:"):
        Leanbase("phc_test", "http://127.0.0.1:9", flag_definitions=given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("no_such_module:Class", "cannot be created: ModuleNotFoundError"),
        ("api", "host, api_key and secret_key are needed"),
        ("s3://bucket", "must be s3://bucket/key"),
        ("s3://bucket/key", "needs a region: set AWS_REGION"),
        ("dynamodb://table", "must be dynamodb://table/key"),
        ("appconfig://app/env", "must be appconfig://application/environment/profile"),
        (7, "not int"),
    ],
)
def test_a_source_that_cannot_be_created_is_said_and_the_server_is_asked(
    given: Any, text: str, flags: FlagServer, client_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    flags.remote = {"beta": {"key": "beta", "value": "remote"}}
    client = client_of(flags, flag_definitions=given)
    assert client.get_all_flags("u") == {"beta": "remote"}
    assert text in caplog.text


def test_options_have_the_names_of_others_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Settings.resolve({"poll_interval": 30, "feature_flags_request_timeout_seconds": 2})
    assert (found.flags_ttl, found.flags_timeout) == (30, 2)
    monkeypatch.setenv("LEANBASE_FEATURE_FLAGS_REQUEST_TIMEOUT_SECONDS", "1.5")
    assert Settings.resolve({}).flags_timeout == 1.5
    monkeypatch.setenv("LEANBASE_FLAG_DEFINITIONS", "s3://b/k,file:flags.json")
    assert Settings.resolve({}).flag_definitions == "s3://b/k,file:flags.json"
    leanbase.poll_interval = 20  # type: ignore[attr-defined]
    assert Settings.resolve({}).flags_ttl == 20
    del leanbase.poll_interval  # type: ignore[attr-defined]


def test_the_secret_s_name_elsewhere_is_said_and_no_public_option_is_suggested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TypeError, match="called secret_key here") as raised:
        Settings.resolve({"personal_api_key": "phs_0815"})
    monkeypatch.setenv("LEANBASE_PERSONAL_API_KEY", "phs_0815")
    monkeypatch.setattr(leanbase, "personal_api_key", "phs_0815", raising=False)
    found = Settings.resolve({})
    assert found.secret_key is None
    assert "LEANBASE_PERSONAL_API_KEY is not an option: the key" in caplog.text
    assert f"{PACKAGE}.personal_api_key is not an option: the key" in caplog.text
    for text in (str(raised.value), caplog.text):
        assert "did you mean" not in text
        assert "phs_0815" not in text
    assert "phs_0815" not in repr(Settings.resolve({"secret_key": "phs_0815"}))


# --- AWS -------------------------------------------------------------------------------------------------------


def test_the_places_of_aws_s_own_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    assert S3Source("//bucket/a b.json")._url == "https://bucket.s3.eu-west-1.amazonaws.com/a%20b.json"
    assert S3Source("//my.bucket/k")._url == "https://s3.eu-west-1.amazonaws.com/my.bucket/k"


class Agent:
    """AppConfig's agent, as it answers on localhost."""

    def __init__(self) -> None:
        self.content, self.version, self.status = bundle("beta"), "1", 200
        self.paths: list[str] = []
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                agent.paths.append(self.path)
                self.send_response(agent.status)
                self.send_header("Configuration-Version", agent.version)
                self.send_header("Content-Length", str(len(agent.content)))
                self.end_headers()
                self.wfile.write(agent.content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


class TestAppConfig(SourceContract):
    @pytest.fixture(autouse=True)
    def agent(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.running = Agent()
        monkeypatch.setenv("AWS_APPCONFIG_EXTENSION_HTTP_PORT", str(self.running.http.server_port))
        yield
        self.running.http.shutdown()
        self.running.http.server_close()

    def make_source(self) -> AppConfigSource:
        return AppConfigSource("//shop/prod/flags")

    def test_a_version_is_read_once(self) -> None:
        source = self.make_source()
        found = load(source)
        assert self.running.paths == ["/applications/shop/environments/prod/configurations/flags"]
        assert load(source, found) is None
        self.running.version, self.running.content = "2", bundle("new")
        assert list(load(source, found) or ()) == ["new"]

    def test_it_fails(self) -> None:
        self.running.status = 404
        with pytest.raises(SourceError, match="agent responded with 404"):
            load(self.make_source())


# --- providers of posthog-python ---------------------------------------------------------------------------------


class Provider:
    """A cache with the four methods."""

    def __init__(self, data: Any = None, fetches: bool = True) -> None:
        self.data, self.fetches = data, fetches
        self.received: list[Any] = []

    def should_fetch_flag_definitions(self) -> bool:
        return self.fetches

    def get_flag_definitions(self) -> Any:
        if isinstance(self.data, Exception):
            raise self.data
        return self.data

    def on_flag_definitions_received(self, data: Any) -> None:
        self.received.append(data)

    def shutdown(self) -> None:
        pass


class AsyncProvider(Provider):
    async def get_flag_definitions(self) -> Any:
        return self.data


def test_a_provider_that_fetches_gets_what_was_loaded(flags: FlagServer, client_of: Make) -> None:
    provider = Provider()
    client = client_of(flags, secret_key="phs_secret", flag_definitions=provider)
    assert client.get_all_flags("u") == {"beta": True}
    assert [each["key"] for each in provider.received[0]["flags"]] == ["beta"]


@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
def test_a_provider_that_reads_its_cache(kind: Any, flags: FlagServer, client_of: Make) -> None:
    provider = kind({"flags": [flag("cached")]}, fetches=False)
    client = client_of(flags, secret_key="phs_secret", flag_definitions=provider)
    assert client.get_all_flags("u") == {"cached": True}
    assert flags.to("/flags") == []


@pytest.mark.parametrize("data", [None, RuntimeError()])
def test_an_empty_or_broken_cache_is_filled_from_the_server(
    data: Any, flags: FlagServer, client_of: Make
) -> None:
    client = client_of(flags, secret_key="phs_secret", flag_definitions=Provider(data, fetches=False))
    assert client.get_all_flags("u") == {"beta": True}


# --- one host ----------------------------------------------------------------------------------------------------


def test_processes_of_one_host_share_one_answer(flags: FlagServer, client_of: Make, tmp_path: Path) -> None:
    from leanbase.feature_flags.flags import forget_stores

    for _ in range(3):
        forget_stores()  # as in another process
        assert client_of(flags, secret_key="phs_secret").get_all_flags("u") == {"beta": True}
    assert len(flags.to("/flags/definitions")) == 1
    (path,) = (tmp_path / "shared").glob("flags-*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "phs_secret" not in path.read_text()
    path.write_text("half of a fi")
    forget_stores()
    assert client_of(flags, secret_key="phs_secret").get_all_flags("u") == {"beta": True}
    assert len(flags.to("/flags/definitions")) == 2


def test_an_old_answer_is_asked_for_by_one_of_them(flags: FlagServer, tmp_path: Path) -> None:
    settings = Settings.resolve(
        {
            "api_key": "phc_test",
            "host": flags.url,
            "secret_key": "phs_secret",
            "spool_directory": str(tmp_path / "shared"),
            "flags_ttl": 0.2,
        }
    )
    (first,) = sources_of(settings)
    assert list(load(first) or ()) == ["beta"]
    time.sleep(0.3)
    flags.serve_definitions(delay=0.2)
    others = [sources_of(settings)[0] for _ in range(4)]
    found: list[Any] = []
    run_in_threads(*[lambda source=source: found.append(load(source)) for source in others])
    assert [list(each or ()) for each in found] == [["beta"]] * 4
    assert len(flags.to("/flags/definitions")) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_a_directory_each_process_asks(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags, secret_key="phs_secret", spool_directory="/proc/nowhere")
    assert client.get_all_flags("u") == {"beta": True}
