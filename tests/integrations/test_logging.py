"""`LeanbaseHandler`, which captures log records as exceptions."""

from __future__ import annotations

import io
import logging
import logging.handlers
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.integrations.logging import LeanbaseHandler
from leanbase.transports import MemoryTransport
from tests.error_tracking.exception_format import assert_valid_exception, frames, functions
from tests.support.fault_server import Behaviour, FaultServer
from tests.support.threads import run_in_threads


@pytest.fixture
def log(server: FaultServer, make: Callable[..., Leanbase]) -> logging.Logger:
    """A logger with only a `LeanbaseHandler`."""
    logger = logging.Logger("shop.orders")
    logger.addHandler(LeanbaseHandler(client=make(server)))
    return logger


def exception_properties(server: FaultServer) -> dict[str, Any]:
    """Return the properties of the only event that the server has received."""
    (event,) = server.events
    assert_valid_exception(event)
    found: dict[str, Any] = event["properties"]
    return found


@pytest.mark.rule("D-9", "X-21", "X-22")
def test_a_record_with_an_exception_is_captured_as_that_exception(
    server: FaultServer, log: logging.Logger
) -> None:
    try:
        raise ValueError("no money")
    except ValueError:
        log.exception("order %s failed", 7)
    found = exception_properties(server)
    assert (found["$exception_type"], found["$exception_message"]) == ("ValueError", "no money")
    assert found["$exception_level"] == "error"
    assert found["$exception_source"] == "python.logging"
    assert (found["logger_name"], found["logger_level"]) == ("shop.orders", "ERROR")
    assert found["logger_message"] == "order 7 failed"
    assert found["$exception_list"][0]["mechanism"] == {
        "type": "logger", "handled": True, "synthetic": False, "exception_id": 0,
    }  # fmt: skip


@pytest.mark.rule("X-5", "X-22")
def test_a_record_without_an_exception_has_the_stack_of_the_call(
    server: FaultServer, log: logging.Logger
) -> None:
    log.critical("no stock left of %s", "tea")
    found = exception_properties(server)
    assert (found["$exception_type"], found["$exception_message"]) == (
        "LoggedCritical", "no stock left of tea",
    )  # fmt: skip
    assert found["$exception_level"] == "fatal"
    assert found["logger_level"] == "CRITICAL"
    assert "logger_message" not in found
    mechanism = found["$exception_list"][0]["mechanism"]
    assert (mechanism["handled"], mechanism["synthetic"]) == (True, True)
    assert functions(found)[-1] == "test_a_record_without_an_exception_has_the_stack_of_the_call"
    assert frames(found)[-1]["context_line"] == '    log.critical("no stock left of %s", "tea")'


def test_the_stack_starts_at_stacklevel(server: FaultServer, log: logging.Logger) -> None:
    def log_error() -> None:
        log.error("from the caller", stacklevel=2)

    log_error()
    assert functions(exception_properties(server))[-1] == "test_the_stack_starts_at_stacklevel"


@pytest.mark.rule("X-22")
def test_records_below_the_level_of_the_handler_are_not_captured(
    server: FaultServer, log: logging.Logger
) -> None:
    log.setLevel(logging.DEBUG)
    log.warning("below")
    assert server.events == []
    log.handlers[0].setLevel(logging.INFO)
    for level in (logging.INFO, 35):
        log.log(level, "now above")
    assert [event["properties"]["$exception_type"] for event in server.events] == [
        "LoggedInfo",
        "LoggedLevel 35",
    ]
    assert [event["properties"]["$exception_level"] for event in server.events] == ["info", "warning"]


@pytest.mark.rule("K-17")
def test_an_exception_that_is_logged_and_leaves_a_context_is_captured_once(
    server: FaultServer, log: logging.Logger, make: Callable[..., Leanbase]
) -> None:
    client = log.handlers[0]._client  # type: ignore[attr-defined]
    with pytest.raises(ValueError), client.new_context():
        try:
            raise ValueError("once")
        except ValueError:
            log.exception("first")
            log.exception("again")
            raise
    assert len(server.events) == 1


@pytest.mark.rule("G-1")
def test_a_message_that_cannot_be_formatted_is_captured_as_it_is(
    server: FaultServer, log: logging.Logger
) -> None:
    log.error("one %s and %s", 1)
    assert exception_properties(server)["$exception_message"] == "one %s and %s"


def test_exc_info_without_an_exception_is_captured_as_a_message(
    server: FaultServer, log: logging.Logger
) -> None:
    log.exception("outside of an except block")
    assert exception_properties(server)["$exception_type"] == "LoggedError"


def test_records_of_the_sdk_and_of_its_sends_are_not_captured(server: FaultServer) -> None:
    client = Leanbase("phc_test", server.url, max_retries=0)
    root, handler = logging.getLogger(), LeanbaseHandler(logging.DEBUG, client)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("leanbase").setLevel(logging.DEBUG)
    try:
        server.script(Behaviour(status=500))
        client.capture("fails, which is logged", distinct_id="u")
        client.capture("works, which urllib3 logs", distinct_id="u")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert {event["event"] for event in server.events} == {
        "fails, which is logged",
        "works, which urllib3 logs",
    }


def test_records_of_another_thread_show_where_they_were_made(
    server: FaultServer, log: logging.Logger
) -> None:
    (handler,) = log.handlers
    log.removeHandler(handler)
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    through = logging.handlers.QueueHandler(records)
    log.addHandler(through)
    thread = threading.Thread(target=log.error, args=("from a thread",))  # whose `run` is the frame below
    thread.start()
    thread.join()
    handler.handle(records.get())
    log.removeHandler(through)
    (frame,) = frames(exception_properties(server))
    assert frame["function"] == "run"
    assert frame["filename"].endswith("threading.py")


@pytest.mark.slow
def test_threads_that_log_do_not_wait_for_each_others_sends(server: FaultServer, log: logging.Logger) -> None:
    """Handlers of `logging` hold a lock while they handle a record. This one must not."""
    server.script(Behaviour(delay=0.6), Behaviour(delay=0.6))
    run_in_threads(*[partial(log.error, "error %d", number) for number in range(2)])
    first, second = server.requests
    assert abs(first.at - second.at) < 0.5


def test_a_handler_without_a_client_uses_the_default_client_once_it_is_configured(
    memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    log, handler = logging.getLogger("billing"), LeanbaseHandler()
    log.addHandler(handler)
    try:
        log.error("before")
        leanbase.api_key, leanbase.transport = "phc", memory
        log.error("after")
    finally:
        log.removeHandler(handler)
    assert [event["properties"]["$exception_message"] for event in memory.events] == ["after"]
    assert not any(record.name == "leanbase" for record in caplog.records)


def test_a_client_of_the_wrong_type_raises_type_error() -> None:
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        LeanbaseHandler(client="phc")  # type: ignore[arg-type]


def test_a_powertools_logger_does_not_mute_the_handler(client: Leanbase, memory: MemoryTransport) -> None:
    """A new Powertools logger adds a filter to the handlers of the root logger, against duplicate lines."""
    powertools = pytest.importorskip("aws_lambda_powertools")
    root, handler = logging.getLogger(), LeanbaseHandler(client=client)
    root.addHandler(handler)
    try:
        powertools.Logger(service="orders", stream=io.StringIO()).error("payment failed")
        logging.getLogger("plain").error("plain")
    finally:
        root.removeHandler(handler)
    messages = [event["properties"]["$exception_message"] for event in memory.events]
    assert messages == ["payment failed", "plain"]
