"""`LeanbaseProvider` under OpenFeature's own SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.track import TrackingEventDetails

from leanbase import Leanbase
from leanbase.integrations.openfeature import LeanbaseProvider
from tests.feature_flags.conftest import EVERYBODY, PRO, FlagServer, client_of, flag, flags, new_stores
from tests.support.waiting import wait_until

__all__ = ["client_of", "flags", "new_stores"]

Make = Callable[..., Leanbase]
USER = EvaluationContext("user_1", {"plan": "pro"})
VARIANT = {"groups": [{"rollout_percentage": 100, "variant": "12"}], "multivariate": {"variants": [{"key": "12", "rollout_percentage": 100}]}}  # fmt: skip
FLAGS = [
    flag("beta", {"groups": [{"properties": [PRO]}], "payloads": {"true": '{"copy": ["new"]}'}}),
    flag("limit", VARIANT),
    flag("off", active=False),
    flag("nobody", {"groups": []}),
]


@pytest.fixture
def feature(
    flags: FlagServer, client_of: Make
) -> Iterator[Callable[..., tuple[OpenFeatureClient, Leanbase]]]:
    """Makes OpenFeature's client, and the client of ours behind it."""

    def make(**options: Any) -> tuple[OpenFeatureClient, Leanbase]:
        ours = client_of(flags, **options)
        api.set_provider(LeanbaseProvider(ours))
        return api.get_client(), ours

    yield make
    api.clear_providers()


def test_each_type_is_read_from_its_part_of_a_flag(flags: FlagServer, feature: Any) -> None:
    flags.definitions = {"flags": FLAGS}
    client, _ = feature(secret_key="phs_secret")
    assert client.get_boolean_value("beta", False, USER) is True
    assert client.get_string_value("limit", "none", USER) == "12"
    assert client.get_integer_value("limit", 1, USER) == 12
    assert client.get_float_value("limit", 1.0, USER) == 12.0
    assert client.get_object_value("beta", {}, USER) == {"copy": ["new"]}
    assert client.get_boolean_value("off", True, USER) is False
    assert client.get_string_value("off", "default", USER) == "default"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("beta", Reason.TARGETING_MATCH),
        ("limit", Reason.SPLIT),
        ("off", Reason.DISABLED),
        ("nobody", Reason.DEFAULT),
    ],
)
def test_reasons_and_metadata(key: str, reason: Reason, flags: FlagServer, feature: Any) -> None:
    flags.definitions = {"flags": FLAGS}
    client, _ = feature(secret_key="phs_secret")
    details = client.get_boolean_details(key, False, USER)
    assert details.reason == reason
    assert details.flag_metadata == {"version": 3, "reason": "Evaluated locally"}
    assert details.error_code is None


def test_types_that_do_not_fit(flags: FlagServer, feature: Any) -> None:
    flags.definitions = {"flags": [*FLAGS, flag("word", {**VARIANT, "groups": [{}], "multivariate": {"variants": [{"key": "blue", "rollout_percentage": 100}]}})]}  # fmt: skip
    client, _ = feature(secret_key="phs_secret")
    assert client.get_string_details("beta", "default", USER).error_code == ErrorCode.TYPE_MISMATCH
    assert client.get_integer_details("word", 3, USER).value == 3
    assert client.get_float_details("word", 3.0, USER).error_code == ErrorCode.TYPE_MISMATCH
    assert client.get_object_details("limit", [1], USER).value == [1]


def test_errors_say_what_is_wrong(flags: FlagServer, feature: Any) -> None:
    flags.definitions = {"flags": FLAGS}
    client, _ = feature(secret_key="phs_secret")
    assert client.get_boolean_details("gone", True, USER).error_code == ErrorCode.FLAG_NOT_FOUND
    nobody = client.get_boolean_details("beta", True)
    assert (nobody.value, nobody.error_code) == (True, ErrorCode.TARGETING_KEY_MISSING)
    flags.routes["/flags/?"].status = 500
    outage, _ = feature()
    details = outage.get_boolean_details("beta", True, USER)
    assert (details.value, details.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)
    assert details.error_message == "api_error_500"


