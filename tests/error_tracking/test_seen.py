"""One exception object makes one event for each client in each outermost context, and not more."""

from __future__ import annotations

import pickle
from concurrent.futures import Future
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.transports import MemoryTransport


class WeaklyReferable(Exception):
    """Unlike the interpreter's own classes, it supports weak references. The client marks both kinds differently."""


@pytest.fixture(params=[RuntimeError, WeaklyReferable])
def error(request: pytest.FixtureRequest) -> Exception:
    error: Exception = request.param("TABLE is not set")
    return error


@pytest.mark.rule("K-17")
def test_a_stored_exception_is_captured_once_in_each_invocation(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    @leanbase.lambda_handler(client=client)
    def handler(event: Any, context: Any) -> None:
        with client.new_context():  # captures the exception, so that the handler around it does not
            raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            handler({}, None)
    assert len(memory.events) == 3


@pytest.mark.rule("K-17")
def test_each_outermost_context_captures_an_exception_once_with_its_own_identity(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    for user in ("ann", "bob"):
        with client.new_context():
            client.identify_context(user)
            assert client.capture_exception(error)
            assert client.capture_exception(error) is None
            with client.new_context(fresh=True):
                assert client.capture_exception(error) is None
    assert [event["distinct_id"] for event in memory.events] == ["ann", "bob"]


@pytest.mark.rule("K-17")
def test_the_exception_of_a_future_is_captured_in_each_context_that_awaits_it(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    future: Future[None] = Future()
    future.set_exception(error)
    for _ in range(2):
        with pytest.raises(type(error)), client.new_context():
            future.result()
    assert len(memory.events) == 2


@pytest.mark.rule("K-17")
def test_an_exception_captured_in_a_context_is_not_captured_again_outside_of_contexts(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    with pytest.raises(type(error)), client.new_context():
        raise error
    assert client.capture_exception(error) is None
    assert client.capture_exception(error) is None
    assert len(memory.events) == 1


@pytest.mark.rule("K-17")
def test_an_unpickled_exception_is_captured_although_its_original_was(
    error: Exception, client: Leanbase, memory: MemoryTransport
) -> None:
    with client.new_context():
        client.capture_exception(error)
        assert client.capture_exception(pickle.loads(pickle.dumps(error)))
    assert len(memory.events) == 2
