"""`leanbase.testing.capture_events`, in tests without the pytest plugin."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.testing import CapturedEvents, LambdaSimulator, capture_events
from tests.support.fault_server import FaultServer

UNITTEST = """
import unittest

import leanbase
from leanbase.testing import capture_events


class OrderTest(unittest.TestCase):
    def test_an_order_is_captured(self):
        with capture_events() as events, leanbase.delivery_scope():
            leanbase.capture("order created", distinct_id="user_1")
        events.assert_captured("order created", distinct_id="user_1", times=1)

    def test_another_test_starts_without_events(self):
        with capture_events() as events:
            pass
        events.assert_not_captured()


unittest.main()
"""


@leanbase.lambda_handler
def handler(event: Any, context: Any) -> None:
    leanbase.capture("invoked")


def use(server: FaultServer) -> None:
    leanbase.api_key, leanbase.host = "phc_test", server.url


def test_events_of_the_block_are_recorded_and_later_ones_are_sent_again(server: FaultServer) -> None:
    use(server)
    leanbase.capture("before")
    with capture_events() as events:
        leanbase.capture("inside")
        Leanbase().capture("of a new client")
    leanbase.capture("after")
    assert [each["event"] for each in events] == ["inside", "of a new client"]
    assert [each["event"] for each in server.events] == ["before", "after"]


def test_events_are_recorded_without_a_key_and_a_host_and_with_a_buffer() -> None:
    leanbase.sync_mode = False
    with capture_events() as events:
        uuid = leanbase.capture("inside")
        leanbase.flush()
    assert [each["uuid"] for each in events] == [uuid]


def test_the_transport_memory_is_replaced_as_well() -> None:
    leanbase.transport = "memory"
    with capture_events() as events:
        leanbase.capture("inside")
    assert len(events) == 1


def test_an_inner_block_has_its_events_alone() -> None:
    with capture_events() as outer:
        with capture_events() as inner:
            leanbase.capture("inside")
        leanbase.capture("outside")
    assert [each["event"] for each in inner] == ["inside"]
    assert [each["event"] for each in outer] == ["outside"]


def test_a_block_that_raises_restores_the_transport(server: FaultServer) -> None:
    use(server)
    with pytest.raises(ZeroDivisionError), capture_events():
        raise ZeroDivisionError
    leanbase.capture("after")
    assert [each["event"] for each in server.events] == ["after"]


def test_blocks_that_overlap_in_threads_send_nothing(server: FaultServer) -> None:
    """The event after the end of the first block belongs to the second one, which is still open."""
    use(server)
    entered, first_ended = threading.Event(), threading.Event()
    found: list[CapturedEvents] = []

    def second() -> None:
        with capture_events() as events:
            entered.set()
            first_ended.wait(10)
            leanbase.capture("inside the second")
        found.append(events)

    thread = threading.Thread(target=second)
    with capture_events() as first:
        thread.start()
        entered.wait(10)
    first_ended.set()
    thread.join()
    leanbase.capture("after")
    assert first == []
    assert [each["event"] for each in found[0]] == ["inside the second"]
    assert [each["event"] for each in server.events] == ["after"]


def test_pending_events_at_the_end_of_the_block_are_recorded(server: FaultServer) -> None:
    use(server)
    with leanbase.delivery_scope(), capture_events() as events:
        leanbase.capture("inside")
    assert [each["event"] for each in events] == ["inside"]
    assert server.events == []


def test_a_simulated_function_has_its_own_events_also_with_the_transport_memory() -> None:
    leanbase.transport = "memory"
    with capture_events() as events, LambdaSimulator(handler) as function:
        function.invoke({})
        function.events.assert_captured("invoked", times=1)
    events.assert_not_captured()


@pytest.mark.slow
def test_under_pytest_and_with_the_transport_memory(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEANBASE_TRANSPORT", "memory")
    pytester.makepyfile("""
        import leanbase
        from leanbase.testing import capture_events

        def test_it(leanbase_events):
            leanbase.capture("before")
            with capture_events() as events:
                leanbase.capture("inside")
            assert [each["event"] for each in events] == ["inside"]
            assert [each["event"] for each in leanbase_events] == ["before"]
    """)
    assert pytester.runpytest_subprocess("-p", "no:cacheprovider").parseoutcomes() == {"passed": 1}


@pytest.mark.slow
def test_unittest_sends_nothing(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")
    (tmp_path / "tests_of_orders.py").write_text(UNITTEST)
    done = subprocess.run(
        [sys.executable, "tests_of_orders.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
    assert server.requests == []