def test_one_request_for_all_reads_of_a_scope(flags: FlagServer, feature: Any) -> None:
    flags.remote = {key: {"key": key, "value": True} for key in ("a", "b")}
    client, ours = feature()
    context = EvaluationContext("user_1", {"plan": "pro", "groups": {"company": "acme"}})
    with ours.delivery_scope():
        assert client.get_boolean_value("a", False, context) is True
        details = client.get_boolean_details("b", False, context)
        assert client.get_boolean_value("a", False, EvaluationContext("user_2")) is True
    assert details.reason == Reason.CACHED
    assert [each.line.split()[0] for each in flags.to("/flags/")] == ["POST", "POST"]
    import json

    body = json.loads(flags.requests[0].text)
    assert (body["groups"], body["person_properties"]) == ({"company": "acme"}, {"plan": "pro"})
    assert [event["properties"]["$feature_flag"] for event in flags.called] == ["a", "b", "a"]


def test_the_async_calls_wait_in_a_thread_only_for_a_request(flags: FlagServer, feature: Any) -> None:
    flags.definitions = {"flags": FLAGS}
    local, _ = feature(secret_key="phs_secret")
    local.get_boolean_value("beta", False, USER)

    async def read(client: OpenFeatureClient) -> list[Any]:
        return [
            await client.get_boolean_value_async("beta", False, USER),
            await client.get_string_value_async("limit", "", USER),
            await client.get_integer_value_async("limit", 0, USER),
            await client.get_float_value_async("limit", 0.0, USER),
            await client.get_object_value_async("beta", {}, USER),
        ]

    assert asyncio.run(read(local)) == [True, "12", 12, 12.0, {"copy": ["new"]}]
    assert flags.to("/flags/?") == []
    flags.remote = {"beta": {"key": "beta", "value": True}}
    remote, _ = feature()
    assert asyncio.run(read(remote))[0] is True
    assert flags.to("/flags/?") != []


def test_tracking_is_a_capture(flags: FlagServer, feature: Any) -> None:
    client, _ = feature()
    context = EvaluationContext("user_1", {"groups": {"company": "acme"}})
    client.track("order created", context, TrackingEventDetails(42.5, {"plan": "pro"}))
    event = flags.events[0]
    assert (event["event"], event["distinct_id"]) == ("order created", "user_1")
    properties = {name: event["properties"][name] for name in ("plan", "value", "$groups")}
    assert properties == {"plan": "pro", "value": 42.5, "$groups": {"company": "acme"}}


def test_events_tell_of_changes(flags: FlagServer, feature: Any) -> None:
    from openfeature.event import ProviderEvent

    seen: list[str] = []
    handlers = {event: (lambda details, event=event: seen.append(event.name)) for event in ProviderEvent}
    flags.remote = {"a": {"key": "a", "value": True}}
    client, _ = feature()
    for event, handler in handlers.items():
        client.add_handler(event, handler)
    seen.clear()
    client.get_boolean_value("a", False, USER)
    flags.routes["/flags/?"].status = 400
    client.get_boolean_value("a", False, USER)
    flags.routes["/flags/?"].status = 200
    client.get_boolean_value("a", False, USER)
    wait_until(lambda: seen == ["PROVIDER_ERROR", "PROVIDER_READY"], 5)
    for event, handler in handlers.items():
        client.remove_handler(event, handler)


def test_a_switched_off_flag_of_everybody(flags: FlagServer, feature: Any) -> None:
    flags.definitions = {"flags": [flag("beta", EVERYBODY)]}
    client, ours = feature(secret_key="phs_secret")
    with ours.new_context():
        ours.identify_context("user_9")
        assert client.get_boolean_value("beta", False) is True, "the person of the context"
