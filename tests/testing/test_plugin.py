"""The pytest plugin, in the sessions of users.

Each test writes a module `app` and a file of tests, and runs pytest with the plugin in another process. It asserts how
many tests passed there, what pytest printed, and that a `FaultServer`, the host of the clients, received no request.
"""

from __future__ import annotations

from importlib.metadata import entry_points

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


def run_tests(session: pytest.Pytester, tests: str, *arguments: str) -> tuple[dict[str, int], str]:
    """Run pytest, and return the number of tests by outcome, and the output."""
    session.makepyfile(test_app=tests)
    result = session.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
    return result.parseoutcomes(), result.stdout.str()


@pytest.mark.slow
def test_clients_send_nothing_and_the_fixture_has_the_captured_events(
    session: pytest.Pytester, server: FaultServer
) -> None:
    found, output = run_tests(
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
def test_failed_assertions_show_what_was_captured(session: pytest.Pytester) -> None:
    found, output = run_tests(
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
def test_clients_send_in_a_marked_test(session: pytest.Pytester, server: FaultServer) -> None:
    found, output = run_tests(
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
def test_the_setting_lets_clients_send_in_all_tests(session: pytest.Pytester, server: FaultServer) -> None:
    session.makeini("[pytest]\nleanbase_send = true\n")
    found, output = run_tests(
        session, "import app\ndef test_it(): app.client.capture('sent', distinct_id='u')"
    )
    assert found == {"passed": 1}, output
    assert [event["event"] for event in server.events] == ["sent"]


@pytest.mark.slow
def test_a_memory_transport_of_a_test_is_not_replaced(session: pytest.Pytester) -> None:
    found, output = run_tests(
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


@pytest.mark.slow
def test_a_client_without_a_key_and_host_captures_in_tests(session: pytest.Pytester) -> None:
    found, output = run_tests(
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


def other_plugins() -> set[str]:
    """The pytest plugins of other packages that are installed here."""
    return {each.name for each in entry_points(group="pytest11")} - {"leanbase"}


@pytest.mark.slow
def test_the_plugin_loads_neither_the_http_client_nor_the_pipeline(session: pytest.Pytester) -> None:
    """A session that does not use Leanbase is not slower."""
    found, output = run_tests(
        session,
        """
        import sys

        def test_it():
            assert not {"urllib3", "ssl", "leanbase.pipeline", "leanbase.relay"} & set(sys.modules)
        """,
        *(f"-pno:{name}" for name in other_plugins()),  # some of these load ssl
    )
    assert found == {"passed": 1}, output


@pytest.mark.slow
def test_the_transport_contract_tests_the_transport_itself(session: pytest.Pytester) -> None:
    """The contract creates a client for the transport, which the plugin must not replace."""
    found, output = run_tests(
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


def test_a_failed_assertion_shows_the_difference_to_the_nearest_event() -> None:
    added = {"faas.name": "orders", "$lib": "x", "$current_url": "https://x/", "$context_tags": ["faas.name"]}
    events = CapturedEvents(
        [
            {"event": "paid", "distinct_id": "u", "properties": {**added, "currency": "EUR", "total": 6}},
            {"event": "paid", "distinct_id": "u", "properties": {**added, "total": 1}},
        ]
    )
    with pytest.raises(AssertionError) as caught:
        events.assert_captured("paid", distinct_id="v", properties={"total": 7, "currency": "EUR"})
    message = str(caught.value)
    assert (
        "the nearest 'paid' differs:\n  distinct_id: expected 'v', was 'u'\n  total: expected 7, was 6\n"
        in message
    )
    assert not any(name in message for name in added)


@pytest.mark.slow
def test_flags_are_what_the_test_sets_and_nothing_is_asked(
    session: pytest.Pytester, server: FaultServer
) -> None:
    session.makepyfile(
        flags="""
        import leanbase

        def checkout(user):
            flags = leanbase.evaluate_flags(user, person_properties={"plan": "pro"})
            return flags.get_flag("checkout"), flags.get_flag_payload("checkout"), flags.error
        """
    )
    definitions = '{"flags": [{"key": "checkout", "active": true, "filters": {"groups": [{}]}}]}'
    session.makefile(".json", flags=definitions)
    found, output = run_tests(
        session,
        """
        import leanbase
        import flags

        def test_set(leanbase_flags, leanbase_events):
            leanbase_flags.set("checkout", "blue", payload={"copy": "new"})
            assert flags.checkout("user_1") == ("blue", {"copy": "new"}, None)
            leanbase_events.assert_captured("$feature_flag_called", properties={"$feature_flag": "checkout"})
            leanbase_flags.unset("checkout")
            assert flags.checkout("user_1") == (None, None, None)

        def test_unset(leanbase_flags):
            assert flags.checkout("user_1") == (None, None, None)

        def test_without_the_fixture():
            assert flags.checkout("user_1") == (None, None, None)
            assert leanbase.feature_enabled("checkout", "user_1", default_value=True) is True

        def test_from_file(leanbase_flags):
            leanbase_flags.from_file("flags.json")
            assert flags.checkout("user_1") == (True, None, None)
        """,
    )
    assert found == {"passed": 4}, output
    assert server.requests == []


@pytest.mark.slow
def test_flags_cannot_be_set_where_requests_leave(session: pytest.Pytester) -> None:
    found, output = run_tests(
        session,
        """
        import pytest

        @pytest.mark.leanbase_send
        def test_it(leanbase_flags):
            pass
        """,
    )
    assert found == {"errors": 1}, output
    assert "leanbase_flags has no effect because this test sends" in output
