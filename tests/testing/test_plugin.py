"""The plugin in pytest sessions of its own, as users have them."""

from __future__ import annotations

import pytest

from leanbase.testing import CapturedEvents
from tests.support.fault_server import FaultServer

APP = """
import leanbase
from leanbase import Leanbase
from leanbase.transports import HttpTransport

client = Leanbase("phc_app", {url!r})
with_instance = Leanbase(transport=HttpTransport("phc_app", {url!r}))
buffered = Leanbase("phc_app", {url!r}, sync_mode=False)
leanbase.host = {url!r}
leanbase.api_key = "phc_app"

def order(total):
    leanbase.capture("order created", distinct_id="user_1", properties={{"total": total}})
    for each in (client, with_instance, buffered):
        each.capture("of another client", distinct_id="user_2")
"""


@pytest.fixture
def session(pytester: pytest.Pytester, server: FaultServer) -> pytest.Pytester:
    pytester.makepyfile(app=APP.format(url=server.url))
    return pytester


def outcomes(session: pytest.Pytester, tests: str, *arguments: str) -> tuple[dict[str, int], str]:
    session.makepyfile(test_app=tests)
    result = session.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
    return result.parseoutcomes(), result.stdout.str()


@pytest.mark.slow
def test_no_client_sends_and_the_fixture_has_what_was_captured(
    session: pytest.Pytester, server: FaultServer
) -> None:
    found, output = outcomes(
        session,
        """
        from decimal import Decimal
        import app

        def test_first(leanbase_events):
            app.order(42)
            leanbase_events.assert_captured("order created", distinct_id="user_1", properties={"total": Decimal(42)})
            leanbase_events.assert_captured("of another client", times=3)
            assert [each["event"] for each in leanbase_events.named("order created")] == ["order created"]

        def test_second(leanbase_events):
            leanbase_events.assert_not_captured()
            app.order(1)
            assert len(leanbase_events) == 4

        def test_without_the_fixture():
            app.order(2)
        """,
    )
    assert found == {"passed": 3}, output
    assert server.connections == 0


@pytest.mark.slow
def test_assertions_say_what_was_captured(session: pytest.Pytester) -> None:
    found, output = outcomes(
        session,
        """
        import app

        def test_other_properties(leanbase_events):
            app.order(42)
            leanbase_events.assert_captured("order created", properties={"total": 43})

        def test_unexpected(leanbase_events):
            app.order(42)
            leanbase_events.assert_not_captured("order created")

        def test_nothing(leanbase_events):
            leanbase_events.assert_captured("order created")
        """,
    )
    assert found == {"failed": 3}, output
    assert "expected at least once: 'order created' with {'total': 43}" in output
    assert "'order created' of 'user_1' with {'total': 42" in output
    assert "captured, but not expected: order created" in output
    assert "captured was: nothing; is the client disabled" in output


@pytest.mark.slow
def test_a_marked_test_sends(session: pytest.Pytester, server: FaultServer) -> None:
    found, output = outcomes(
        session,
        """
        import pytest, app, leanbase

        @pytest.mark.leanbase_send
        def test_sends():
            assert leanbase.capture("sent", distinct_id="u")
            assert leanbase.stats()["delivered"] == 1

        def test_does_not_send(leanbase_events):
            leanbase.capture("not sent", distinct_id="u")
            leanbase_events.assert_captured("not sent")
        """,
        "--strict-markers",
    )
    assert found == {"passed": 2}, output
    assert [event["event"] for event in server.events] == ["sent"]


@pytest.mark.slow
def test_the_setting_lets_all_tests_send(session: pytest.Pytester, server: FaultServer) -> None:
    session.makeini("[pytest]\nleanbase_send = true\n")
    found, output = outcomes(
        session, "import app\ndef test_it(): app.client.capture('sent', distinct_id='u')"
    )
    assert found == {"passed": 1}, output
    assert [event["event"] for event in server.events] == ["sent"]


def test_memory_transports_of_the_tests_own_are_left_alone(session: pytest.Pytester) -> None:
    found, output = outcomes(
        session,
        """
        from leanbase import Leanbase
        from leanbase.transports import MemoryTransport

        def test_it():
            transport = MemoryTransport()
            Leanbase(transport=transport).capture("mine", distinct_id="u")
            assert [each["event"] for each in transport.events] == ["mine"]
        """,
    )
    assert found == {"passed": 1}, output


def test_a_client_without_key_and_host_captures_in_tests(session: pytest.Pytester) -> None:
    found, output = outcomes(
        session,
        """
        import leanbase

        @leanbase.lambda_handler(flush="each")
        def handler(event, context):
            leanbase.capture("handled", distinct_id="u")

        def test_it(leanbase_events):
            handler({}, None)
            leanbase_events.assert_captured("handled")
        """,
    )
    assert found == {"passed": 1}, output


def test_the_plugin_costs_a_session_without_leanbase_little(session: pytest.Pytester) -> None:
    """It loads neither urllib3 nor what a client needs."""
    found, output = outcomes(
        session,
        """
        import sys

        def test_it():
            assert not {"urllib3", "ssl", "leanbase.pipeline", "leanbase.relay"} & set(sys.modules)
        """,
        *(f"-pno:{other}" for other in ("anyio", "hypothesispytest", "pytest_cov")),  # which load ssl
    )
    assert found == {"passed": 1}, output


def test_a_transport_is_tested_and_not_caught(session: pytest.Pytester) -> None:
    """By the contract test, which makes a client for it."""
    found, output = outcomes(
        session,
        """
        import pytest
        from leanbase import Receipt
        from leanbase.testing import TransportContract
        from leanbase.transports import BaseTransport

        class Inventive(BaseTransport):
            def send(self, events, *, deadline):
                return Receipt(delivered=len(events))

            def flush(self, *, deadline):
                return Receipt(delivered=7)

        class TestInventive(TransportContract):
            @pytest.fixture
            def transport(self):
                return Inventive()
        """,
    )
    assert (found["failed"], found["passed"]) == (1, 5), output


def test_a_failed_assertion_shows_the_difference_and_not_all_there_is() -> None:
    added = {"faas.name": "orders", "$lib": "x", "$current_url": "https://x/", "$context_tags": ["faas.name"]}
    events = CapturedEvents(
        [
            {"event": "paid", "distinct_id": "u", "properties": {**added, "currency": "EUR", "total": 6}},
            {"event": "paid", "distinct_id": "u", "properties": {**added, "total": 1}},
        ]
    )
    with pytest.raises(AssertionError) as caught:
        events.assert_captured("paid", distinct_id="v", properties={"total": 7, "currency": "EUR"})
    text = str(caught.value)
    assert (
        "the nearest 'paid' differs:\n  distinct_id: expected 'v', was 'u'\n  total: expected 7, was 6\n"
        in text
    )
    assert not any(name in text for name in added)
