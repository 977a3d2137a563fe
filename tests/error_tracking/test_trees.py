"""Hypothesis draws trees of exceptions, with cycles and hostile classes. Each makes one valid event.

The client sends the event to `LocalServer`, a real server in a thread of this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import exceptiongroup
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leanbase import Leanbase
from leanbase.local.server import LocalServer
from tests.error_tracking.exception_format import assert_valid_exception


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("broken __str__")


class BrokenRepr(BrokenStr):
    def __repr__(self) -> str:
        raise RuntimeError("broken __repr__")


class LyingClass(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("hostile __class__")

    @__class__.setter
    def __class__(self, value: object) -> None:
        raise RuntimeError("hostile __class__")


class Inaccessible(Exception):
    """Its attributes can be neither read nor set."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


class HidesBuiltinFields(Exception):
    """Properties that raise hide the interpreter's own fields."""

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("__cause__")

    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("__context__")

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("__traceback__")

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("exceptions")

    @property
    def message(self) -> Any:
        raise RuntimeError("message")


class StrIsNotAString(Exception):
    def __str__(self) -> Any:
        return 7

    def __repr__(self) -> Any:
        return None


class Unequal(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("broken __eq__")


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__name__", "__module__", "__mro__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class OfHostileClass(Exception, metaclass=HostileMeta):
    pass


class HasLoneSurrogate(Exception):
    def __str__(self) -> str:
        return "half \ud83d of a pair"


KINDS = [
    BrokenRepr, BrokenStr, HasLoneSurrogate, HidesBuiltinFields, Inaccessible, KeyError, LyingClass, OfHostileClass,
    StrIsNotAString, Unequal, ValueError,
]  # fmt: skip

# The tests read and set the fields of exceptions through the interpreter's slots, past the hostile classes.
set_cause = vars(BaseException)["__cause__"].__set__
set_context = vars(BaseException)["__context__"].__set__
set_suppress = vars(BaseException)["__suppress_context__"].__set__
read = {
    name: vars(BaseException)[name].__get__ for name in ("__cause__", "__context__", "__traceback__", "args")
}


def raise_at_depth(error: BaseException, depth: int) -> None:
    if depth:
        raise_at_depth(error, depth - 1)
    raise error


@st.composite
def trees(draw: st.DrawFn) -> list[BaseException]:
    """Draw exceptions with any links between them, cycles included. The first is the one to capture."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8))
    nodes: list[BaseException] = [kind(number) for number, kind in enumerate(kinds)]
    positions = st.integers(0, len(nodes) - 1)  # not the exceptions: hypothesis would call their methods
    for members in draw(st.lists(st.lists(positions, min_size=1, max_size=4), max_size=3)):
        nodes.append(exceptiongroup.BaseExceptionGroup("group", [nodes[number] for number in members]))
    nodes.reverse()
    for node in nodes:
        if draw(st.booleans()):
            try:
                raise_at_depth(node, draw(st.integers(0, 3)))
            except BaseException:
                set_context(node, None)
    other = st.none() | st.integers(0, len(nodes) - 1)
    for node in nodes:
        for set_link in (set_context, set_cause):
            number = draw(other)
            set_link(node, None if number is None else nodes[number])
        set_suppress(node, draw(st.booleans()))
    return nodes


@pytest.fixture(scope="module")
def ingestion_server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


def state(node: BaseException) -> list[Any]:
    """Return all that a capture must not change: links, traceback, arguments and attributes, without the SDK's mark."""
    fields = [id(get(node)) if name != "args" else get(node) for name, get in read.items()]
    attributes = vars(BaseException)["__dict__"].__get__(node)
    return [*fields, {name: value for name, value in attributes.items() if "leanbase" not in name}]


@pytest.mark.rule("K-17", "K-20", "X-9", "X-10")
@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=trees(), variables=st.booleans())
def test_any_tree_of_exceptions_makes_one_valid_event_and_stays_unchanged(
    ingestion_server: LocalServer, nodes: list[BaseException], variables: bool
) -> None:
    client = Leanbase("phc_test", ingestion_server.url, capture_exception_code_variables=variables)
    before, seen = [state(node) for node in nodes], len(ingestion_server.store.events())
    try:
        uuid = client.capture_exception(nodes[0], distinct_id="u")
        events = ingestion_server.store.events()[seen:]
        assert [event["uuid"] for event in events] == [uuid]
        assert_valid_exception(events[0])
        assert [state(node) for node in nodes] == before
        assert client.capture_exception(nodes[0], distinct_id="u") is None
        assert client.stats()["dropped"] == {}
    finally:
        client.shutdown()
        for node in nodes:  # break the cycles, so that the exceptions are freed at once
            set_cause(node, None)
            set_context(node, None)
