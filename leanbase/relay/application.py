"""The entry point of the relay: detects the source of an invocation, and delivers its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..handlers.aws_lambda.invocation import time_limit
from ..settings import Settings
from ..transports.deadline import Deadline
from ..transports.http import HttpTransport
from . import cloudwatch_logs, definitions, sqs
from .dispatch import Delivery

if TYPE_CHECKING:
    from ..handlers.aws_lambda.invocation import LambdaContext

_latest: tuple[Settings, HttpTransport] | None = None


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any] | None:
    """Deliver the events that an SQS event source or a CloudWatch Logs subscription passes to the relay.

    Invoked by a schedule, it publishes flag definitions instead: see `definitions`.

    The relay retains only connections between invocations: the source must redeliver events that failed.
    Blocks until all events have an outcome, at most for the function's remaining time.

    Args:
        event: The Lambda event, from any of these.
        context: The context object of the invocation.

    Returns:
        For SQS, the messages to redeliver, in the format of `ReportBatchItemFailures`: exactly the messages
        with an undelivered event. For CloudWatch Logs, `None`. For a schedule, what was published.

    Raises:
        ConfigError: `LEANBASE_API_KEY` or `LEANBASE_HOST` is missing, or the event is from another source.
        NotDeliveredError: An event of a log was not delivered. Lambda then invokes the relay again.
        SourceError: Definitions were not published. The schedule then invokes the relay again.

    Example:
        ```yaml
        Handler: leanbase.relay.handler
        ```
    """
    settings = Settings.resolve({})
    deadline = time_limit(context) or Deadline.after(settings.send_deadline)
    if definitions.matches(event):
        return definitions.publish(settings, deadline)
    delivery = Delivery(_transport(settings), deadline)
    if sqs.matches(event):
        return sqs.relay(event, context, delivery)
    if not cloudwatch_logs.matches(event):
        raise ConfigError(
            "the relay accepts SQS batches, CloudWatch Logs subscription events and schedules only"
        )
    cloudwatch_logs.relay(event, delivery, settings)
    return None


def _transport(settings: Settings) -> HttpTransport:
    """Return the transport of the last invocation with its connections, or a new one if settings changed."""
    global _latest
    missing = [f"LEANBASE_{name.upper()}" for name in HttpTransport.requires if not getattr(settings, name)]
    if missing:
        # Raised before anything is taken from the source, so nothing is lost.
        raise ConfigError(f"the relay needs {' and '.join(missing)} in its environment")
    if _latest is None or _latest[0] != settings:
        _latest = settings, HttpTransport.from_settings(settings)
    return _latest[1]
