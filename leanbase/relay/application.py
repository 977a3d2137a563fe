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

    If a schedule invokes the relay, it publishes flag definitions instead, to `LEANBASE_FLAG_DEFINITIONS`.

    The relay keeps only connections between invocations: the source must redeliver events that failed.
    Blocks until all events have an outcome, at most for the function's remaining time. It reserves 0.5 s of
    that time, or a tenth of it if that is less.

    Args:
        event: The Lambda event from SQS, CloudWatch Logs or the schedule.
        context: Lambda's context object.

    Returns:
        For SQS, the messages to redeliver, in the format of `ReportBatchItemFailures`: the messages with an
        undelivered event. For a FIFO queue, also all messages after the first of them. For CloudWatch Logs,
        `None`. For a schedule, the number of `flags` and whether they were `written`.

    Raises:
        ConfigError: A setting is missing (`LEANBASE_API_KEY` and `LEANBASE_HOST`; for a schedule also
            `LEANBASE_SECRET_KEY` and `LEANBASE_FLAG_DEFINITIONS`), or the event is from another source.
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
    """Return a function that returns the transport for historical events (`True`) or others (`False`).

    The transports and connections of the last invocation are reused, unless settings have changed.
    """
    global _latest
    missing = [f"LEANBASE_{name.upper()}" for name in HttpTransport.requires if not getattr(settings, name)]
    if missing:
        # Raised before any event is read from the source, so that no event is lost.
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
