"""The facts of `vectors.json`: hashes, operators, whole flags, relative dates and shapes of answers."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from leanbase.feature_flags import Definitions
from leanbase.feature_flags.evaluator import Identity
from leanbase.feature_flags.hashing import holdout_hash, rollout_hash, variant_hash
from leanbase.feature_flags.operators import Undecided
from leanbase.feature_flags.responses import read
from leanbase.feature_flags.snapshot import Evaluation, FeatureFlagEvaluations
from leanbase.feature_flags.values import relative_timestamp

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text())
NOW = datetime.fromisoformat("2025-01-01T00:00:00+00:00")


def of(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: vector["id"])


def outcome(definitions: Any, key: str, call: dict[str, Any]) -> tuple[Any, str | None, str | None]:
    """Return the value, why it is undecided, and its payload."""
    loaded = Definitions.from_json(definitions)
    identity = Identity(
        loaded,
        call["distinct_id"],
        groups=call.get("groups", {}),
        person_properties=call.get("person_properties", {}),
        group_properties=call.get("group_properties", {}),
        device_id=call.get("device_id"),
        now=NOW,
    )
    value = identity.decide(loaded.flag(key))
    if isinstance(value, Undecided):
        return "server" if value.is_final else "inconclusive", value.reason.value, None
    return value, None, loaded.flag(key).payload(value)


@of("hash")
def test_hashes(vector: dict[str, Any]) -> None:
    key, who = vector["key"], vector["bucketing_value"]
    place = {
        "rollout": lambda: rollout_hash(key, who),
        "variant": lambda: variant_hash(key, who),
        "holdout": lambda: holdout_hash(who),
    }[vector["kind"]]()
    assert place == pytest.approx(vector["hash"], abs=1e-6)


@of("operators")
def test_operators(vector: dict[str, Any]) -> None:
    condition = {"key": "k", "operator": vector["operator"], "value": vector["value"], "type": "person"}
    definitions = {
        "flags": [{"key": "f", "active": True, "filters": {"groups": [{"properties": [condition]}]}}]
    }
    properties = {} if vector.get("property_missing") else {"k": vector["property"]}
    found = outcome(definitions, "f", {"distinct_id": "u", "person_properties": properties})
    assert found[:2] == (vector["expected"], vector.get("reason"))


@of("flags")
def test_flags(vector: dict[str, Any]) -> None:
    found = outcome(vector["definitions"], vector["key"], vector["call"])
    assert found == (vector["expected"], vector.get("reason"), vector.get("expected_payload"))


@of("relative_dates")
def test_relative_dates(vector: dict[str, Any]) -> None:
    found = relative_timestamp(vector["value"], datetime.fromisoformat(vector["now"]))
    assert (found and found.isoformat()) == vector["expected"]


@of("responses")
def test_responses(vector: dict[str, Any]) -> None:
    evaluation = Evaluation("user_1", {})
    evaluation.records = read(vector["body"], evaluation)
    flags = FeatureFlagEvaluations(evaluation)
    found = {
        key: {"value": flags.get_flag(key), "payload": flags.get_flag_payload(key)} for key in flags.keys
    }
    assert found == vector["expected"]
    assert [key for key, record in evaluation.records.items() if record.value is None] == vector["failed"]
