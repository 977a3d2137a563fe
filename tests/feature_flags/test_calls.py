"""The calls of a client about flags, and what arrives at the server because of them."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.feature_flags import FeatureFlagEvaluations
from leanbase.testing import LambdaContext
from tests.conftest import balanced
from tests.feature_flags.conftest import EVERYBODY, PRO, FlagServer, flag
from tests.support.fault_server import Behaviour
from tests.support.threads import run_in_threads

Make = Callable[..., Leanbase]
KEYS = ["beta", "checkout"]


def record(value: bool | str = True, **more: Any) -> dict[str, Any]:
    variant = value if isinstance(value, str) else None
    metadata = {"id": 7, "version": 2, "payload": None, **more.pop("metadata", {})}
    reason = {"code": "condition_match", "condition_index": 0, "description": "Matched condition set 1"}
    return {
        "key": "", "enabled": value is not False, "variant": variant, "reason": reason, "metadata": metadata, **more,
    }  # fmt: skip


def test_one_request_asks_for_everything_that_was_given(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": record(), "checkout": record("blue", metadata={"payload": '{"copy": "new"}'})}
    client = client_of(flags)
    found = client.evaluate_flags(
        "user_1",
        groups={"company": "acme", "team": 7},
        person_properties={"since": datetime(2026, 1, 2, tzinfo=timezone.utc), "plan": "pro"},
        group_properties={"company": {"size": 10}},
        disable_geoip=False,
        flag_keys=KEYS,
        device_id="dev-1",
    )
    (request,) = flags.requests
    assert request.line == "POST /flags/?v=2 HTTP/1.1"
    assert "authorization" not in request.headers
    assert request.headers["user-agent"].startswith("leanbase-python/")
    body = json.loads(request.text)
    assert body.pop("sent_at").endswith("+00:00")
    assert body == {
        "api_key": "phc_test",
        "distinct_id": "user_1",
        "groups": {"company": "acme", "team": "7"},
        "person_properties": {"since": "2026-01-02T00:00:00+00:00", "plan": "pro"},
        "group_properties": {"company": {"$group_key": "acme", "size": 10}, "team": {"$group_key": "7"}},
        "geoip_disable": False,
        "device_id": "dev-1",
        "flag_keys_to_evaluate": KEYS,
    }
    assert found.get_flag("checkout") == "blue"
    assert found.is_enabled("beta") is True
    assert found.get_flag_payload("checkout") == {"copy": "new"}
    assert found.keys == KEYS
    assert found.error is None


def test_what_was_not_given_is_empty_and_never_null(flags: FlagServer, client_of: Make) -> None:
    client_of(flags).evaluate_flags("user_1")
    body = json.loads(flags.requests[0].text)
    assert (body["groups"], body["person_properties"], body["group_properties"]) == ({}, {}, {})
    assert body["geoip_disable"] is True
    assert body["device_id"] is None
    assert "flag_keys_to_evaluate" not in body


def test_neither_a_client_nor_a_capture_asks_about_flags(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags, secret_key="phs_secret")
    client.capture("e", distinct_id="u")
    assert [each.line.split()[1] for each in flags.requests] == ["/batch/"]


def test_two_calls_make_two_requests(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": record()}
    client = client_of(flags)
    assert client.get_feature_flag("beta", "u") is True
    assert client.feature_enabled("beta", "u") is True
    assert len(flags.to("/flags/")) == 2
    assert json.loads(flags.requests[0].text)["flag_keys_to_evaluate"] == ["beta"]


@pytest.mark.rule("F-1")
def test_nobody_is_evaluated_without_an_id(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags)
    found = client.evaluate_flags()
    assert found.keys == []
    assert found.is_enabled("beta", True) is True
    assert client.get_feature_flag("beta") is None
    assert client.feature_enabled("beta", default_value=True) is True
    assert client.get_all_flags() == {}
    assert client.get_all_flags_and_payloads() == {"featureFlags": {}, "featureFlagPayloads": {}}
    assert client.evaluate_flags("u", flag_keys=[]).keys == []
    assert flags.requests == []
    with client.new_context():
        client.identify_context("from the context")
        client.set_context_device_id("dev-2")
        client.evaluate_flags()
    body = json.loads(flags.requests[0].text)
    assert (body["distinct_id"], body["device_id"]) == ("from the context", "dev-2")


@pytest.mark.rule("F-1")
def test_a_disabled_client_knows_no_flags(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags, disabled=True, secret_key="phs_secret")
    assert client.evaluate_flags("u").is_enabled("beta", True) is True
    assert client.get_all_flags("u") == {}
    assert client.load_feature_flags() is False
    assert flags.requests == []


def test_flags_that_are_decided_here_need_no_request(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {
        "flags": [flag("beta", {"groups": [{"properties": [PRO]}]}), flag("off", active=False)]
    }
    client = client_of(flags, secret_key="phs_secret")
    found = client.evaluate_flags("u", person_properties={"plan": "pro"})
    assert {key: found.get_flag(key) for key in found.keys} == {"beta": True, "off": False}
    (request,) = flags.to("/flags")
    assert request.line == "GET /flags/definitions?token=phc_test&send_cohorts HTTP/1.1"
    assert request.headers["authorization"] == "Bearer phs_secret"


@pytest.mark.rule("F-2")
def test_the_server_decides_the_rest_and_local_values_win(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {
        "flags": [flag("beta"), flag("sticky", ensure_experience_continuity=True), flag("unasked")]
    }
    flags.remote = {"beta": record(False), "sticky": record("blue"), "foreign": record()}
    client = client_of(flags, secret_key="phs_secret")
    keys = ["beta", "sticky", "unknown"]
    found = client.evaluate_flags("u", flag_keys=keys)
    (request,) = flags.to("/flags/?")
    assert json.loads(request.text)["flag_keys_to_evaluate"] == keys
    assert {key: found.get_flag(key) for key in found.keys} == {"beta": True, "sticky": "blue"}
    assert found.unresolved_flags == {}
    client.evaluate_flags("u", flag_keys=["beta", "unknown"])
    assert len(flags.to("/flags/?")) == 1, "the server does not know it, until the definitions change"


def test_without_the_server_the_rest_stays_undecided(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {"flags": [flag("beta"), flag("sticky", ensure_experience_continuity=True)]}
    client = client_of(flags, secret_key="phs_secret")
    with client.delivery_scope():
        found = client.evaluate_flags("u", only_evaluate_locally=True)
        assert found.get_flag("sticky", "default") == "default"
    assert found.keys == ["beta"]
    assert {key: why.value for key, why in found.unresolved_flags.items()} == {
        "sticky": "experience_continuity"
    }
    assert flags.to("/flags/?") == []
    (event,) = flags.called
    assert event["properties"]["$feature_flag_error"] == "local_evaluation_inconclusive"
    only = client_of(flags, secret_key="phs_secret", flags_only_evaluate_locally=True)
    assert only.get_all_flags("u") == {"beta": True}
    assert flags.to("/flags/?") == []


@pytest.mark.parametrize("status", [502, 504])
def test_these_answers_are_retried_once_with_the_same_body(
    status: int, flags: FlagServer, client_of: Make
) -> None:
    flags.routes.pop("/flags/?")
    flags.script(Behaviour(status=status), Behaviour(body=b'{"flags": {"beta": {"enabled": true}}}'))
    assert client_of(flags).get_all_flags("u") == {"beta": True}
    first, second = [json.loads(each.text) for each in flags.requests]
    first.pop("sent_at"), second.pop("sent_at")
    assert first == second


@pytest.mark.rule("F-3")
@pytest.mark.parametrize("status", [400, 401, 408, 429, 500, 503])
def test_other_answers_are_not_retried(status: int, flags: FlagServer, client_of: Make) -> None:
    flags.routes["/flags/?"] = Behaviour(status=status)
    found = client_of(flags).evaluate_flags("u")
    assert len(flags.requests) == 1
    assert found.error == f"api_error_{status}"
    assert found.is_enabled("beta", True) is True


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    found = Leanbase("phc_test", "http://127.0.0.1:9").evaluate_flags("u")
    assert found.error == "connection_error"
    assert [each.levelname for each in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b"{}", b'{"flags": [1]}'])
def test_answers_that_are_none(body: bytes, flags: FlagServer, client_of: Make) -> None:
    flags.routes["/flags/?"] = Behaviour(body=body)
    assert client_of(flags).evaluate_flags("u").error == "unknown_error"


def test_a_quota_is_an_error_and_no_value(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": record()}
    flags.answer = {"quotaLimited": ["feature_flags"]}
    client = client_of(flags)
    with client.delivery_scope():
        found = client.evaluate_flags("u")
        assert found.get_flag("beta") is None
    assert found.error == "quota_limited"
    assert flags.called[0]["properties"]["$feature_flag_error"] == "quota_limited,flag_missing"


def test_properties_of_a_context_and_of_a_client(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags)

    def sent() -> tuple[Any, Any]:
        client.evaluate_flags("u", groups={"company": "acme"}, person_properties={"plan": "given"})
        body = json.loads(flags.requests[-1].text)
        return body["person_properties"], body["group_properties"]["company"]

    client.set_person_properties_for_flags({"plan": "free", "country": "DE"})
    client.set_group_properties_for_flags("company", "acme", {"size": 1})
    assert sent() == ({"plan": "given", "country": "DE"}, {"$group_key": "acme", "size": 1})
    with client.new_context():
        client.set_person_properties_for_flags({"country": "FR"})
        assert sent()[0] == {"plan": "given", "country": "FR"}
        client.reset_person_properties_for_flags()
        assert sent()[0] == {"plan": "given"}
    assert sent()[0] == {"plan": "given", "country": "DE"}
    client.reset_person_properties_for_flags()
    client.reset_group_properties_for_flags()
    assert sent() == ({"plan": "given"}, {"$group_key": "acme"})


@pytest.mark.rule("F-7")
def test_events_carry_the_flags_of_a_snapshot(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": record(), "checkout": record("blue"), "off": record(False)}
    client = client_of(flags)
    with client.delivery_scope():
        found = client.evaluate_flags("u")
        client.capture("order", distinct_id="u", flags=found, properties={"$feature/beta": "own"})
        client.capture("page", distinct_id="u", flags=found.only(["off"]))
        try:
            raise ValueError("no")
        except ValueError as error:
            client.capture_exception(error, distinct_id="u", flags=found.only(["beta"]))
    order, page, failure = flags.to("/batch/")[0].events
    assert order["properties"]["$feature/checkout"] == "blue"
    assert order["properties"]["$feature/beta"] == "own"
    assert order["properties"]["$active_feature_flags"] == ["beta", "checkout"]
    assert page["properties"]["$feature/off"] is False
    assert "$active_feature_flags" not in page["properties"]
    assert failure["properties"]["$feature/beta"] is True
    assert len(flags.to("/flags/")) == 1


def test_send_feature_flags_of_others_works_and_warns_once(
    flags: FlagServer, client_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    flags.remote = {"beta": record()}
    client = client_of(flags)
    for _ in range(2):
        client.capture("order", distinct_id="u", send_feature_flags={"person_properties": {"plan": "pro"}})
    assert [each.events[0]["properties"]["$feature/beta"] for each in flags.to("/batch/")] == [True, True]
    assert json.loads(flags.requests[0].text)["person_properties"] == {"plan": "pro"}
    assert len([each for each in caplog.records if "send_feature_flags" in each.message]) <= 1


@pytest.mark.rule("F-4")
def test_bulk_calls_have_values_and_payloads_as_text(flags: FlagServer, client_of: Make) -> None:
    payload = {"beta": '{"a": 1}', "checkout": "{oops"}
    flags.remote = {
        "beta": record(metadata={"payload": payload["beta"]}),
        "checkout": record("blue", metadata={"payload": payload["checkout"]}),
    }
    client = client_of(flags)
    assert client.get_all_flags_and_payloads("u") == {
        "featureFlags": {"beta": True, "checkout": "blue"},
        "featureFlagPayloads": {"beta": '{"a": 1}'},
    }
    assert client.get_feature_flag_payload("beta", "u") == {"a": 1}
    result = client.get_feature_flag_result("checkout", "u")
    assert result is not None
    assert (result.key, result.enabled, result.variant, result.payload) == ("checkout", True, "blue", None)
    assert result.get_value() == "blue"


def test_the_payload_of_another_value(flags: FlagServer, client_of: Make) -> None:
    filters = {**EVERYBODY, "payloads": {"true": "1", "false": "2"}}
    flags.definitions = {"flags": [flag("beta", filters)]}
    client = client_of(flags, secret_key="phs_secret")
    assert client.get_feature_flag_payload("beta", "u") == 1
    assert client.get_feature_flag_payload("beta", "u", match_value=False) == 2


def test_remote_configuration(flags: FlagServer, client_of: Make) -> None:
    flags.routes["/api/projects/"] = Behaviour(body=json.dumps('{"price": 3}').encode())
    client = client_of(flags, secret_key="phs_secret")
    assert client.get_remote_config_payload("prices & more") == {"price": 3}
    (request,) = flags.requests
    assert request.line.split()[1] == (
        "/api/projects/@current/feature_flags/prices%20%26%20more/remote_config?token=phc_test"
    )
    assert request.headers["authorization"] == "Bearer phs_secret"
    assert client_of(flags).get_remote_config_payload("prices") is None


def test_the_functions_of_the_module_are_those_of_the_default_client(flags: FlagServer) -> None:
    flags.remote = {"beta": record()}
    leanbase.api_key, leanbase.host = "phc_test", flags.url
    assert leanbase.evaluate_flags("u").is_enabled("beta") is True
    assert leanbase.get_feature_flag("beta", "u") is True
    assert leanbase.is_feature_enabled("beta", "u") is True
    leanbase.shutdown()


def test_wrong_arguments_are_python_s_own_error(flags: FlagServer, client_of: Make) -> None:
    wrong: Any = client_of(flags)
    with pytest.raises(TypeError, match="evaluate_flags"):
        wrong.evaluate_flags("u", flag_key="beta")


class Broken:
    def __str__(self) -> str:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError


@pytest.mark.rule("F-3")
@pytest.mark.parametrize("odd", [Broken(), 7, "text", [1], object()])
def test_odd_arguments_never_raise(odd: Any, flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags)
    found = client.evaluate_flags("u", groups=odd, person_properties=odd, group_properties=odd, device_id=odd)
    assert isinstance(found, FeatureFlagEvaluations)
    client.evaluate_flags(odd, flag_keys=odd)
    assert found.get_flag(odd) is None
    client.capture("e", distinct_id="u", flags=odd)


def test_threads_evaluate_at_once(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {"flags": [flag("beta", {"groups": [{"properties": [PRO]}]})]}
    client = client_of(flags, secret_key="phs_secret")
    found: list[bool] = []

    def evaluate() -> None:
        for number in range(50):
            flags_of = client.evaluate_flags(number, person_properties={"plan": "pro"})
            found.append(flags_of.is_enabled("beta"))

    run_in_threads(*[evaluate] * 8)
    assert found == [True] * 400
    assert len(flags.to("/flags/definitions")) == 1
    assert balanced(client)


def test_a_handler_reads_flags_and_reports_them_with_its_events(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags, secret_key="phs_secret")

    @leanbase.lambda_handler(client=client, idempotent=True)
    def handler(event: Any, context: Any) -> bool:
        found = client.evaluate_flags(event["user"])
        client.capture("order created", distinct_id=event["user"], flags=found)
        return found.is_enabled("beta")

    context = LambdaContext(3.0, aws_request_id=str(uuid.UUID(int=1)))
    assert handler({"user": "u"}, context) is True
    (request,) = flags.to("/batch/")
    assert [event["event"] for event in request.events] == ["order created", "$feature_flag_called"]
    first = request.events[1]["uuid"]
    again = client_of(flags, secret_key="phs_secret")

    @leanbase.lambda_handler(client=again, idempotent=True)
    def retried(event: Any, context: Any) -> None:
        again.evaluate_flags(event["user"]).is_enabled("beta")

    retried({"user": "u"}, context)
    assert flags.called[-1]["uuid"] == first, "a retried invocation reports it once"


@pytest.mark.rule("F-8")
def test_no_thread_is_started(flags: FlagServer, client_of: Make) -> None:
    before = set(threading.enumerate())
    client = client_of(flags, secret_key="phs_secret", flags_ttl=0.1, flags_max_age=0.2)
    for _ in range(3):
        client.evaluate_flags("u").is_enabled("beta")
    others = {each for each in set(threading.enumerate()) - before if "leanbase" in each.name}
    assert others <= {each for each in others if "resolve" in each.name}, others
