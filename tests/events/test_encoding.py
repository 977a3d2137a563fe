"""The rules of serialisation (S-1 to S-29), and that nothing breaks them."""

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

from leanbase.errors import EventTooLargeError
from leanbase.events.encoding import MAX_ENTRIES, MAX_EVENT_BYTES, encode, sanitize


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


class Slotted:
    __attrs_attrs__ = (types.SimpleNamespace(name="a"),)

    def __init__(self) -> None:
        self.a = {1, 2}


class PydanticTwo:
    def model_dump(self) -> dict[str, Any]:
        return {"v": 2}


class PydanticOne:
    def dict(self) -> dict[str, Any]:
        return {"v": 1}


class NeedsArguments:
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


class Shouting(str):
    def __str__(self) -> str:
        return "never asked"


class Silent:
    pass


class Talking:
    def __str__(self) -> str:
        return "t" * 5000


class _WithoutEnd:
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class Endless(_WithoutEnd, set[int]):
    pass


class EndlessFrozen(_WithoutEnd, frozenset[int]):
    pass


class EndlessDeque(_WithoutEnd, collections.deque[int]):
    pass


class EndlessBases(type):
    @property
    def __mro__(cls) -> Any:
        return itertools.repeat(object)


class OfEndlessBases(metaclass=EndlessBases):
    def __str__(self) -> str:
        return "of endless bases"


HERE = __name__
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=dt.timezone(dt.timedelta(hours=2)))
ID = uuid.UUID("0198c0de-0000-7000-8000-000000000abc")


def generator() -> Iterator[int]:
    yield 1


