"""The module-level functions and the default client behind them."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import leanbase
from leanbase import default
from leanbase.default import default_client
from leanbase.settings import Settings
from leanbase.transports import MemoryTransport
from tests.support.fault_server import FaultServer
from tests.support.programs import run_program
from tests.support.threads import run_in_threads, start_thread


def configure(server: FaultServer) -> None:
    leanbase.api_key = "phc_module"
    leanbase.host = server.url


@pytest.mark.rule("O-1", "O-5")
def test_options_of_the_module_are_read_at_the_first_use(server: FaultServer) -> None:
    configure(server)
    assert leanbase.capture("e", distinct_id="u") is not None
    assert server.requests[0].envelope["api_key"] == "phc_module"
    assert leanbase.setup() is leanbase.setup() is default_client


@pytest.mark.rule("O-1")
def test_options_are_read_from_environment_variables(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_environment")
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_DISABLE_GEOIP", "false")
    leanbase.capture("e", distinct_id="u")
    assert server.requests[0].envelope["api_key"] == "phc_environment"
    assert "$geoip_disable" not in server.events[0]["properties"]


@pytest.mark.rule("Q-42")
def test_shutdown_after_every_capture_loses_no_event(server: FaultServer) -> None:
    """The documentation tells serverless users to do this."""
    configure(server)
    for number in range(50):
        leanbase.capture("e", distinct_id=number)
        assert leanbase.shutdown()
    assert [event["distinct_id"] for event in server.events] == [str(number) for number in range(50)]


@pytest.mark.rule("Q-42")
def test_captures_that_race_with_shutdown_are_all_delivered(server: FaultServer) -> None:
    configure(server)
    done = threading.Event()

    def shut_down() -> None:
        while not done.is_set():
            leanbase.shutdown()

    def capture() -> None:
        for _ in range(40):
            assert leanbase.capture("e", distinct_id="u") is not None

    closer = start_thread(shut_down)
    run_in_threads(*[capture] * 4)
    done.set()
    closer.join()
    leanbase.shutdown()
    assert len({event["uuid"] for event in server.events}) == len(server.events) == 160


@pytest.mark.rule("C-38", "C-40", "C-41", "H-1")
def test_disabled_debug_and_before_send_take_effect_at_the_next_call(server: FaultServer) -> None:
    configure(server)
    leanbase.capture("first", distinct_id="u")
    leanbase.disabled = True
    assert leanbase.capture("second", distinct_id="u") is None
    assert leanbase.is_opted_out()
    leanbase.disabled = False
    leanbase.before_send = lambda event: {**event, "event": "hooked"}
    leanbase.capture("third", distinct_id="u")
    leanbase.before_send = None
    leanbase.capture("fourth", distinct_id="u")
    leanbase.debug = True
    leanbase.get_tags()
    leanbase.stats()
    assert logging.getLogger("leanbase").level == logging.DEBUG
    assert [event["event"] for event in server.events] == ["first", "hooked", "fourth"]


@pytest.mark.rule("G-1")
def test_the_default_client_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """With an invalid host it logs one error and stays disabled. After a shutdown it reads the options again."""
    leanbase.api_key = "k"
    leanbase.host = "not a url"
    for _ in range(3):
        assert leanbase.capture("e", distinct_id="u") is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    leanbase.shutdown()
    leanbase.transport = memory = MemoryTransport()
    leanbase.host = "https://leanbase.example.com"
    assert leanbase.capture("e", distinct_id="u") is not None
    assert len(memory.events) == 1


@pytest.mark.rule("C-35", "C-36")
def test_opt_out_survives_a_shutdown() -> None:
    """The shutdown at the end of a request must not track an opted-out person again."""
    leanbase.transport = memory = MemoryTransport()
    leanbase.opt_out()
    leanbase.shutdown()
    assert leanbase.capture("e", distinct_id="u") is None
    leanbase.opt_in()
    assert leanbase.capture("e", distinct_id="u") is not None
    assert len(memory.events) == 1


def test_a_delivery_scope_does_not_configure_an_unused_default_client(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that uses only its own client gets no error about the default client's missing key."""
    client = leanbase.Leanbase("k", transport=memory)
    with leanbase.delivery_scope():
        client.capture("e", distinct_id="u")
    assert len(memory.events) == 1
    assert caplog.records == []


