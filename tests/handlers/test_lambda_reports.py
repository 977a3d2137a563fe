"""Reports of Lambda's runtime client, with a runtime client of this process: other versions, several clients.

`tests/lambda_runtime/test_auto.py` has the real one.
"""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.delivery import scope as scopes
from leanbase.handlers.aws_lambda import reports, runtime
from leanbase.testing import LambdaContext
from leanbase.transports import MemoryTransport
from tests.support.fault_server import Behaviour, FaultServer

pytestmark = pytest.mark.rule("L-3")


class Fault(Exception):
    def __init__(self, exception_type: str, msg: str, trace: object = None) -> None:
        self.exception_type, self.msg, self.trace = exception_type, msg, trace


class BaseClient:
    def post_invocation_result(self, invoke_id: str, result_data: object) -> str:
        return "posted"


class OrdinaryClient(BaseClient):
    pass


class ConcurrentClient(BaseClient):
    """The runtime client of Managed Instances."""


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    module = SimpleNamespace(
        __name__="awslambdaric.bootstrap",
        make_error=lambda *args, **kwargs: (args, kwargs),
        LambdaRuntimeClient=OrdinaryClient,
        FaultException=Fault,
    )
    monkeypatch.setitem(sys.modules, "awslambdaric.bootstrap", module)
    monkeypatch.setattr(BaseClient, "post_invocation_result", BaseClient.post_invocation_result)
    monkeypatch.setattr(reports, "_reported", None)
    yield module
    gc.collect()


@pytest.fixture
def autocapture(memory: MemoryTransport) -> Iterator[Leanbase]:
    client = Leanbase("phc_test", transport=memory, enable_exception_autocapture=True)
    yield client
    client.shutdown()


def reported(make_error: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Report an exception as the runtime client does, while it handles it."""
    try:
        raise KeyError("TABLE")
    except KeyError:
        return make_error("message", "KeyError", [], *args, **kwargs)


def types(memory: MemoryTransport) -> list[str]:
    return [event["properties"]["$exception_type"] for event in memory.events]


def test_a_report_is_seen_and_unchanged(
    bootstrap: SimpleNamespace, autocapture: Leanbase, memory: MemoryTransport
) -> None:
    reports.watch()
    assert reported(bootstrap.make_error) == (("message", "KeyError", []), {})
    assert types(memory) == ["KeyError"]


def test_a_report_whose_arguments_have_names_is_seen(
    bootstrap: SimpleNamespace, autocapture: Leanbase, memory: MemoryTransport
) -> None:
    reports.watch()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        bootstrap.make_error(error_message="m", error_type="t", stack_trace=[], xray=1)
    reported(bootstrap.make_error, invoke_id="r")  # of a handler: the decorator captures it
    assert types(memory) == ["ZeroDivisionError"]


@pytest.mark.parametrize("missing", ["make_error", "LambdaRuntimeClient", "FaultException", "_get_handler"])
def test_an_unknown_runtime_client_breaks_nothing(
    bootstrap: SimpleNamespace, autocapture: Leanbase, memory: MemoryTransport, missing: str
) -> None:
    vars(bootstrap).pop(missing, None)
    reports.watch()
    if missing != "make_error":
        reported(bootstrap.make_error)
        assert types(memory) == ["KeyError"]
    error = KeyError()
    assert runtime.as_reported(error) is error
    assert runtime.import_handler("os.path.join") is not None


@pytest.mark.parametrize("client", [OrdinaryClient, ConcurrentClient])
def test_responses_of_every_runtime_client_are_seen(
    bootstrap: SimpleNamespace, autocapture: Leanbase, memory: MemoryTransport, client: type[BaseClient]
) -> None:
    reports.watch()
    for size in (reports.MAX_RESPONSE_BYTES, reports.MAX_RESPONSE_BYTES + 1):
        assert client().post_invocation_result("r", "x" * size) == "posted"
        assert client().post_invocation_result("r", b"x" * size) == "posted"
    assert types(memory) == ["Function.ResponseSizeTooLarge"] * 2


def test_both_distributions_see_the_reports(
    bootstrap: SimpleNamespace,
    autocapture: Leanbase,
    memory: MemoryTransport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, "__package__", "another_distribution.handlers.aws_lambda")
    reports.watch()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "awslambdaric.bootstrap", bootstrap)
    before = bootstrap.make_error
    reports.watch()
    assert bootstrap.make_error is not before
    after = bootstrap.make_error
    reports.watch()
    assert bootstrap.make_error is after, "each once"


def test_an_exception_that_was_captured_already_is_not_captured_again(
    bootstrap: SimpleNamespace, autocapture: Leanbase, memory: MemoryTransport
) -> None:
    reports.watch()
    try:
        raise KeyError("TABLE")
    except KeyError as error:
        autocapture.capture_exception(error)
        bootstrap.make_error("message", "KeyError", [])
    assert types(memory) == ["KeyError"]


def test_several_clients_share_the_time_and_one_that_fails_stops_no_other(
    bootstrap: SimpleNamespace,
    autocapture: Leanbase,
    memory: MemoryTransport,
    server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, "SECONDS", 0.4)
    server.always(Behaviour(delay=10))
    others = [Leanbase("k", server.url, enable_exception_autocapture=True) for _ in range(4)]
    leanbase.api_key = 3  # type: ignore[assignment]  # the default client cannot be created
    reports.watch()
    began = time.monotonic()
    reported(bootstrap.make_error)
    assert time.monotonic() - began < 1.2
    assert types(memory) == ["KeyError"]
    server.always(Behaviour())
    for each in others:
        each.shutdown()


@pytest.mark.parametrize("options", [{}, {"timeout_warning": True}])
def test_an_invocation_leaves_nothing_for_the_garbage_collector(
    memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Its events may be large, and a sandbox has little memory."""
    client = Leanbase("phc_test", transport=memory)
    made: list[weakref.ref[object]] = []

    class Scope(scopes.DeliveryScope):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr("leanbase.handlers.aws_lambda.decorator.DeliveryScope", Scope)

    @leanbase.lambda_handler(client=client, **options)
    def handler(event: Any, context: Any) -> None:
        client.capture("order created")

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            handler({}, LambdaContext())
        assert [each() for each in made] == [None] * 3
    finally:
        gc.enable()
