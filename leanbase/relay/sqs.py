"""Messages of an SQS queue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes import SQSEvent

from ..transports import handoff

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

    from ..events.encoding import EncodedEvent
    from .dispatch import Delivery

logger = logging.getLogger("leanbase")


def matches(event: dict[str, Any]) -> bool:
    """Whether the event is of an SQS event source mapping."""
    records = event.get("Records")
    return (
        isinstance(records, list)
        and bool(records)
        and all(record.get("eventSource") == "aws:sqs" for record in records)
    )


def relay(event: dict[str, Any], context: Any, delivery: Delivery) -> dict[str, Any]:
    """Deliver the events of all messages; the answer names the messages that are to come again."""
    messages: dict[str, list[EncodedEvent]] = {}
    failures: dict[str, Exception] = {}
    for record in SQSEvent(event).records:
        try:
            messages[record.message_id] = handoff.decode(record.body)
        except handoff.UnreadableError as error:
            failures[record.message_id] = error
    failures |= delivery.deliver(messages)

    def outcome(record: SQSRecord) -> None:
        failure = failures.get(record.message_id)
        if failure is not None:
            logger.error("the message %s is not delivered: %s", record.message_id, failure)
            raise failure

    # All messages of an invocation may fail without the invocation being a failed one.
    processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    return dict(process_partial_response(event, outcome, processor, context))
