"""A Lambda function behind an SQS queue that ships orders, one record at a time.

A redelivered message captures the same events with the same ids, so the server counts them once.
"""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import leanbase

processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)


def ship(record: SQSRecord) -> None:
    """Ship one order."""
    with leanbase.record_context(record):  # a context for the record; event ids are derived from it
        order = json.loads(record.body)
        leanbase.identify_context(order["customer"])
        leanbase.capture("order shipped", properties={"carrier": order["carrier"]})


@leanbase.lambda_handler(idempotent=True)
def handler(event: dict[str, Any], context: Any) -> Any:
    """Ship a batch of orders. Only the orders that fail are delivered again."""
    return process_partial_response(event, ship, processor, context)
