"""How values become JSON: one case for each rule of the chapter Values, and random nested values."""

from __future__ import annotations

import base64
import collections
import copy
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import itertools
import json
import math
import pathlib
import sys
import threading
import types
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leanbase import Leanbase
from leanbase.errors import EventTooLargeError
from leanbase.events.encoding import MAX_ENTRIES, MAX_EVENT_BYTES, encode, sanitize
from leanbase.transports import MemoryTransport
from tests.support.threads import start_thread


class Colour(enum.Enum):
    RED = "red"
    NESTED = (1, decimal.Decimal("2.5"))


class Number(enum.IntEnum):
    TWO = 2


class Point(NamedTuple):
    x: int
    y: float


@dataclass
class Order:
    id: int
    lines: list[Any] = field(default_factory=list)


class LikeAttrs:
    __attrs_attrs__ = (types.SimpleNamespace(name="a"),)

    def __init__(self) -> None:
        self.a = {1, 2}


class LikePydanticTwo:
    def model_dump(self) -> dict[str, Any]:
        return {"v": 2}


class LikePydanticOne:
    def dict(self) -> dict[str, Any]:
        return {"v": 1}


class DictNeedsArguments:
    def dict(self, wanted: str) -> None: ...


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no")


class BrokenMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1


class StrWithOwnStr(str):
    def __str__(self) -> str:
        return "never asked"


class WithDefaultStr:
    pass


class WithLongStr:
    def __str__(self) -> str:
        return "t" * 5000


class _EndlessIteration:
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class Endless(_EndlessIteration, set[int]):
    pass


class EndlessFrozen(_EndlessIteration, frozenset[int]):
    pass


class EndlessDeque(_EndlessIteration, collections.deque[int]):
    pass


class EndlessBases(type):
    @property
    def __mro__(cls) -> Any:
        return itertools.repeat(object)


class OfEndlessBases(metaclass=EndlessBases):
    def __str__(self) -> str:
        return "of endless bases"


HERE = __name__
TIMESTAMP = dt.datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=dt.timezone(dt.timedelta(hours=2)))
ID = uuid.UUID("0198c0de-0000-7000-8000-000000000abc")


def generator() -> Iterator[int]:
    yield 1


