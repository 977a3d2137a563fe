"""`$feature_flag_called` and `$experiment_exposure`: their properties, and that each is sent once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.feature_flags.exposures import MAX_REPORTED, Reported
from tests.conftest import balanced
from tests.feature_flags.conftest import EVERYBODY, FlagServer, flag
from tests.support.threads import run_in_threads

Make = Callable[..., Leanbase]
RULE = "0198c0de-0000-7000-8000-000000000abc"


def split(**metadata: Any) -> dict[str, Any]:
    known = {
        "id": 7, "version": 2, "config_version": 2, "rule_id": RULE, "rule_type": "experiment",
        "variant_key": "blue", "experiment_id": 9, "forced_variant": None,
    }  # fmt: skip
    reason = {"code": "experiment_split", "condition_index": 0, "description": "Split"}
    return {"key": "checkout", "value": "blue", "reason": reason, "metadata": {**known, **metadata}}


def called(flags: FlagServer, client: Leanbase, read: Callable[[Any], Any], **options: Any) -> list[Any]:
    with client.delivery_scope():
        read(client.evaluate_flags("user_1", **options))
    return flags.called


def test_a_flag_of_the_server(flags: FlagServer, client_of: Make) -> None:
    reason = {"code": "condition_match", "condition_index": 1, "description": "Matched condition set 2"}
    metadata = {"id": 7, "version": 2, "payload": '{"a": 1}', "has_experiment": True}
    flags.remote = {
        "checkout": {
            "key": "checkout",
            "enabled": True,
            "variant": "blue",
            "reason": reason,
            "metadata": metadata,
        }
    }
    (event,) = called(flags, client_of(flags), lambda f: f.get_flag("checkout"), groups={"company": "acme"})
    assert event["event"] == "$feature_flag_called"
    assert event["distinct_id"] == "user_1"
    properties = event["properties"]
    about_flags = {
        name: value for name, value in properties.items() if "feature" in name or name == "$groups"
    }
    assert about_flags == {
        "$feature_flag": "checkout",
        "$feature_flag_response": "blue",
        "$feature/checkout": "blue",
        "$feature_flag_payload": {"a": 1},
        "$feature_flag_id": 7,
        "$feature_flag_version": 2,
        "$feature_flag_reason": "Matched condition set 2",
        "$feature_flag_request_id": "r-1",
        "$feature_flag_evaluated_at": 1_700_000_000_000,
        "$feature_flag_has_experiment": True,
        "$groups": {"company": "acme"},
    }
    assert properties["locally_evaluated"] is False


def test_a_flag_that_was_evaluated_here(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {"flags": [flag("beta", has_experiment=False)]}
    client = client_of(flags, secret_key="phs_secret")
    (event,) = called(flags, client, lambda f: f.is_enabled("beta"))
    properties = event["properties"]
    assert properties["locally_evaluated"] is True
    assert properties["$feature_flag_reason"] == "Evaluated locally"
    assert properties["$feature_flag_has_experiment"] is False
    assert "$feature_flag_request_id" not in properties


def test_a_missing_flag(flags: FlagServer, client_of: Make) -> None:
    (event,) = called(flags, client_of(flags), lambda f: f.get_flag("gone"))
    assert event["properties"]["$feature_flag_response"] is None
    assert event["properties"]["$feature_flag_error"] == "flag_missing"


def test_a_flag_that_the_server_could_not_evaluate(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"checkout": {"key": "checkout", "value": True, "failed": True}}
    flags.answer["errorsWhileComputingFlags"] = True

    def read(found: Any) -> None:
        assert found.keys == []
        assert found.get_flag("checkout", "default") == "default"
        assert found.only(["checkout"]).get_flag("checkout") is None

    (event,) = called(flags, client_of(flags), read)
    error = "errors_while_computing_flags,evaluation_failed"
    assert event["properties"]["$feature_flag_error"] == error


@pytest.mark.rule("F-5", "F-6")
def test_what_reports_nothing(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": {"key": "beta", "value": True}}

    def read(found: Any) -> None:
        assert found.keys == ["beta"]
        found.get_flag_payload("beta")
        found.get_flag("beta", send_feature_flag_events=False)
        found.is_enabled("beta", send_feature_flag_events=False)
        found.event_properties()
        assert found.only_accessed().keys == ["beta"]
        assert found.only([]).get_flag("beta") is None

    assert called(flags, client_of(flags), read) == []


@pytest.mark.rule("F-5")
def test_each_read_is_reported_once(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": {"key": "beta", "value": True}}
    client = client_of(flags)
    with client.delivery_scope():
        run_in_threads(*[lambda: client.get_feature_flag("beta", "user_1")] * 8)
        client.get_feature_flag("beta", "user_2")
        flags.remote["beta"]["value"] = "blue"
        client.get_feature_flag("beta", "user_1")
    values = [(event["distinct_id"], event["properties"]["$feature_flag_response"]) for event in flags.called]
    assert sorted(values, key=str) == sorted(
        [("user_1", True), ("user_2", True), ("user_1", "blue")], key=str
    )
    assert balanced(client)


def test_a_report_that_was_not_admitted_is_tried_again(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"beta": {"key": "beta", "value": True}}
    client = client_of(flags)
    client.opt_out()
    assert client.get_feature_flag("beta", "u") is True, "opting out stops reports, and not evaluation"
    client.opt_in()
    client.get_feature_flag("beta", "u")
    assert len(flags.called) == 1
    dropped: list[str] = []
    hooked = client_of(flags, before_send=lambda event: dropped.append(event["event"]))
    hooked.get_feature_flag("beta", "u")
    hooked.get_feature_flag("beta", "u")
    assert dropped == ["$feature_flag_called"], "what a hook has dropped was reported"


def test_attribution_and_exposures_of_flags_of_version_2(flags: FlagServer, client_of: Make) -> None:
    flags.remote = {"checkout": split()}
    client = client_of(flags, super_properties={"$feature_flag": "wrong", "$feature_flag_rule_id": "wrong"})
    with client.delivery_scope():
        for _ in range(2):
            client.evaluate_flags("user_1").get_flag("checkout")
    event, exposure = flags.called
    expected = {
        "$feature_flag": "checkout",
        "$feature_flag_response": "blue",
        "$feature_flag_config_version": 2,
        "$feature_flag_reason_code": "experiment_split",
        "$feature_flag_rule_id": RULE,
        "$feature_flag_rule_type": "experiment",
        "$feature_flag_variant_key": "blue",
    }
    assert {name: event["properties"].get(name) for name in expected} == expected
    assert "$feature_flag_reason" not in event["properties"]
    assert exposure["event"] == "$experiment_exposure"
    about = {name for name in exposure["properties"] if "feature" in name or name == "locally_evaluated"}
    assert about == {
        "$feature_flag", "$feature_flag_response", "locally_evaluated", "$feature_flag_variant_key",
        "$feature_flag_rule_id", "$feature_flag_id", "$feature_flag_version", "$feature_flag_request_id",
        "$feature_flag_evaluated_at",
    }  # fmt: skip


@pytest.mark.parametrize(
    "metadata",
    [{"rule_id": "no uuid"}, {"rule_type": "targeted_release"}, {"variant_key": None}, {"config_version": 1}],
)
def test_what_is_no_complete_split_is_no_exposure(
    metadata: dict[str, Any], flags: FlagServer, client_of: Make
) -> None:
    flags.remote = {"checkout": split(**metadata)}
    (event,) = called(flags, client_of(flags), lambda f: f.get_flag("checkout"))
    assert event["event"] == "$feature_flag_called"
    assert "$feature_flag_variant_key" not in event["properties"]


@pytest.mark.parametrize("is_local", [True, False])
def test_minimal_mode_keeps_few_properties(is_local: bool, flags: FlagServer, client_of: Make) -> None:
    if is_local:
        flags.definitions = {
            "flags": [flag("beta", has_experiment=False)],
            "minimal_flag_called_events": True,
        }
    else:
        metadata = {"id": 7, "version": 2, "has_experiment": False}
        flags.remote = {"beta": {"key": "beta", "enabled": True, "metadata": metadata}}
        flags.answer["minimalFlagCalledEvents"] = True
    client = client_of(
        flags, secret_key="phs_secret" if is_local else None, super_properties={"team": "shop"}
    )
    with client.new_context():
        client.tag("plan", "pro")
        client.tag("utm_source", "mail")
        (event,) = called(flags, client, lambda f: f.is_enabled("beta"))
    names = set(event["properties"])
    assert {"$feature_flag", "$feature_flag_response", "utm_source", "$lib", "$is_server"} <= names
    assert not {"plan", "team", "$feature/beta", "$context_tags"} & names


def test_flags_with_an_experiment_are_reported_whole(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {
        "flags": [flag("beta", EVERYBODY, has_experiment=True)], "minimal_flag_called_events": True
    }  # fmt: skip
    (event,) = called(flags, client_of(flags, secret_key="phs_secret"), lambda f: f.is_enabled("beta"))
    assert event["properties"]["$feature/beta"] is True


def test_what_was_reported_takes_little_memory() -> None:
    tracemalloc.start()
    reported = Reported()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(MAX_REPORTED + 100):
        reported.once(number.to_bytes(8, "big"), lambda: True)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 1024 * 1024, "feature-flags: less than 1 MiB"
    made: list[int] = []

    def make() -> bool:
        made.append(1)
        return True

    reported.once((0).to_bytes(8, "big"), make)
    reported.once((MAX_REPORTED + 99).to_bytes(8, "big"), make)
    assert made == [1], "the oldest is forgotten, the latest is not"
