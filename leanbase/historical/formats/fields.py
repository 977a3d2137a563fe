"""Reads the unchecked fields of a row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..rows import UnusableRowError


def mapping(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a field that is an object, or the JSON of one as in Parquet. A missing field is `{}`.

    Raises:
        UnusableRowError: The field is not an object.
    """
    value = fields.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnusableRowError(f"{name} is not valid JSON") from None
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        raise UnusableRowError(f"{name} must be an object, not {type(value).__name__}")
    return dict(value)


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that are neither `None` nor an empty string, list or object."""
    return {name: value for name, value in values.items() if value is not None and value not in ("", [], {})}


def first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the first of the fields that is neither `None` nor `""`, or else `None`."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that have a value, under their new names."""
    return present({new: fields.get(old) for old, new in names.items()})
