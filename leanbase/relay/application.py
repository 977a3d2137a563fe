"""The entry point of the relay: detects the source of an invocation, and delivers its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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

_latest: tuple[Settings, dict[bool, HttpTransport]] | None = None


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

    Examples:
        ```yaml
        Handler: leanbase.relay.handler
        ```
    """
    settings = Settings.resolve({})
    deadline = time_limit(context) or Deadline.after(settings.send_deadline)
    if definitions.matches(event):
        return definitions.publish(settings, deadline)
    delivery = Delivery(_transports(settings), deadline)
    if sqs.matches(event):
        return sqs.relay(event, context, delivery)
    if not cloudwatch_logs.matches(event):
        raise ConfigError(
            "the relay accepts SQS batches, CloudWatch Logs subscription events and schedules only"
        )
    cloudwatch_logs.relay(event, delivery, settings)
    return None


def _transports(settings: Settings) -> Callable[[bool], HttpTransport]:
    """Return a function that returns a transport, for imports of the past or for other events.

    The transports of the last invocation are used again, with their connections, unless settings changed.
    """
    global _latest
    missing = [f"LEANBASE_{name.upper()}" for name in HttpTransport.requires if not getattr(settings, name)]
    if missing:
        # Raised before anything is taken from the source, so nothing is lost.
        raise ConfigError(f"the relay needs {' and '.join(missing)} in its environment")
    if _latest is None or _latest[0] != settings:
        _latest = settings, {}
    known = _latest[1]

    def transport_for(historical: bool) -> HttpTransport:
        if historical not in known:
            of_kind = replace(settings, historical_migration=historical or settings.historical_migration)
            known[historical] = HttpTransport.from_settings(of_kind)
        return known[historical]

    return transport_for
