"""NumPy's scalars and arrays, as property values and as timestamps."""

from __future__ import annotations

from typing import Any

import pytest

from leanbase.events.encoding import sanitize
from leanbase.events.timestamps import normalized_timestamp

np: Any = pytest.importorskip("numpy")


@pytest.mark.rule("S-20")
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_datetime64_of_any_unit_is_iso_8601(unit: str) -> None:
    timestamp = np.datetime64("2026-01-02T03:04:05", unit)
    assert sanitize(timestamp)[:19] == "2026-01-02T03:04:05"
    assert [each[:19] for each in sanitize(np.array([timestamp]))] == ["2026-01-02T03:04:05"]


@pytest.mark.rule("E-12")
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_datetime64_can_be_the_timestamp_of_an_event(unit: str) -> None:
    assert normalized_timestamp(np.datetime64("2026-01-02T03:04:05", unit)) == "2026-01-02T03:04:05+00:00"


@pytest.mark.rule("S-20")
@pytest.mark.parametrize(
    ("string", "unit"), [("2026", "Y"), ("2026-01", "M"), ("2026-01-02", "D"), ("2026-01-02T03", "h")]
)
def test_datetime64_of_hours_days_or_more_keeps_its_precision(string: str, unit: str) -> None:
    assert sanitize(np.datetime64(string, unit)) == string


@pytest.mark.rule("S-20")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [((1_500_000_000, "ns"), 1.5), ((250, "ms"), 0.25), ((2, "h"), 7200.0), ((-1, "D"), -86400.0)],
)
def test_timedelta64_is_seconds(value: tuple[int, str], seconds: float) -> None:
    assert sanitize(np.timedelta64(*value)) == seconds
    assert sanitize(np.array([np.timedelta64(*value)])) == [seconds]


@pytest.mark.rule("S-20")
def test_timedelta64_of_months_or_years_is_a_string() -> None:
    assert sanitize([np.timedelta64(3, "M"), np.timedelta64(2, "Y")]) == ["3 months", "2 years"]


@pytest.mark.rule("S-20")
def test_nat_is_null() -> None:
    nat = np.datetime64("NaT"), np.timedelta64("NaT", "s")
    assert sanitize([*nat, np.array([nat[0]])]) == [None, None, [None]]


@pytest.mark.rule("S-20")
def test_scalars_become_their_python_counterparts() -> None:
    values = (
        np.int64(7),
        np.float32(0.5),
        np.float64("nan"),
        np.bool_(True),
        np.longdouble("1.5"),
        np.str_("a"),
    )
    assert sanitize(list(values)) == [7, 0.5, None, True, 1.5, "a"]
    assert sanitize([np.complex64(1 + 2j), np.clongdouble(1 + 2j)]) == ["(1+2j)", "(1+2j)"]


@pytest.mark.rule("S-21")
def test_arrays_are_nested_lists_or_a_description_if_too_large() -> None:
    assert sanitize(np.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert sanitize(np.array([[1.5], [2]], dtype="longdouble")) == [[1.5], [2.0]]
    assert sanitize(np.array(1.5, dtype="longdouble")) == 1.5
    assert sanitize(np.array(["2026-01-02"], dtype="datetime64[D]").reshape(1, 1)) == [["2026-01-02"]]
    assert sanitize(np.array([1.0, float("nan")])) == [1.0, None]
    assert sanitize(np.zeros(20_000)) == "<array dtype=float64 shape=(20000,)>"
    assert sanitize(np.zeros(20_000, dtype="datetime64[s]")) == "<array dtype=datetime64[s] shape=(20000,)>"
