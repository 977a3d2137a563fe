"""Says why events do not arrive: `leanbase.doctor()` and `leanbase doctor`.

`configuration` checks the settings without the network, `network` checks the way to the server, and `stores`
checks the queue, the spool and the flag definitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..delivery import factory
from ..errors import ConfigError
from ..events.event import Draft
from ..pipeline import Pipeline
from ..settings import Settings
from ..transports.deadline import Deadline
from ..transports.memory import MemoryTransport
from . import configuration, network, stores
from .report import Diagnosis, Status, Step, timed

__all__ = ["Diagnosis", "Status", "Step", "diagnose"]

SECONDS = 12.0
"""The maximum time for all steps together."""

SEND_SECONDS = 5.0
EVENT = "leanbase doctor"


def diagnose(*, send: bool = False) -> Diagnosis:
    """Check each step on the way of an event, as `leanbase.doctor` does."""
    return Diagnosis(tuple(_steps(send, Deadline.after(SECONDS))))


def _steps(send: bool, deadline: Deadline) -> Iterator[Step]:
    settings, step = configuration.resolved()
    yield step
    if settings is None:
        return
    can_send = step.status != "failed"
    ways = configuration.ways(settings)
    if ways & configuration.OVER_HTTP:
        for step in _over_http(settings, deadline):
            if settings.transport in ("http", "buffered"):
                can_send = can_send and step.status != "failed"
            yield step
    if "sqs" in ways:
        yield from stores.queue(settings, deadline)
    if "spool" in ways:
        yield stores.spool(settings)
    yield from stores.flags(settings, deadline)
    if send and can_send:
        yield _send(settings, deadline.at_most(SEND_SECONDS))


def _over_http(settings: Settings, deadline: Deadline) -> Iterator[Step]:
    steps = list(configuration.address(settings))
    yield from steps
    if settings.host and settings.api_key and all(step.status != "failed" for step in steps):
        yield from network.steps(settings.host, settings.api_key, deadline)


@timed("send")
def _send(settings: Settings, deadline: Deadline) -> Step:
    """Send one personless event, and report its outcome."""
    try:
        transport = factory.create_bare(replace(settings, max_retries=0))
    except ConfigError as error:
        return Step("send", "failed", str(error))
    pipeline = Pipeline(replace(settings, transport=MemoryTransport(), fallback=None))
    draft = Draft(EVENT, {"$process_person_profile": False}, EVENT, None, None, None, with_runtime=True)
    event = pipeline.encoded(draft)
    if event is None:
        return Step("send", "failed", "before_send dropped the event", "let the hook return the event")
    receipt = transport.send([event], deadline=deadline)
    transport.close(deadline=deadline)
    if receipt.groups:
        return Step("send", "failed", str(receipt.groups[0].error), "the steps above say more")
    if getattr(transport, "is_over_quota", False):
        found = "the server accepts events and discards them: the project is over its quota"
        return Step("send", "failed", found, "raise the quota of the project")
    how = "delivered" if receipt.delivered else "handed off" if receipt.handed_off else "stored"
    return Step("send", "ok", f"the event {EVENT!r} was {how}")
