"""Reads the responses of `/flags/`, in every version.

The oldest version has values and payloads in two objects. Version 2 has one object for each flag. Version 4
adds typed values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .snapshot import Evaluation, FlagValue, Record

QUOTA_LIMITED = "quota_limited"
ERRORS_WHILE_COMPUTING = "errors_while_computing_flags"
EVALUATION_FAILED = "evaluation_failed"
UNKNOWN = "unknown_error"

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_RULES = {
    "targeting_match": ("targeted_release", "percentage_rollout"),
    "experiment_split": ("experiment",),
    "experiment_paused": ("experiment",),
    "holdout": ("experiment",),
    "rollout_miss": ("percentage_rollout", "experiment"),
}
"""The types of rules that each reason code allows."""


class UnreadableError(ValueError):
    """A field has an invalid type."""


def read(body: object, evaluation: Evaluation) -> dict[str, Record]:
    """Return the records of a response. Sets the fields of `evaluation` that apply to all of them.

    Raises:
        UnreadableError: This is not a response of `/flags/`.
    """
    if not isinstance(body, Mapping):
        raise UnreadableError("not a JSON object")
    limited = body.get("quotaLimited")
    if isinstance(limited, list) and "feature_flags" in limited:
        evaluation.errors.append(QUOTA_LIMITED)
        return {}
    flags = body.get("flags")
    if isinstance(flags, Mapping):
        records = {key: _record(key, value) for key, value in flags.items() if isinstance(key, str)}
    elif isinstance(body.get("featureFlags"), Mapping):
        records = _oldest(body)
    else:
        raise UnreadableError("no flags")
    if body.get("errorsWhileComputingFlags") is True:
        evaluation.errors.append(ERRORS_WHILE_COMPUTING)
    request_id, evaluated_at = body.get("requestId"), body.get("evaluatedAt")
    evaluation.request_id = request_id if isinstance(request_id, str) else None
    evaluation.evaluated_at = _integer(evaluated_at) if _is_integer(evaluated_at) else None
    evaluation.is_minimal = body.get("minimalFlagCalledEvents") is True
    return records


def _oldest(body: Mapping[str, Any]) -> dict[str, Record]:
    payloads = body.get("featureFlagPayloads")
    payloads = payloads if isinstance(payloads, Mapping) else {}
    return {
        key: Record(key, value, payload=_payload(payloads.get(key)))
        for key, value in body["featureFlags"].items()
        if isinstance(key, str) and isinstance(value, (bool, str))
    }


def _record(key: str, raw: object) -> Record:
    try:
        return _typed(key, raw)
    except UnreadableError:
        return Record(key, False, error=UNKNOWN)


def _typed(key: str, raw: object) -> Record:
    fields = _mapping(raw)
    metadata, reason = _optional_mapping(fields.get("metadata")), _optional_mapping(fields.get("reason"))
    payload = metadata.get("payload")
    if _optional(fields.get("failed"), bool):
        value: FlagValue | None = None
        payload = None
    elif "value" in fields:
        value, payload = _value(fields["value"], payload)
    else:
        variant = _optional(fields.get("variant"), str)
        enabled = _optional(fields.get("enabled"), bool) or False
        value = variant if enabled and variant else enabled
    code = _optional(reason.get("code"), str)
    attribution, is_exposure = (None, False) if value is None else _attribution(metadata, code)
    return Record(
        key,
        value,
        payload=None if value is None else _payload(payload),
        id=_optional_integer(metadata.get("id")),
        version=_optional_integer(metadata.get("version")),
        reason=_optional(reason.get("description"), str) or code,
        reason_code=code,
        has_experiment=_optional(metadata.get("has_experiment"), bool),
        error=EVALUATION_FAILED if value is None else None,
        attribution=attribution,
        is_exposure=is_exposure,
    )


def _value(value: Any, payload: Any) -> tuple[FlagValue, Any]:
    """Return the value and the payload of a flag with a typed value."""
    if isinstance(value, bool):
        return value, payload
    if value is None:
        return False, payload
    if isinstance(value, str):
        return value or True, payload
    if isinstance(value, (int, float, Mapping)):
        return True, value  # the value is the payload
    raise UnreadableError("a list is no value")


def _attribution(metadata: Mapping[str, Any], code: str | None) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the properties about the rule that applied, and whether it is a complete experiment split.

    Only flags of configuration version 2 have such properties.
    """
    if _optional_integer(metadata.get("config_version")) != 2:
        return None, False
    found: dict[str, Any] = {"$feature_flag_config_version": 2}
    if code is not None:
        found["$feature_flag_reason_code"] = code
    rule, kind = _optional(metadata.get("rule_id"), str), _optional(metadata.get("rule_type"), str)
    has_rule = rule is not None and bool(re.fullmatch(_UUID, rule)) and kind in _RULES.get(code or "", ())
    if has_rule:
        found["$feature_flag_rule_id"] = rule
        found["$feature_flag_rule_type"] = kind
    variant = _optional(metadata.get("variant_key"), str)
    is_split = has_rule and code == "experiment_split" and bool(variant)
    if is_split:
        found["$feature_flag_variant_key"] = variant
    return found, is_split


def _payload(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, bool, int, float, list, Mapping)) else None


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UnreadableError("not an object")
    return value


def _optional_mapping(value: object) -> Mapping[str, Any]:
    return {} if value is None else _mapping(value)


def _optional(value: Any, kind: type) -> Any:
    if value is not None and type(value) is not kind:
        raise UnreadableError(f"not a {kind.__name__}")
    return value


def _is_integer(value: object) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _integer(value: Any) -> int:
    return int(value)


def _optional_integer(value: Any) -> int | None:
    if value is None:
        return None
    if not _is_integer(value):
        raise UnreadableError("not an integer")
    return int(value)
