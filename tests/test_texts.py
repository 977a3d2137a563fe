"""`text_of` is `str()` with a limit on its work.

`str()` of an object writes out a part again at each place that holds it. So a chain of 60 lists, each of which holds
the one before twice, would make a string of 2 to the power of 60 parts. `text_of` returns the name of the class
instead.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from leanbase import Leanbase
from leanbase.texts import text_of
from leanbase.transports import MemoryTransport


@dataclasses.dataclass(eq=False)
class Node:
    left: object = None
    right: object = None


class Pair(NamedTuple):
    left: object
    right: object


class Slotted:
    __slots__ = ("left", "right")


class Named:
    """Has a `__str__` of its own, which does not show what the object holds."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __str__(self) -> str:
        return "a name"


class Failing:
    def __str__(self) -> str:
        raise ValueError


def shared(make: Callable[[Any], Any], depth: int = 60) -> Any:
    """Return a chain of objects, each of which holds the one before twice: 2 to the power of `depth` parts."""
    thing: Any = 0
    for _ in range(depth):
        thing = make(thing)
    return thing


SHARED: dict[str, Callable[[Any], Any]] = {
    "list": lambda it: [it, it],
    "tuple": lambda it: (it, it),
    "dict": lambda it: {1: it, 2: it},
    "dict's values": lambda it: {1: it, 2: it}.values(),
    "dict's items": lambda it: {1: it, 2: it}.items(),
    "deque": lambda it: collections.deque([it, it]),
    "OrderedDict": lambda it: collections.OrderedDict(a=it, b=it),
    "defaultdict": lambda it: collections.defaultdict(int, a=it, b=it),
    "UserDict": lambda it: collections.UserDict(a=it, b=it),
    "UserList": lambda it: collections.UserList([it, it]),
    "ChainMap": lambda it: collections.ChainMap({1: it}, {2: it}),
    "MappingProxyType": lambda it: MappingProxyType({1: it, 2: it}),
    "SimpleNamespace": lambda it: SimpleNamespace(a=it, b=it),
    "slice": lambda it: slice(it, it),
    "dataclass": lambda it: Node(it, it),
    "named tuple": lambda it: Pair(it, it),
    "exception": lambda it: ValueError(it, it),
    "KeyError": lambda it: (KeyError(it), it),
    "frozenset": lambda it: frozenset([it, frozenset([it])]),
}


@pytest.mark.parametrize("kind", SHARED)
def test_an_object_with_a_huge_string_is_shown_by_the_name_of_its_class(kind: str) -> None:
    thing = shared(SHARED[kind])
    started = time.monotonic()
    assert text_of(thing) == f"<{type(thing).__qualname__}>"
    assert text_of(RuntimeError(thing)) == "<RuntimeError>"
    assert time.monotonic() - started < 1


def test_a_subclass_with_an_inherited_str_is_shown_by_its_name() -> None:
    kind = type("Own", (list,), {})
    assert text_of(shared(lambda it: kind([it, it]))) == "<Own>"
    error = type("OwnError", (KeyError,), {})
    assert text_of(error(shared(SHARED["list"]))) == "<OwnError>"


@pytest.mark.parametrize(
    "thing",
    [
        (1, "a"),
        [[1]] * 1000,
        {"a": (1, 2)},
        ValueError("a string", [1]),
        KeyError("k"),
        OSError(2, "no", "file"),
        Node(1, [2]),
        Pair(1, 2),
        range(3),
        object,
        len,
        "a string",
        None,
        1.5,
        frozenset([1]),
        Named(shared(SHARED["list"])),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_every_other_object_is_shown_by_its_str(thing: object) -> None:
    assert text_of(thing) == str(thing)


def test_strings_in_an_object_count_by_their_length() -> None:
    long = "x" * 1_000_000
    assert text_of(ValueError(*[long] * 5000)) == "<ValueError>"
    assert text_of(ValueError(long * 10)) == long * 10
    assert text_of([long]) == f"['{long}']"


def test_a_list_that_holds_itself_is_shown_by_its_str() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert text_of(circle) == "[1, [...]]"
    assert text_of(ValueError(circle)) == "[1, [...]]"


def test_an_object_too_deep_for_str_is_shown_by_the_name_of_its_class() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert text_of(deep) == "<list>"


def test_an_exception_of_a_str_method_is_raised() -> None:
    with pytest.raises(ValueError):
        text_of(Failing())


# --- in events -----------------------------------------------------------------------------------------


@pytest.mark.rule("S-14", "S-22", "S-23")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ValueError(shared(SHARED["list"])), "ValueError: <ValueError>"),
        ({Node(shared(SHARED["list"])): 1}, {"<Node>": 1}),
        ({shared(SHARED["frozenset"]): 1}, {"<frozenset>": 1}),
        (slice(shared(SHARED["list"]), 1), "<slice>"),
    ],
    ids=["exception", "dataclass as a key", "frozenset as a key", "slice"],
)
def test_a_property_with_a_huge_string_has_the_name_of_its_class(
    value: Any, expected: Any, client: Leanbase, memory: MemoryTransport
) -> None:
    assert client.capture("e", distinct_id="u", properties={"value": value, "beside": 1})
    assert memory.events[0]["properties"]["value"] == expected
    assert memory.events[0]["properties"]["beside"] == 1


@pytest.mark.rule("S-16")
def test_sorting_the_values_of_a_dict_ends(client: Leanbase, memory: MemoryTransport) -> None:
    views = {1: shared(SHARED["list"], 14), 2: shared(SHARED["list"], 14)}.values()
    started = time.monotonic()
    client.capture("e", distinct_id="u", properties={"views": views, "numbers": {1: 3, 2: 1}.values()})
    assert time.monotonic() - started < 5
    assert memory.events[0]["properties"]["numbers"] == [1, 3]


@pytest.mark.slow
@pytest.mark.rule("S-16")
def test_a_set_that_is_expensive_to_sort_is_encoded_in_time(client: Leanbase) -> None:
    thing = shared(SHARED["frozenset"], 40)
    started = time.monotonic()
    client.capture("e", distinct_id="u", properties={"value": frozenset([thing, 1])})
    assert time.monotonic() - started < 30


@pytest.mark.rule("E-11")
def test_an_id_with_a_huge_string_is_the_name_of_its_class(client: Leanbase, memory: MemoryTransport) -> None:
    thing = shared(SHARED["list"])
    client.capture("e", distinct_id=thing)
    assert memory.events[0]["distinct_id"] == "<list>"


def test_exceptions_with_a_huge_message_are_captured(client: Leanbase, memory: MemoryTransport) -> None:
    detailed: Any = type("Detailed", (Exception,), {"detail": shared(SHARED["list"])})
    try:
        try:
            raise KeyError(shared(SHARED["dataclass"]))
        except KeyError as cause:
            raise detailed("x") from cause
    except detailed as error:
        client.capture_exception(error)
    shown = [each["value"] for each in memory.events[0]["properties"]["$exception_list"]]
    assert sorted(shown) == ["<KeyError>", "<list>"]