# The ids begin with the rule, so that a failure names it.
CASES = [
    pytest.param(
        "naïve \ud800 café", "naïve \ufffd café", marks=pytest.mark.rule("S-1"), id="S-1 lone surrogate"
    ),
    pytest.param("\ud83d\ude00", "😀", marks=pytest.mark.rule("S-1"), id="S-1 pair of surrogates"),
    pytest.param([True, False, None], [True, False, None], marks=pytest.mark.rule("S-2"), id="S-2"),
    pytest.param(
        [-(2**63), 2**64 - 1], [-(2**63), 2**64 - 1], marks=pytest.mark.rule("S-3"), id="S-3 of 64 bits"
    ),
    pytest.param(
        [-(2**63) - 1, 2**64],
        [str(-(2**63) - 1), str(2**64)],
        marks=pytest.mark.rule("S-3"),
        id="S-3 of 65 bits",
    ),
    pytest.param(10**3999, str(10**3999), marks=pytest.mark.rule("S-3"), id="S-3 of 4000 digits"),
    pytest.param(
        [10**4000, -(10**5000)],
        ["<huge int>", "<huge int>"],
        marks=pytest.mark.rule("S-3"),
        id="S-3 over 4000 digits",
    ),
    pytest.param(
        [1.5, math.nan, math.inf, -math.inf], [1.5, None, None, None], marks=pytest.mark.rule("S-4"), id="S-4"
    ),
    pytest.param(
        [decimal.Decimal("1.10"), decimal.Decimal("5E+2")],
        [1.1, 500],
        marks=pytest.mark.rule("S-5"),
        id="S-5 as a number",
    ),
    pytest.param(
        decimal.Decimal("0.1000000000000000055"),
        "0.1000000000000000055",
        marks=pytest.mark.rule("S-5"),
        id="S-5 too precise",
    ),
    pytest.param(
        decimal.Decimal(2**64 + 1), str(2**64 + 1), marks=pytest.mark.rule("S-5"), id="S-5 of 65 bits"
    ),
    pytest.param(decimal.Decimal("1E+30"), 1e30, marks=pytest.mark.rule("S-5"), id="S-5 as a float"),
    pytest.param(
        decimal.Decimal("1E+999999"),
        "1E+999999",
        marks=pytest.mark.rule("S-5"),
        id="S-5 too large for a float",
    ),
    pytest.param(
        [decimal.Decimal("NaN"), decimal.Decimal("-Infinity")],
        [None, None],
        marks=pytest.mark.rule("S-5"),
        id="S-5 not finite",
    ),
    pytest.param(
        [fractions.Fraction(1, 4), 1 + 2j], [0.25, "(1+2j)"], marks=pytest.mark.rule("S-6"), id="S-6"
    ),
    pytest.param(
        [TIMESTAMP, TIMESTAMP.replace(tzinfo=None)],
        [TIMESTAMP.isoformat(), "2026-01-02T03:04:05.000600"],
        marks=pytest.mark.rule("S-7"),
        id="S-7",
    ),
    pytest.param(
        [dt.date(2026, 1, 2), dt.time(3, 4)],
        ["2026-01-02", "03:04:00"],
        marks=pytest.mark.rule("S-8"),
        id="S-8",
    ),
    pytest.param(dt.timedelta(minutes=1.5), 90.0, marks=pytest.mark.rule("S-9"), id="S-9"),
    pytest.param(
        [ID, pathlib.PurePosixPath("/a/b"), ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")],
        [str(ID), "/a/b", "::1", "10.0.0.0/8"],
        marks=pytest.mark.rule("S-10"),
        id="S-10",
    ),
    pytest.param(
        [Colour.RED, Colour.NESTED, Number.TWO],
        ["red", [1, 2.5], 2],
        marks=pytest.mark.rule("S-11"),
        id="S-11",
    ),
    pytest.param(
        [b"text", bytearray(b"\xc3\xa9"), memoryview(b"m")],
        ["text", "é", "m"],
        marks=pytest.mark.rule("S-12"),
        id="S-12 UTF-8",
    ),
    pytest.param(
        b"\xff\x00",
        base64.b64encode(b"\xff\x00").decode(),
        marks=pytest.mark.rule("S-12"),
        id="S-12 not UTF-8",
    ),
    pytest.param(
        collections.OrderedDict([("b", 1), ("a", 2)]),
        {"b": 1, "a": 2},
        marks=pytest.mark.rule("S-13"),
        id="S-13 ordered dict",
    ),
    pytest.param(
        types.MappingProxyType({"a": {1}}),
        {"a": [1]},
        marks=pytest.mark.rule("S-13"),
        id="S-13 mapping proxy",
    ),
    pytest.param(
        {None: 1, False: 2, 7: 3, 1.5: 4, ID: 5, Colour.RED: 6, TIMESTAMP: 7, ("t", 1): 8},
        {
            "null": 1,
            "false": 2,
            "7": 3,
            "1.5": 4,
            str(ID): 5,
            "red": 6,
            TIMESTAMP.isoformat(): 7,
            "('t', 1)": 8,
        },
        marks=pytest.mark.rule("S-14"),
        id="S-14",
    ),
    pytest.param({Broken(): 1, "kept": 2}, {"kept": 2}, marks=pytest.mark.rule("S-14"), id="S-14 broken key"),
    pytest.param(
        [(1, 2), collections.deque([3]), range(3)],
        [[1, 2], [3], [0, 1, 2]],
        marks=pytest.mark.rule("S-15"),
        id="S-15",
    ),
    pytest.param(
        [generator(), iter([1]), map(str, [])],
        ["<generator>", "<list_iterator>", "<map>"],
        marks=pytest.mark.rule("S-15"),
        id="S-15 iterators",
    ),
    pytest.param(
        [{3, 1, 2}, frozenset("b"), {"k": 1}.keys(), {"k": 1}.items()],
        [[1, 2, 3], ["b"], ["k"], [["k", 1]]],
        marks=pytest.mark.rule("S-16"),
        id="S-16",
    ),
    pytest.param(
        [Endless({7}), EndlessFrozen({7}), EndlessDeque([7])],
        [[7], [7], [7]],
        marks=pytest.mark.rule("S-15", "S-16"),
        id="S-16 endless __iter__",
    ),
    pytest.param(Point(1, 2.0), {"x": 1, "y": 2.0}, marks=pytest.mark.rule("S-17"), id="S-17"),
    pytest.param(
        Order(1, [Point(1, 1.0)]),
        {"id": 1, "lines": [{"x": 1, "y": 1.0}]},
        marks=pytest.mark.rule("S-17", "S-18"),
        id="S-18 dataclass",
    ),
    pytest.param(LikeAttrs(), {"a": [1, 2]}, marks=pytest.mark.rule("S-18"), id="S-18 attrs"),
    pytest.param(
        [LikePydanticTwo(), LikePydanticOne()],
        [{"v": 2}, {"v": 1}],
        marks=pytest.mark.rule("S-19"),
        id="S-19",
    ),
    pytest.param(
        DictNeedsArguments(),
        f"<{HERE}.DictNeedsArguments>",
        marks=pytest.mark.rule("S-19"),
        id="S-19 not a model",
    ),
    pytest.param(ValueError("bad thing"), "ValueError: bad thing", marks=pytest.mark.rule("S-22"), id="S-22"),
    pytest.param(
        [Order, int, len], [f"{HERE}.Order", "int", "len"], marks=pytest.mark.rule("S-23"), id="S-23 class"
    ),
    pytest.param(
        [generator, Order.__init__],
        [f"{HERE}.generator", f"{HERE}.Order.__init__"],
        marks=pytest.mark.rule("S-23"),
        id="S-23 function",
    ),
    pytest.param(
        WithDefaultStr(), f"<{HERE}.WithDefaultStr>", marks=pytest.mark.rule("S-23"), id="S-23 default str"
    ),
    pytest.param(
        [OfEndlessBases(), {OfEndlessBases(): 1}],
        ["of endless bases", {"of endless bases": 1}],
        marks=pytest.mark.rule("S-23"),
        id="S-23 endless __mro__",
    ),
    pytest.param(WithLongStr(), "t" * 1024, marks=pytest.mark.rule("S-23"), id="S-23 long str"),
    pytest.param(
        [StrWithOwnStr("content"), collections.Counter("a"), True + Number.TWO],
        ["content", {"a": 1}, 3],
        marks=pytest.mark.rule("S-28"),
        id="S-28",
    ),
    pytest.param(
        {"a": Broken(), "b": BrokenMapping(), "c": 1},
        {"a": f"<{HERE}.Broken>", "b": f"<{HERE}.BrokenMapping>", "c": 1},
        marks=pytest.mark.rule("S-29"),
        id="S-29",
    ),
]


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_a_value_is_encoded_as_its_rule_says_alone_and_inside_a_dict(value: Any, expected: Any) -> None:
    event = {"uuid": str(ID), "alone": sanitize(value), "inside": sanitize({"k": value})}
    assert encode(event).decode() == {"uuid": str(ID), "alone": expected, "inside": {"k": expected}}


@pytest.mark.rule("S-18")
def test_an_object_of_attrs_is_an_object_of_its_fields() -> None:
    attrs = pytest.importorskip("attrs")
    order = attrs.make_class("Order", ["id", "lines"], frozen=True, slots=True)
    assert sanitize(order(1, [Point(1, 1.0)])) == {"id": 1, "lines": [{"x": 1, "y": 1.0}]}


@pytest.mark.rule("S-19")
def test_a_pydantic_model_is_an_object_of_its_fields() -> None:
    pydantic = pytest.importorskip("pydantic")
    order = pydantic.create_model("Order", id=(uuid.UUID, ...), lines=(list[int], ...))
    assert sanitize(order(id=ID, lines=[1])) == {"id": str(ID), "lines": [1]}


@pytest.mark.rule("W-7", "S-14")
def test_keys_that_are_equal_once_encoded_are_written_once() -> None:
    body = encode({"uuid": str(ID), "p": sanitize({"\ud800": 1, "\udfff": 2})}).body  # noqa: F601
    assert body.decode().count("\ufffd") == 1


@pytest.mark.rule("S-24")
def test_a_circular_reference_is_named_and_a_shared_object_is_written_twice() -> None:
    circular: list[Any] = [1]
    circular.append({"again": circular})
    shared = {"x": 1}
    order = Order(1)
    order.lines.append(order)
    assert sanitize(circular) == [1, {"again": "<circular>"}]
    assert sanitize([shared, shared]) == [{"x": 1}, {"x": 1}]
    assert sanitize(order) == {"id": 1, "lines": ["<circular>"]}


@pytest.mark.rule("S-25")
def test_64_levels_are_written_and_deeper_ones_replaced() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    result = json.dumps(sanitize(deep))
    assert result.count("[") == 64
    assert "<max depth>" in result


@pytest.mark.rule("S-26")
def test_10_000_entries_are_written_and_a_mark_for_the_others() -> None:
    assert MAX_ENTRIES == 10_000
    assert len(sanitize(list(range(MAX_ENTRIES)))) == MAX_ENTRIES
    cut = sanitize(list(range(MAX_ENTRIES + 5)))
    assert len(cut) == MAX_ENTRIES + 1
    assert cut[-1] == "<truncated>"
    wide = sanitize({str(number): number for number in range(MAX_ENTRIES + 5)})
    assert len(wide) == MAX_ENTRIES + 1
    assert wide["$truncated"] is True
    assert sanitize(range(10**15))[-1] == "<truncated>"


@pytest.mark.rule("S-27")
def test_long_strings_are_not_cut() -> None:
    assert sanitize("x" * 500_000) == "x" * 500_000


@pytest.mark.rule("S-29")
def test_a_dict_that_another_thread_changes_is_encoded_without_an_error() -> None:
    shared: dict[str, int] = {}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for number in range(50):
                shared[str(number)] = number
            shared.clear()

    thread = start_thread(change)
    try:
        for _ in range(2000):
            assert isinstance(sanitize({"shared": shared})["shared"], dict)
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.rule("W-20")
@pytest.mark.slow
def test_containers_that_other_threads_change_are_captured_without_an_error(
    client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain containers are not copied before they are encoded. Either version may arrive, and every event does."""
    inner: dict[str, Any] = {"a": 1}
    steps: list[Any] = [1, inner]
    strange = [decimal.Decimal("1.5"), float("nan"), {1, 2}, b"x", 2**70, ("a",), "text", None, 1.5]
    stopped = threading.Event()

    def change() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            inner[f"key {number % 50}"] = strange[number % len(strange)]
            inner.pop(f"key {number * 7 % 50}", None)
            steps[0] = strange[number % len(strange)]
            steps.append(number)
            if len(steps) > 40:
                del steps[2:]

    threads = [threading.Thread(target=change) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            assert client.capture("e", distinct_id="u", properties={"steps": steps, "inner": inner})
    finally:
        stopped.set()
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    assert len(memory.events) == 2000
    assert not caplog.records


def test_shared_references_that_expand_to_a_huge_document_are_refused_early() -> None:
    expanding: list[Any] = ["x"]
    for _ in range(30):
        expanding = [expanding] * 10  # in the end 10**30 strings
    with pytest.raises(EventTooLargeError):
        sanitize(expanding)


@pytest.mark.rule("W-20")
def test_an_event_may_have_900_kib_and_not_a_byte_more() -> None:
    assert MAX_EVENT_BYTES == 900 * 1024
    event = {"uuid": str(ID), "p": ""}
    event["p"] = "x" * (MAX_EVENT_BYTES - len(encode(event)))
    assert len(encode(event)) == MAX_EVENT_BYTES
    event["p"] += "x"
    with pytest.raises(EventTooLargeError, match=str(MAX_EVENT_BYTES + 1)):
        encode(event)


@pytest.mark.parametrize("module", ["numpy", "pandas", "pydantic", "attr"])
def test_encoding_does_not_import_optional_packages(module: str) -> None:
    was_loaded = module in sys.modules
    for case in CASES:
        sanitize(case.values[0])
    assert (module in sys.modules) == was_loaded


# --- random nested values -------------------------------------------------------------------------------


class Hostile:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("hostile")

    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        raise RuntimeError("hostile")

    __repr__ = __str__


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError("hostile")


class HostileClass(metaclass=HostileMeta):
    def __str__(self) -> str:
        raise RuntimeError("hostile")


ODDITIES: list[Any] = [
    Colour.RED,
    Number.TWO,
    Broken(),
    BrokenMapping(),
    Hostile(),
    HostileClass(),
    WithDefaultStr(),
    int,
    len,
    generator,
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals()
    | st.fractions()
    | st.complex_numbers()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.ip_addresses()
    # By index, because hypothesis would print these objects, and their methods raise.
    | st.integers(0, len(ODDITIES) - 1).map(lambda index: ODDITIES[index])
    | st.builds(StrWithOwnStr, st.text())
    | st.builds(ValueError, st.text())
)
keys = (
    st.text(st.characters(exclude_categories=()))
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.uuids()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.lists(inner, max_size=6).map(collections.deque)
        | st.dictionaries(keys, inner, max_size=6)
        | st.dictionaries(keys, inner, max_size=6).map(types.MappingProxyType)
        | st.builds(Point, inner, inner)
        | st.builds(Order, st.integers(), st.lists(inner, max_size=3))
    ),
    max_leaves=40,
)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not strict JSON")


@pytest.mark.rule("W-7", "S-29")
@pytest.mark.slow
@settings(max_examples=3 * settings().max_examples)
@given(values)
def test_any_nested_value_becomes_strict_utf_8_json(value: Any) -> None:
    body = encode({"uuid": str(ID), "p": sanitize(value)}).body
    assert isinstance(json.loads(body.decode("utf-8"), parse_constant=refuse_constant), dict)
    assert b"\\ud" not in body


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6),
)


@pytest.mark.slow
@pytest.mark.rule("G-5")
@settings(max_examples=2 * settings().max_examples)
@given(plain)
def test_plain_json_values_are_copied_and_equal_to_the_callers(value: Any) -> None:
    before = copy.deepcopy(value)
    result = sanitize(value)
    assert result == value == before
    assert sanitize(result) == result
    if isinstance(value, (dict, list)):
        assert result is not value
