"""One exception object makes one event in each outermost context (K-17)."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.transports import MemoryTransport


class Referable(Exception):
    """Unlike the interpreter's own, it takes weak references."""


@pytest.fixture(params=[RuntimeError, Referable])
def error(request: pytest.FixtureRequest) -> Exception:
    error: Exception = request.param("TABLE is not set")
    return error


@pytest.fixture
def client(memory: MemoryTransport) -> Leanbase:
    return Leanbase("phc", transport=memory)


@pytest.mark.rule("K-17")
def test_a_stored_exception_is_captured_in_each_invocation(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> None:
        with client.new_context():  # the innermost captures it, and the invocation does not again
            raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            handler({}, None)
    assert len(memory.events) == 3


@pytest.mark.rule("K-17")
def test_each_context_captures_it_once_with_its_own_identity(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    for person in ("ann", "bob"):
        with client.new_context():
            client.identify_context(person)
            assert client.capture_exception(error)
            assert client.capture_exception(error) is None
            with client.new_context(fresh=True):
                assert client.capture_exception(error) is None
    assert [event["distinct_id"] for event in memory.events] == ["ann", "bob"]


@pytest.mark.rule("K-17")
def test_a_failed_future_is_captured_for_each_who_awaits_it(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    future: Future[None] = Future()
    future.set_exception(error)
    for _ in range(2):
        with pytest.raises(type(error)), client.new_context():
            future.result()
    assert len(memory.events) == 2


@pytest.mark.rule("K-17")
def test_outside_of_contexts_it_stays_captured(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    with pytest.raises(type(error)), client.new_context():
        raise error
    assert client.capture_exception(error) is None  # as a hook would, when it is the last to see it
    assert client.capture_exception(error) is None
    assert len(memory.events) == 1


@pytest.mark.rule("K-17")
def test_what_another_process_has_captured_is_captured_here(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    with client.new_context():
        client.capture_exception(error)
        assert client.capture_exception(pickle.loads(pickle.dumps(error)))
    assert len(memory.events) == 2