@pytest.mark.rule("O-1")
def test_every_option_is_declared_on_the_module() -> None:
    """Editors show the types of the settings for `leanbase.<option>`."""
    source = Path(leanbase.__file__).read_text()
    declared = dict(
        line.strip().split(": ", 1)
        for line in source.splitlines()
        if line.startswith("    ") and ": " in line
    )
    for option in dataclasses.fields(Settings):
        assert declared[option.name] == option.type


@pytest.mark.rule("O-1")
def test_an_unset_option_shows_its_effective_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_TIMEOUT", "2.5")
    assert leanbase.timeout == 2.5
    assert leanbase.max_retries == 3
    assert leanbase.api_key is None
    with pytest.raises(AttributeError, match="no_such_thing"):
        leanbase.no_such_thing  # type: ignore[attr-defined]  # noqa: B018


def test_all_lists_existing_names_in_order() -> None:
    assert leanbase.__all__ == sorted(leanbase.__all__)
    for name in leanbase.__all__:
        assert getattr(leanbase, name) is not None


def output_of(code: str) -> str:
    """Run one or two lines in a new interpreter, and return what they printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.mark.rule("G-7")
def test_importing_has_no_side_effects() -> None:
    done = run_program("tests.programs.import_leanbase")
    assert done.returncode == 0, done.stderr


@pytest.mark.rule("G-7")
def test_capturing_into_memory_does_not_load_the_http_stack() -> None:
    code = (
        "import sys, leanbase\n"
        "leanbase.Leanbase(transport='memory').capture('e', distinct_id='u')\n"
        "print('urllib3' in sys.modules, 'ssl' in sys.modules)"
    )
    assert output_of(code) == "False False"


@pytest.mark.rule("Q-60", "K-7")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_with_empty_counts_and_its_own_connection(server: FaultServer) -> None:
    """Events that the parent has not delivered stay with the parent. The child has no tags, either."""
    done = run_program("tests.programs.default_client_fork", server.url)
    assert (done.returncode, done.stdout) == (0, "parent done\n"), done.stderr
    assert [event["event"] for event in server.events] == ["parent first", "child", "parent collected"]
    by_name = {request.events[0]["event"]: request.connection for request in server.requests}
    assert by_name["child"] != by_name["parent first"] == by_name["parent collected"]


@pytest.mark.rule("G-1")
def test_a_disabled_default_client_reads_its_options_again_at_the_next_call(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A key from a secret store may arrive after the first call. Until then the client is disabled."""
    assert leanbase.capture("early", distinct_id="u") is None
    configure(server)
    assert leanbase.capture("late", distinct_id="u") is not None
    assert [event["event"] for event in server.events] == ["late"]
    assert len(caplog.records) == 1


def test_public_submodules_need_no_import_of_their_own() -> None:
    code = "import leanbase; print(leanbase.settings.Settings.__name__, leanbase.errors.ConfigError.__name__)"
    assert output_of(code) == "Settings ConfigError"


@pytest.mark.rule("G-1", "Q-50")
@pytest.mark.parametrize("before", ["nothing", "an event", "a buffered event"])
def test_a_capture_while_the_interpreter_ends_does_not_raise(before: str, server: FaultServer) -> None:
    done = run_program("tests.programs.capture_at_exit", server.url, before)
    assert (done.returncode, done.stderr) == (0, "")
    delivered = [event["event"] for event in server.events if event["event"] == "e"]
    assert delivered == ["e"] * (before != "nothing")


@pytest.mark.rule("O-5")
def test_an_option_that_is_set_too_late_is_warned_about_once(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    default._warn_of_late_option.cache_clear()
    leanbase.transport = memory
    leanbase.capture("first", distinct_id="u")
    for _ in range(2):
        leanbase.super_properties = {"env": "test"}
        leanbase.something = 7  # type: ignore[attr-defined]
        leanbase.disabled = False
    warnings = [
        each.message
        for each in caplog.records
        if "was set after the default client was created" in each.message
    ]
    assert len(warnings) == 1
    assert "leanbase.super_properties" in warnings[0]
    leanbase.shutdown()
    leanbase.capture("second", distinct_id="u")
    assert memory.events[-1]["properties"]["env"] == "test"
    del leanbase.something  # type: ignore[attr-defined]
