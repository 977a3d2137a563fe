"""The entry point: which source an event is of, and where its events go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..handlers.aws_lambda.invocation import time_limit
from ..settings import Settings
from ..transports.deadline import Deadline
from ..transports.http import HttpTransport
from . import cloudwatch_logs, sqs
from .dispatch import Delivery

if TYPE_CHECKING:
    from ..handlers.aws_lambda.invocation import LambdaContext

_latest: tuple[Settings, HttpTransport] | None = None


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any] | None:
    """Deliver what an SQS event source or a CloudWatch Logs subscription matches.

    It keeps nothing between invocations but connections: what it could not deliver is the source's to
    bring again. Blocks until all events have an outcome, at most for the function's remaining time.

    Args:
        event: Of either source.
        context: The invocation's.

    Returns:
        For SQS the records that are to come again, as `ReportBatchItemFailures` wants them: exactly those of
        which an event was not delivered. For CloudWatch Logs nothing.

    Raises:
        ConfigError: `LEANBASE_API_KEY` or `LEANBASE_HOST` is missing, or the event is of neither source.
        NotDeliveredError: An event of a log was not delivered; Lambda invokes again.

    Example:
        ```yaml
        Handler: leanbase.relay.handler
        ```
    """
    settings = Settings.resolve({})
    deadline = time_limit(context) or Deadline.after(settings.send_deadline)
    delivery = Delivery(_transport(settings), deadline)
    if sqs.matches(event):
        return sqs.relay(event, context, delivery)
    if not cloudwatch_logs.matches(event):
        raise ConfigError("the relay takes events of SQS and of CloudWatch Logs subscriptions, no others")
    cloudwatch_logs.relay(event, delivery, settings)
    return None


def _transport(settings: Settings) -> HttpTransport:
    """The one of the last invocation, with its connections, as long as nothing else is configured."""
    global _latest
    missing = [f"LEANBASE_{name.upper()}" for name in HttpTransport.requires if not getattr(settings, name)]
    if missing:
        # Nothing is taken from the source, so nothing is lost.
        raise ConfigError(f"the relay needs {' and '.join(missing)} in its environment")
    if _latest is None or _latest[0] != settings:
        _latest = settings, HttpTransport.from_settings(settings)
    return _latest[1]
