"""Log records as exceptions."""

from __future__ import annotations

import io
import logging
import logging.handlers
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.integrations.logging import LeanbaseHandler
from leanbase.transports import MemoryTransport
from tests.error_tracking.wire import assert_valid, frames, functions
from tests.support.fault_server import Behaviour, FaultServer


@pytest.fixture
def log(server: FaultServer, make: Callable[..., Leanbase]) -> logging.Logger:
    """A logger whose errors are captured, and nothing else is done with them."""
    logger = logging.Logger("shop.orders")
    logger.addHandler(LeanbaseHandler(client=make(server)))
    return logger


def properties(server: FaultServer) -> dict[str, Any]:
    (event,) = server.events
    assert_valid(event)
    found: dict[str, Any] = event["properties"]
    return found


def test_a_record_with_an_exception_is_that_exception(server: FaultServer, log: logging.Logger) -> None:
    try:
        raise ValueError("no money")
    except ValueError:
        log.exception("order %s failed", 7)
    found = properties(server)
    assert (found["$exception_type"], found["$exception_message"]) == ("ValueError", "no money")
    assert found["$exception_level"] == "error"
    assert found["$exception_source"] == "python.logging"
    assert (found["logger_name"], found["logger_level"]) == ("shop.orders", "ERROR")
    assert found["logger_message"] == "order 7 failed"
    assert found["$exception_list"][0]["mechanism"] == {
        "type": "logger", "handled": True, "synthetic": False, "exception_id": 0,
    }  # fmt: skip


def test_a_record_without_one_has_the_stack_of_the_call(server: FaultServer, log: logging.Logger) -> None:
    log.critical("no stock left of %s", "tea")
    found = properties(server)
    assert (found["$exception_type"], found["$exception_message"]) == (
        "LoggedCritical", "no stock left of tea",
    )  # fmt: skip
    assert found["$exception_level"] == "fatal"
    assert found["logger_level"] == "CRITICAL"
    assert "logger_message" not in found
    mechanism = found["$exception_list"][0]["mechanism"]
    assert (mechanism["handled"], mechanism["synthetic"]) == (True, True)
    assert functions(found)[-1] == "test_a_record_without_one_has_the_stack_of_the_call"
    assert frames(found)[-1]["context_line"] == '    log.critical("no stock left of %s", "tea")'


def test_stacklevel_is_followed(server: FaultServer, log: logging.Logger) -> None:
    def warn_if_unconfigured() -> None:
        log.error("from the caller", stacklevel=2)

    warn_if_unconfigured()
    assert functions(properties(server))[-1] == "test_stacklevel_is_followed"


def test_only_its_level_and_above(server: FaultServer, log: logging.Logger) -> None:
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


def test_an_exception_is_captured_once_whatever_else_sees_it(
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


def test_messages_that_cannot_be_formatted(server: FaultServer, log: logging.Logger) -> None:
    log.error("one %s and %s", 1)
    assert properties(server)["$exception_message"] == "one %s and %s"


def test_exc_info_without_an_exception(server: FaultServer, log: logging.Logger) -> None:
    log.exception("outside of an except block")
    assert properties(server)["$exception_type"] == "LoggedError"


def test_our_own_records_and_those_of_our_sending_are_passed_over(server: FaultServer) -> None:
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


def test_records_that_come_from_a_queue_show_where_they_were_made(
    server: FaultServer, log: logging.Logger
) -> None:
    (handler,) = log.handlers
    log.removeHandler(handler)
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    through = logging.handlers.QueueHandler(records)
    log.addHandler(through)
    thread = threading.Thread(target=log.error, args=("from a thread",))
    thread.start()
    thread.join()
    handler.handle(records.get())
    log.removeHandler(through)
    (frame,) = frames(properties(server))
    assert frame["function"] == "run"
    assert frame["filename"].endswith("threading.py")


def test_a_slow_server_does_not_make_other_threads_wait(server: FaultServer, log: logging.Logger) -> None:
    """A handler's lock would be held for the time of the request."""
    server.script(Behaviour(delay=1.0), Behaviour(delay=1.0))
    threads = [threading.Thread(target=log.error, args=(f"error {number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = server.requests
    assert abs(first.at - second.at) < 0.9


def test_the_default_client_is_used_once_it_has_its_settings(
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


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(TypeError, match="client must be a Leanbase, not str"):
        LeanbaseHandler(client="phc")  # type: ignore[arg-type]


def test_a_powertools_logger_does_not_mute_it(client: Leanbase, memory: MemoryTransport) -> None:
    """Which it does to the handlers that the root logger has when it is made."""
    powertools = pytest.importorskip("aws_lambda_powertools")
    root, ours = logging.getLogger(), LeanbaseHandler(client=client)
    root.addHandler(ours)
    try:
        powertools.Logger(service="orders", stream=io.StringIO()).error("payment failed")
        logging.getLogger("plain").error("plain")
    finally:
        root.removeHandler(ours)
    messages = [event["properties"]["$exception_message"] for event in memory.events]
    assert messages == ["payment failed", "plain"]
