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
    """Work on one record of an SQS, Kinesis, DynamoDB Streams or SNS batch, in a context of its own.

    Tags and identity that are set inside end with the record; those of the invocation are inherited, and the
    tag `messaging.message.id` is the record's message id or sequence number. An exception that leaves it is
    captured and goes on, so that Powertools' `BatchProcessor` sees it.

    In a handler decorated with `lambda_handler(idempotent=True)` the events captured inside get ids that are
    derived from the record's, and its time: a record that is delivered once more does not count twice.

    Args:
        record: The record, as Lambda passes it or as a data class of Powertools.
        capture_exceptions: Whether an exception that leaves it is captured.
        client: Who captures it. Default: the default client.

    Never raises; leaving it blocks only while an exception is captured, like `capture`.

    Example:
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
            logger.warning("the record could not be described: %s", type(error).__name__)

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            self._context.__exit__(exc_type, exc, traceback)
        finally:
            if self._using_key is not None:
                self._using_key.__exit__()


_has_warned = False


def _warn_of(record: object) -> None:
    """Say it once, and not for each record of each batch."""
    global _has_warned
    if _has_warned:
        return
    _has_warned = True
    hint = "; it takes one of the Records" if "Records" in raw(record) else ""
    logger.warning(
        "record_context() derives no ids from a %s: it is not a record of SQS, Kinesis, DynamoDB Streams "
        "or SNS%s",
        type(record).__name__,
        hint,
    )
