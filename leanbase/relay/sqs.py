"""Reads the messages of an SQS queue."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    SqsFifoPartialProcessor,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes import SQSEvent

from ..errors import NotDeliveredError
from ..transports import handoff

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

    from ..events.encoding import EncodedEvent
    from .dispatch import Delivery

logger = logging.getLogger("leanbase")


def matches(event: dict[str, Any]) -> bool:
    """Return True if the event is from an SQS event source mapping."""
    records = event.get("Records")
    return (
        isinstance(records, list)
        and bool(records)
        and all(record.get("eventSource") == "aws:sqs" for record in records)
    )


def relay(event: dict[str, Any], context: Any, delivery: Delivery) -> dict[str, Any]:
    """Deliver the events of all messages. Return the messages that SQS must redeliver.

    For a FIFO queue, delivery stops at the first message that fails, to preserve the order.
    """
    # Keyed by position, because a message may appear twice.
    messages: dict[int, list[EncodedEvent]] = {}
    failures: dict[int, Exception] = {}
    records = list(SQSEvent(event).records)
    is_fifo = any(record.event_source_arn.endswith(".fifo") for record in records)
    for position, record in enumerate(records):
        if delivery.must_send():
            failures[position] = NotDeliveredError("there was no time left to read it")
        else:
            try:
                messages[position] = handoff.decode(record.body)
            except handoff.UnreadableError as error:
                # Use a new exception: the frames of the old one would keep the message in memory.
                failures[position] = handoff.UnreadableError(str(error))
        if is_fifo and position in failures:
            break
    if is_fifo:
        for position, events in messages.items():
            failures |= delivery.deliver({position: events})
            if position in failures:
                break
    else:
        failures |= delivery.deliver(messages)
    positions = itertools.count()

    def outcome(record: SQSRecord) -> None:
        failure = failures.get(next(positions))
        if failure is not None:
            logger.error("SQS message %s could not be delivered: %s", record.message_id, failure)
            raise failure

    # If all messages fail, the invocation itself must still succeed.
    processor: BatchProcessor = (
        SqsFifoPartialProcessor()
        if is_fifo
        else BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    )
    return dict(process_partial_response(event, outcome, processor, context))
