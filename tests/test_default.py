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


def use(server: FaultServer) -> None:
    leanbase.api_key = "phc_module"
    leanbase.host = server.url


def test_module_settings_are_read_at_first_use(server: FaultServer) -> None:
    use(server)
    assert leanbase.capture("e", distinct_id="u") is not None
    assert server.requests[0].envelope["api_key"] == "phc_module"
    assert leanbase.setup() is leanbase.setup() is default_client


def test_settings_come_from_the_environment_too(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_environment")
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_DISABLE_GEOIP", "false")
    leanbase.capture("e", distinct_id="u")
    assert server.requests[0].envelope["api_key"] == "phc_environment"
    assert "$geoip_disable" not in server.events[0]["properties"]


def test_shutdown_after_every_capture_loses_nothing(server: FaultServer) -> None:
    """What the documentation tells serverless users to do works with a module-level client (§7.6)."""
    use(server)
    for number in range(50):
        leanbase.capture("e", distinct_id=number)
        assert leanbase.shutdown()
    assert [event["distinct_id"] for event in server.events] == [str(number) for number in range(50)]


@pytest.mark.rule("Q-42")
def test_captures_racing_with_shutdown_are_all_delivered(server: FaultServer) -> None:
    use(server)
    done = threading.Event()

    def shut_down() -> None:
        while not done.is_set():
            leanbase.shutdown()

    def capture() -> None:
        for _ in range(40):
            assert leanbase.capture("e", distinct_id="u") is not None

    closer = threading.Thread(target=shut_down)
    closer.start()
    threads = [threading.Thread(target=capture) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    closer.join()
    leanbase.shutdown()
    assert len({event["uuid"] for event in server.events}) == len(server.events) == 160


def test_disabled_debug_and_before_send_are_read_at_every_call(server: FaultServer) -> None:
    use(server)
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
    """With settings that can never work it says so once, stays disabled, and reads them anew after shutdown."""
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


def test_opting_out_outlives_a_shutdown() -> None:
    """Somebody who must not be tracked is not tracked again because a request ended."""
    leanbase.transport = memory = MemoryTransport()
    leanbase.opt_out()
    leanbase.shutdown()
    assert leanbase.capture("e", distinct_id="u") is None
    leanbase.opt_in()
    assert leanbase.capture("e", distinct_id="u") is not None
    assert len(memory.events) == 1


def test_a_decorated_function_does_not_configure_a_client_that_nobody_uses(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """Who uses a client of their own is not told that the default one has no key."""
    client = leanbase.Leanbase("k", transport=memory)
    with leanbase.delivery_scope():
        client.capture("e", distinct_id="u")
    assert len(memory.events) == 1
    assert caplog.records == []


def test_every_option_is_declared_on_the_module() -> None:
    """The types that editors see for `leanbase.<option>` are those of the settings."""
    source = Path(leanbase.__file__).read_text()
    declared = dict(
        line.strip().split(": ", 1)
        for line in source.splitlines()
        if line.startswith("    ") and ": " in line
    )
    for option in dataclasses.fields(Settings):
        assert declared[option.name] == option.type


def test_unset_options_show_their_effective_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_TIMEOUT", "2.5")
    assert leanbase.timeout == 2.5
    assert leanbase.max_retries == 3
    assert leanbase.api_key is None
    with pytest.raises(AttributeError, match="no_such_thing"):
        leanbase.no_such_thing  # type: ignore[attr-defined]  # noqa: B018


def test_all_names_what_is_public() -> None:
    assert leanbase.__all__ == sorted(leanbase.__all__)
    for name in leanbase.__all__:
        assert getattr(leanbase, name) is not None


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.mark.rule("G-7")
def test_importing_has_no_side_effects() -> None:
    """No third-party package, no HTTP stack, no thread, no hook."""
    heavy = [
        "urllib3",
        "ssl",
        "http.client",
        "email",
        "asyncio",
        "sqlite3",
        "typing",
        "dataclasses",
        "leanbase.error_tracking",
        "botocore",
    ]
    code = f"""
import sys, threading
hooks = sys.excepthook, threading.excepthook
before = set(sys.modules)
import leanbase
new = set(sys.modules) - before
assert not new & set({heavy!r}), new & set({heavy!r})
assert all(m.partition(".")[0] == "leanbase" or m.partition(".")[0] in sys.stdlib_module_names for m in new)
assert hooks == (sys.excepthook, threading.excepthook)
assert threading.active_count() == 1
"""
    fresh(code)


@pytest.mark.rule("G-7")
def test_capturing_into_memory_does_not_load_the_http_stack() -> None:
    assert (
        fresh(
            "import sys, leanbase\n"
            "leanbase.Leanbase(transport='memory').capture('e', distinct_id='u')\n"
            "print('urllib3' in sys.modules, 'ssl' in sys.modules)"
        )
        == "False False"
    )


@pytest.mark.rule("Q-60")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_counts_from_zero_and_sends_its_own(server: FaultServer) -> None:
    """What the parent has not delivered is the parent's; the child shares no socket and no count with it."""
    output = fresh(
        f"""
import os, leanbase
leanbase.api_key, leanbase.host = "k", {server.url!r}
leanbase.capture("parent first", distinct_id="u")
with leanbase.new_context(), leanbase.delivery_scope():
    leanbase.tag("parent", 1)
    leanbase.capture("parent collected", distinct_id="u")
    pid = os.fork()
    if pid == 0:
        assert leanbase.get_tags() == {{}}
        assert leanbase.capture("child", distinct_id="u")
        stats = leanbase.stats()
        assert (stats["captured"], stats["delivered"], stats["retained"]) == (1, 1, 0), stats
    else:
        os.waitpid(pid, 0)
if pid:
    stats = leanbase.stats()
    assert (stats["captured"], stats["delivered"], stats["retained"]) == (2, 2, 0), stats
    print("parent done")
"""
    )
    assert output == "parent done"
    assert [event["event"] for event in server.events] == ["parent first", "child", "parent collected"]
    by_name = {request.events[0]["event"]: request.connection for request in server.requests}
    assert by_name["child"] != by_name["parent first"] == by_name["parent collected"]


def test_settings_that_come_after_the_first_call_are_taken(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is fetched from a secret store arrives late; the calls before it are disabled."""
    assert leanbase.capture("early", distinct_id="u") is None
    use(server)
    assert leanbase.capture("late", distinct_id="u") is not None
    assert [event["event"] for event in server.events] == ["late"]
    assert len(caplog.records) == 1


def test_public_submodules_need_no_import_of_their_own() -> None:
    assert fresh(
        "import leanbase; print(leanbase.settings.Settings.__name__, leanbase.errors.ConfigError.__name__)"
    ) == ("Settings ConfigError")


CAPTURE_AT_THE_END = """
import leanbase

leanbase.api_key, leanbase.host = "k", {url!r}
class Late:
    def __del__(self):
        leanbase.capture("late", distinct_id="u")

late = Late()
{more}
"""


@pytest.mark.parametrize(
    "more",
    [
        "",
        "leanbase.capture('e', distinct_id='u')",
        "leanbase.sync_mode = False; leanbase.capture('e', distinct_id='u')",
    ],
)
def test_a_capture_while_the_interpreter_ends_does_not_raise(more: str, server: FaultServer) -> None:
    script = CAPTURE_AT_THE_END.format(url=server.url, more=more)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["event"] for event in server.events if event["event"] == "e"] == ["e"] * bool(more)


def test_an_option_that_is_set_too_late_is_told_of_once(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    default._warn_of_late_option.cache_clear()
    leanbase.transport = memory
    leanbase.capture("first", distinct_id="u")
    for _ in range(2):
        leanbase.super_properties = {"env": "test"}
        leanbase.something = 7  # type: ignore[attr-defined]
        leanbase.disabled = False
    said = [
        each.message
        for each in caplog.records
        if "was set after the default client was created" in each.message
    ]
    assert len(said) == 1
    assert "leanbase.super_properties" in said[0]
    leanbase.shutdown()
    leanbase.capture("second", distinct_id="u")
    assert memory.events[-1]["properties"]["env"] == "test"
    del leanbase.something  # type: ignore[attr-defined]
