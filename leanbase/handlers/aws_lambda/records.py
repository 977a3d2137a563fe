"""A context for each record of a batch."""

from __future__ import annotations

import logging
import os

from ...default import default_client
from ...events import idempotency
from ...events.contexts import tag
from .events import raw, record_id, record_key, record_timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...client import Leanbase

logger = logging.getLogger("leanbase")


class record_context:  # noqa: N801 - used like a function
    """Open a context for one record of a batch: of SQS, SNS, SES, S3, Kinesis, DynamoDB Streams or Kafka.

    The context inherits the tags and identity of the invocation. Tags and identity that are set inside end
    with the record. The tag `messaging.message.id` is the record's message id or sequence number. An
    exception that leaves the context is captured and propagates: Powertools' `BatchProcessor` sees it.

    In a handler decorated with `lambda_handler(idempotent=True)`, the ids and timestamps of events captured
    inside are derived from the record. A record that is delivered again is then not counted twice.

    Args:
        record: The record, as Lambda passes it or as a data class of Powertools.
        capture_exceptions: Whether exceptions are captured. Default: they are.
        client: The client that captures exceptions. Default: the default client.

    Never raises. Its end blocks, as `capture` does, only if an exception is captured.

    Examples:
        >>> import leanbase
        >>> def handle(record):
        ...     with leanbase.record_context(record):
        ...         leanbase.capture("order shipped", distinct_id=record["body"])
        >>> handle({"messageId": "m-1", "body": "user_1", "eventSource": "aws:sqs"})
    """

    def __init__(
        self, record: Any, *, capture_exceptions: bool | None = None, client: Leanbase | None = None
    ) -> None:
        self._record = record
        self._context = default_client.new_context(capture_exceptions=capture_exceptions, client=client)
        self._using_key: idempotency.using_key | None = None

    def __enter__(self) -> None:
        self._context.__enter__()
        try:
            id = record_id(self._record)
            if id is None:
                _warn_of(self._record)
                return
            tag("messaging.message.id", id)
            work = idempotency.current()
            if work is not None:
                key = f"{os.environ.get('AWS_LAMBDA_FUNCTION_NAME', '')}/{record_key(self._record)}"
                self._using_key = idempotency.using_key(work.part(key, record_timestamp(self._record)))
                self._using_key.__enter__()
        except Exception as error:
            logger.warning("the tags of the record could not be read: %s", type(error).__name__)

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            self._context.__exit__(exc_type, exc, traceback)
        finally:
            if self._using_key is not None:
                self._using_key.__exit__()


_has_warned = False


def _warn_of(record: object) -> None:
    """Warn once per process."""
    global _has_warned
    if _has_warned:
        return
    _has_warned = True
    hint = "; pass one entry of its Records" if "Records" in raw(record) else ""
    logger.warning(
        "record_context() cannot derive event ids from this %s: it is not a record of SQS, SNS, SES, S3, "
        "Kinesis, DynamoDB Streams or Kafka%s",
        type(record).__name__,
        hint,
    )
