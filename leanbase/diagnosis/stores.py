"""Checks the queue, the spool, and the sources of flag definitions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

from ..errors import ConfigError, TransportError
from ..feature_flags.sources import DefinitionsSource, SourceError, sources_of
from ..settings import Settings
from ..transports.deadline import Deadline
from ..transports.spool import default_directory, make_private, project_of, stored
from ..transports.sqs import SqsTransport
from .report import Step, timed

QUEUE_SECONDS = 5.0
SOURCE_SECONDS = 3.0


def queue(settings: Settings, deadline: Deadline) -> Iterator[Step]:
    """Check the credentials, and that they permit sends to the queue."""
    if not settings.queue_url:
        return
    try:
        transport = SqsTransport(settings.queue_url, timeout=QUEUE_SECONDS, max_retries=0)
    except ConfigError as error:
        yield Step("queue", "failed", str(error))
        return
    step = _credentials(transport, deadline.at_most(QUEUE_SECONDS))
    yield step
    if step.status == "ok":
        yield _queue(transport, settings.queue_url, deadline.at_most(QUEUE_SECONDS))
    transport.close(deadline=deadline)


@timed("credentials")
def _credentials(transport: SqsTransport, deadline: Deadline) -> Step:
    advice = "give the function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    try:
        return Step("credentials", "ok", f"found {transport.credentials(deadline)}")
    except TransportError as error:
        return Step("credentials", "failed", str(error), advice)
    except TimeoutError:
        return Step("credentials", "failed", "AWS credentials were not found in time", advice)


@timed("queue")
def _queue(transport: SqsTransport, url: str, deadline: Deadline) -> Step:
    try:
        transport.check(deadline)
    except TransportError as error:
        advice = "" if ": " in str(error) else "compare queue_url with the queue's URL in the AWS console"
        return Step("queue", "failed", f"{url}: {error}", advice)
    return Step("queue", "ok", f"{url} responds; a relay must read it")


@timed("spool")
def spool(settings: Settings) -> Step:
    """Check that the spool directory is writable, and count its files."""
    directory = settings.spool_directory or default_directory()
    try:
        make_private(directory)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-"):
            pass
        files = stored(directory, project_of(settings.api_key, settings.host))
        size = sum(each.bytes for each in files)
    except ConfigError as error:
        return Step("spool", "failed", str(error))
    except OSError as error:
        advice = "set spool_directory to a directory that this process can write"
        return Step("spool", "failed", f"{directory} cannot be written: {error.strerror}", advice)
    found = f"{directory} can be written"
    if not files:
        return Step("spool", "ok", found)
    advice = "leanbase replay sends what they hold" if any(each.is_ours for each in files) else ""
    if size >= settings.spool_max_bytes:
        return Step(
            "spool", "warning", f"{directory} is full ({size:,} bytes)", advice or "raise spool_max_bytes"
        )
    return Step("spool", "ok", f"{found}; {len(files)} file(s), {size:,} bytes", advice)


def flags(settings: Settings, deadline: Deadline) -> Iterator[Step]:
    """Check each source of flag definitions. Events arrive without them, so a failure is a warning."""
    if settings.flag_definitions is None and not settings.secret_key:
        return
    try:
        sources = sources_of(settings)
    except ConfigError as error:
        yield Step("flags", "warning", str(error))
        return
    for source in sources:
        yield _flags(source, deadline.at_most(SOURCE_SECONDS))


@timed("flags")
def _flags(source: DefinitionsSource, deadline: Deadline) -> Step:
    try:
        found = source.load(None, deadline=deadline)
    except SourceError as error:
        return Step(
            "flags", "warning", f"{source!r}: {error}", "flags have their defaults, or the server decides"
        )
    if found is None:
        return Step("flags", "warning", f"{source!r} has no definitions")
    age = time.time() - found.fetched_at
    return Step("flags", "ok", f"{len(found)} from {source!r}, {age:,.0f} s old")
