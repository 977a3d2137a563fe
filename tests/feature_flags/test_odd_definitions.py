"""Definitions and values that nobody has thought of: each concerns one flag, and none takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.feature_flags import SourceError
from leanbase.feature_flags.regexes import UnlikeError, compiled
from leanbase.feature_flags.sources.api import ApiSource
from leanbase.feature_flags.values import to_string
from leanbase.transports.deadline import Deadline
from tests.feature_flags.conftest import EVERYBODY, PRO, FlagServer, flag
from tests.support.fault_server import Behaviour

Make = Callable[..., Leanbase]


def person(key: Any, operator: str = "exact", value: Any = "x") -> dict[str, Any]:
    return {"properties": [{"key": key, "operator": operator, "value": value, "type": "person"}]}


ODD_FILTERS: list[Any] = [
    [1], "x", 7, {"groups": 7}, {"groups": [7]}, {"groups": [person(["a"])]}, {"groups": [{"rollout_percentage": "x"}]},
    {"groups": [{}], "multivariate": {"variants": [7]}}, {"groups": [{}], "holdout": {"id": 1}},
    {"groups": [{"properties": [{"type": "cohort", "value": 3}]}]}, {"groups": [{"properties": [{"type": "flag"}]}]},
    {"groups": [{"properties": [{"key": "plan", "operator": ["exact"], "value": 1}]}]}, {"groups": [{}], "payloads": 7},
]  # fmt: skip


@pytest.mark.parametrize("filters", ODD_FILTERS, ids=str)
def test_an_odd_flag_concerns_no_other(filters: Any, flags: FlagServer, client_of: Make) -> None:
    cohorts = {"3": {"type": "AND", "values": [{"key": ["a"], "value": 1, "type": "person"}]}}
    flags.definitions = {"flags": [flag("odd", filters), flag("beta")], "cohorts": cohorts}
    client = client_of(flags, secret_key="phs_secret")
    found = client.evaluate_flags("u", person_properties={"plan": "pro", "a": 1}, only_evaluate_locally=True)
    assert found.get_flag("beta") is True
    assert found.get_flag("odd", send_feature_flag_events=False) in (None, False)


SLOW = [
    (r"^(a|aa)+$", "a" * 60 + "!"),
    (r"\d+\d+\d+x", "1" * 400),
    (r".*.*.*=", "x" * 1000),
    (r"(a+)+$", "a" * 60 + "!"),
    ("a?" * 40 + "a" * 40, "a" * 40),
    (r"a{0,500}a{0,500}a{0,500}b", "a" * 500),
    (r"\w+\w+x", "a" * 5000),
    (r".*x", "y" * 100_000),
]


@pytest.mark.parametrize(("pattern", "text"), SLOW)
def test_expressions_that_would_take_long_are_left_to_the_server(pattern: str, text: str) -> None:
    started = time.perf_counter()
    try:
        search = compiled(pattern)
        assert search is not None
        assert search(text) is None
    except UnlikeError:
        pass
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^[^@]+@[^@]+$", "jo@example.com", True),
        (r"^(?:beta|alpha)-\d{2,4}$", "beta-123", True),
        (r"colou?r", "color", True),
        (r".+@example\.com$", "jo@example.org", False),
    ],
)
def test_usual_expressions_are_searched_here(pattern: str, text: str, found: bool) -> None:
    search = compiled(pattern)
    assert search is not None
    assert search(text) is found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e16, "1e16"),
        (1.5e-7, "1.5e-7"),
        (1e-5, "0.00001"),
        (-2.5e-5, "-0.000025"),
        (0.1, "0.1"),
        (5.0, "5.0"),
    ],
)
def test_numbers_are_spelled_as_the_service_spells_them(value: float, text: str) -> None:
    assert to_string(value) == text


def test_what_has_no_json_is_left_to_the_server(flags: FlagServer, client_of: Make) -> None:
    of_group = {"groups": [person("n", "lt", 5)], "aggregation_group_type_index": 0}
    flags.definitions = {
        "flags": [flag("person", {"groups": [person("n", "exact", "null")]}), flag("group", {"groups": [{"properties": [{"key": "n", "value": "null", "type": "group"}]}], "aggregation_group_type_index": 0}), flag("fine", of_group)],
        "group_type_mapping": {"0": "company"},
    }  # fmt: skip
    client = client_of(flags, secret_key="phs_secret")
    nan = float("nan")
    found = client.evaluate_flags(
        "u",
        groups={"company": "acme"},
        person_properties={"n": nan},
        group_properties={"company": {"n": nan}},
        only_evaluate_locally=True,
    )
    assert set(found.unresolved_flags) == {"person", "group"}


@pytest.mark.parametrize(
    ("given", "expected"), [(True, True), ("true", True), (1, False), (1.0, False), ("1", False)]
)
def test_only_true_enrols(given: Any, expected: bool, flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {"flags": [flag("beta", {"feature_enrollment": True})]}
    client = client_of(flags, secret_key="phs_secret")
    found = client.evaluate_flags("u", person_properties={"$feature_enrollment/beta": given})
    assert found.get_flag("beta", send_feature_flag_events=False) is expected


def test_callers_cannot_change_definitions(flags: FlagServer, client_of: Make) -> None:
    flags.definitions = {"flags": [flag("beta", {**EVERYBODY, "payloads": {"true": '{"a": [1]}'}})]}
    client = client_of(flags, secret_key="phs_secret")
    client.load_feature_flags()
    loaded: Any = client.feature_flag_definitions()
    loaded[0]["active"] = False
    loaded[0]["filters"]["groups"].clear()
    found = client.evaluate_flags("u")
    assert found.get_flag("beta") is True
    found.get_flag_payload("beta")["a"].append(2)
    assert found.get_flag_payload("beta") == {"a": [1]}


def test_a_failed_record_is_no_exposure(flags: FlagServer, client_of: Make) -> None:
    metadata = {
        "config_version": 2, "rule_id": "0198c0de-0000-7000-8000-000000000abc", "rule_type": "experiment",
        "variant_key": "blue",
    }  # fmt: skip
    reason = {"code": "experiment_split"}
    flags.remote = {
        "a": {"key": "a", "value": "blue", "failed": True, "reason": reason, "metadata": metadata}
    }
    client = client_of(flags)
    assert client.get_feature_flag("a", "u") is None
    (event,) = flags.called
    assert event["event"] == "$feature_flag_called"
    assert "$feature_flag_rule_id" not in event["properties"]


def test_a_client_that_sends_nothing_asks_nothing(flags: FlagServer, client_of: Make) -> None:
    client = client_of(flags, secret_key="phs_secret", send=False)
    assert client.evaluate_flags("u").is_enabled("beta", True) is True
    assert client.load_feature_flags() is False
    assert client.get_remote_config_payload("a") is None
    assert flags.requests == []


def test_a_key_that_no_header_can_have_is_not_shown(flags: FlagServer) -> None:
    source = ApiSource(flags.url, "phc_test", "phs_\nhush")
    with pytest.raises(SourceError, match="characters that a header cannot have") as error:
        source.load(None, deadline=Deadline.after(1))
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None


def test_properties_of_another_group_do_not_count(flags: FlagServer, client_of: Make) -> None:
    filters = {"groups": [{"properties": [{**PRO, "type": "group"}]}], "aggregation_group_type_index": 0}
    flags.definitions = {"flags": [flag("beta", filters)], "group_type_mapping": {"0": "company"}}
    client = client_of(flags, secret_key="phs_secret")
    client.set_group_properties_for_flags("company", "acme", {"plan": "pro"})

    def value(company: str) -> Any:
        found = client.evaluate_flags("u", groups={"company": company}, only_evaluate_locally=True)
        return found.get_flag("beta", send_feature_flag_events=False)

    assert value("acme") is True
    assert value("globex") is None
    client.set_group_properties_for_flags("company", "globex", {"size": 1})
    assert value("acme") is None, "the properties of one group are kept for a type"


@pytest.mark.slow
def test_a_request_that_had_little_time_says_little_about_the_server(
    flags: FlagServer, client_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import leanbase
    from leanbase.testing import LambdaContext

    flags.remote = {"beta": {"key": "beta", "value": True}}
    flags.routes["/flags/?"] = Behaviour(instead="silence")
    client = client_of(flags)

    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> str | None:
        return client.evaluate_flags("u").error

    assert handler({}, LambdaContext(0.4)) == "timeout"
    time.sleep(1.1)
    flags.routes["/flags/?"] = Behaviour(respond=flags._evaluate)
    assert handler({}, LambdaContext(5.0)) is None