CASES: list[tuple[str, Any, Any]] = [
    ("S-1", "naïve \ud800 café", "naïve \ufffd café"),
    ("S-1 pair", "\ud83d\ude00", "😀"),
    ("S-2", [True, False, None], [True, False, None]),
    ("S-3", [-(2**63), 2**64 - 1], [-(2**63), 2**64 - 1]),
    ("S-3 text", [-(2**63) - 1, 2**64], [str(-(2**63) - 1), str(2**64)]),
    ("S-3 longest", 10**3999, str(10**3999)),
    ("S-3 huge", [10**4000, -(10**5000)], ["<huge int>", "<huge int>"]),
    ("S-4", [1.5, math.nan, math.inf, -math.inf], [1.5, None, None, None]),
    ("S-5", [decimal.Decimal("1.10"), decimal.Decimal("5E+2")], [1.1, 500]),
    ("S-5 exact", decimal.Decimal("0.1000000000000000055"), "0.1000000000000000055"),
    ("S-5 large", decimal.Decimal(2**64 + 1), str(2**64 + 1)),
    ("S-5 float", decimal.Decimal("1E+30"), 1e30),
    ("S-5 monstrous", decimal.Decimal("1E+999999"), "1E+999999"),
    ("S-5 non-finite", [decimal.Decimal("NaN"), decimal.Decimal("-Infinity")], [None, None]),
    ("S-6", [fractions.Fraction(1, 4), 1 + 2j], [0.25, "(1+2j)"]),
    ("S-7", [MOMENT, MOMENT.replace(tzinfo=None)], [MOMENT.isoformat(), "2026-01-02T03:04:05.000600"]),
    ("S-8", [dt.date(2026, 1, 2), dt.time(3, 4)], ["2026-01-02", "03:04:00"]),
    ("S-9", dt.timedelta(minutes=1.5), 90.0),
    (
        "S-10",
        [ID, pathlib.PurePosixPath("/a/b"), ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")],
        [str(ID), "/a/b", "::1", "10.0.0.0/8"],
    ),
    ("S-11", [Colour.RED, Colour.NESTED, Number.TWO], ["red", [1, 2.5], 2]),
    ("S-12", [b"text", bytearray(b"\xc3\xa9"), memoryview(b"m")], ["text", "é", "m"]),
    ("S-12 binary", b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
    ("S-13", collections.OrderedDict([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
    ("S-13 view", types.MappingProxyType({"a": {1}}), {"a": [1]}),
    (
        "S-14",
        {None: 1, False: 2, 7: 3, 1.5: 4, ID: 5, Colour.RED: 6, MOMENT: 7, ("t", 1): 8},
        {
            "null": 1,
            "false": 2,
            "7": 3,
            "1.5": 4,
            str(ID): 5,
            "red": 6,
            MOMENT.isoformat(): 7,
            "('t', 1)": 8,
        },
    ),
    ("S-14 dropped", {Broken(): 1, "kept": 2}, {"kept": 2}),
    ("S-15", [(1, 2), collections.deque([3]), range(3)], [[1, 2], [3], [0, 1, 2]]),
    (
        "S-15 iterators",
        [generator(), iter([1]), map(str, [])],
        ["<generator>", "<list_iterator>", "<map>"],
    ),
    (
        "S-16",
        [{3, 1, 2}, frozenset("b"), {"k": 1}.keys(), {"k": 1}.items()],
        [[1, 2, 3], ["b"], ["k"], [["k", 1]]],
    ),
    ("S-16 endless", [Endless({7}), EndlessFrozen({7}), EndlessDeque([7])], [[7], [7], [7]]),
    ("S-17", Point(1, 2.0), {"x": 1, "y": 2.0}),
    ("S-18", Order(1, [Point(1, 1.0)]), {"id": 1, "lines": [{"x": 1, "y": 1.0}]}),
    ("S-18 attrs", Slotted(), {"a": [1, 2]}),
    ("S-19", [PydanticTwo(), PydanticOne()], [{"v": 2}, {"v": 1}]),
    ("S-19 failing", NeedsArguments(), f"<{HERE}.NeedsArguments>"),
    ("S-22", ValueError("bad thing"), "ValueError: bad thing"),
    ("S-23 class", [Order, int, len], [f"{HERE}.Order", "int", "len"]),
    ("S-23 function", [generator, Order.__init__], [f"{HERE}.generator", f"{HERE}.Order.__init__"]),
    ("S-23 default text", Silent(), f"<{HERE}.Silent>"),
    (
        "S-23 endless bases",
        [OfEndlessBases(), {OfEndlessBases(): 1}],
        ["of endless bases", {"of endless bases": 1}],
    ),
    ("S-23 long text", Talking(), "t" * 1024),
    ("S-28", [Shouting("quiet"), collections.Counter("a"), True + Number.TWO], ["quiet", {"a": 1}, 3]),
    (
        "S-29",
        {"a": Broken(), "b": BrokenMapping(), "c": 1},
        {"a": f"<{HERE}.Broken>", "b": f"<{HERE}.BrokenMapping>", "c": 1},
    ),
]


@pytest.mark.parametrize(("value", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_rule(value: Any, expected: Any) -> None:
    """Each kind of value becomes what its rule says, inside a dict as well as alone."""
    event = {"uuid": str(ID), "alone": sanitize(value), "inside": sanitize({"k": value})}
    assert encode(event).decode() == {"uuid": str(ID), "alone": expected, "inside": {"k": expected}}


@pytest.mark.rule("S-1")
def test_keys_that_become_one_are_one() -> None:
    """A strict server refuses an object with the same key twice."""
    body = encode({"uuid": str(ID), "p": sanitize({"\ud800": 1, "\udfff": 2})}).body  # noqa: F601
    assert body.decode().count("\ufffd") == 1


@pytest.mark.rule("S-24")
def test_circular_references_end_and_shared_ones_are_written_out() -> None:
    """A cycle is named where it closes; the same object twice side by side is no cycle."""
    circular: list[Any] = [1]
    circular.append({"again": circular})
    shared = {"x": 1}
    order = Order(1)
    order.lines.append(order)
    assert sanitize(circular) == [1, {"again": "<circular>"}]
    assert sanitize([shared, shared]) == [{"x": 1}, {"x": 1}]
    assert sanitize(order) == {"id": 1, "lines": ["<circular>"]}


@pytest.mark.rule("S-25")
def test_depth_is_limited() -> None:
    """64 levels are written, the 65th is not; the depth of the interpreter's stack does not matter."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    text = json.dumps(sanitize(deep))
    assert text.count("[") == 64
    assert "<max depth>" in text


@pytest.mark.rule("S-26")
def test_long_collections_are_cut() -> None:
    """10 000 entries are kept, and something says that there were more."""
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
def test_mutation_from_another_thread_is_harmless() -> None:
    """A dict that grows and shrinks under the encoder yields one version or another, never an error."""
    shared: dict[str, int] = {}
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(50):
                shared[str(number)] = number
            shared.clear()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(2000):
            assert isinstance(sanitize({"shared": shared})["shared"], dict)
    finally:
        stop.set()
        thread.join()


@pytest.mark.rule("W-20")
def test_a_small_graph_that_stands_for_a_huge_text_is_refused_quickly() -> None:
    """Ten references nested thirty deep would be 10**30 nodes; the walk stops at what an event can hold."""
    bomb: list[Any] = ["x"]
    for _ in range(30):
        bomb = [bomb] * 10
    with pytest.raises(EventTooLargeError):
        sanitize(bomb)


@pytest.mark.rule("W-20")
def test_an_event_of_900_kib_passes_and_a_byte_more_does_not() -> None:
    event = {"uuid": str(ID), "p": ""}
    event["p"] = "x" * (MAX_EVENT_BYTES - len(encode(event)))
    assert len(encode(event)) == MAX_EVENT_BYTES
    event["p"] += "x"
    with pytest.raises(EventTooLargeError, match=str(MAX_EVENT_BYTES + 1)):
        encode(event)


@pytest.mark.parametrize("module", ["numpy", "pandas", "pydantic", "attr"])
def test_optional_packages_are_never_imported(module: str) -> None:
    """They are recognised by name; whoever passes such a value has loaded them already."""
    loaded = module in sys.modules
    for _, value, _ in CASES:
        sanitize(value)
    assert (module in sys.modules) == loaded


# --- hypothesis: any nested value -----------------------------------------------------------------


class Hostile:
    """Raises at everything that can be asked of it."""

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
    Silent(),
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
    # By index: hypothesis prints what it samples from, which these do not survive.
    | st.integers(0, len(ODDITIES) - 1).map(lambda index: ODDITIES[index])
    | st.builds(Shouting, st.text())
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


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not strict JSON")


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(values)
def test_any_value_becomes_strict_json(value: Any) -> None:
    """Whatever is nested how, the result is strict UTF-8 JSON of plain values and nothing raises."""
    body = encode({"uuid": str(ID), "p": sanitize(value)}).body
    assert isinstance(json.loads(body.decode("utf-8"), parse_constant=refuse), dict)
    assert b"\\ud" not in body


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6),
)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_what_is_json_already_stays_what_it_is(value: Any) -> None:
    """Plain values come back equal, in objects of their own, and the caller's are untouched (G-5)."""
    before = copy.deepcopy(value)
    result = sanitize(value)
    assert result == value == before
    assert sanitize(result) == result
    if isinstance(value, (dict, list)):
        assert result is not value
