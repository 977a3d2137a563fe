"""`leanbase replay`: sends the events of a spool."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..delivery import factory
from ..errors import ConfigError, RejectedError, TransportError
from ..events.encoding import EncodedEvent
from ..settings import Settings
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.http import REFUSALS_OF_AN_EVENT
from ..transports.receipt import Receipt
from ..transports.spool import SpoolTransport, default_directory, project_of, stored
from .parsing import PROGRAM, command


def add(commands: Any) -> None:
    parser = command(
        commands,
        "replay",
        "Send the events in a spool, and report the outcomes. Running processes send their own files. Exits "
        "1 if events could not be sent.",
        _run,
        "leanbase replay",
        "leanbase replay --directory /var/spool/leanbase --json",
    )
    parser.add_argument("--directory", metavar="DIRECTORY", help="the spool (default: the setting)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(options: argparse.Namespace) -> int:
    settings = Settings.resolve({"spool_directory": options.directory, "transport": "http"})
    transport = factory.create_bare(replace(settings, fallback=None))
    if not settings.debug:
        logging.getLogger("leanbase").setLevel(logging.CRITICAL)  # the report says everything
    directory = settings.spool_directory or default_directory()
    project = project_of(settings.api_key, settings.host)
    if not Path(directory).is_dir():
        raise ConfigError(f"there is no directory {directory}")
    spool = SpoolTransport(
        directory,
        _RetainingWhenAllRefused(transport),
        project=project,
        max_bytes=settings.spool_max_bytes,
    )
    receipt = _replayed(spool, settings.send_deadline)
    spool.close(deadline=Deadline.after(0.0))
    left = stored(directory, project)
    failures = {str(group.error) for group in receipt.groups}
    refused = sum(len(group.events) for group in receipt.groups if group.outcome == "dropped")
    report = {
        "directory": directory,
        "delivered": receipt.delivered,
        "refused": refused,
        "left_files": sum(each.is_ours for each in left),
        "left_bytes": sum(each.bytes for each in left if each.is_ours),
        "files_of_other_projects": sum(not each.is_ours for each in left),
        "reasons": sorted(failures),
    }
    if options.json:
        print(json.dumps(report))
    else:
        _show(report, is_away=receipt.has_retained)
    for reason in sorted(failures):
        print(f"{PROGRAM}: {reason}", file=sys.stderr)
    return 1 if receipt.has_retained or refused else 0


class _RetainingWhenAllRefused(BaseTransport):
    """Retains events if the server refuses all events, for example because the key is wrong."""

    def __init__(self, inner: BaseTransport) -> None:
        self._inner = inner

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send events. Retain events that are refused for a reason that is not in the event."""
        receipt = self._inner.send(events, deadline=deadline)
        kept = [each for each in receipt.undelivered if _is_of_all(each.error)]
        if not kept:
            return receipt
        refused = [each.event for each in kept]
        error = TransportError(str(kept[0].error), reason="refused")
        return receipt.without(refused) + Receipt.retaining(refused, error.reason, error)

    def close(self, *, deadline: Deadline) -> Receipt:
        return self._inner.close(deadline=deadline)


def _is_of_all(error: Exception) -> bool:
    return isinstance(error, RejectedError) and error.status not in REFUSALS_OF_AN_EVENT


def _replayed(spool: SpoolTransport, seconds: float) -> Receipt:
    """Send until no events are left, or a send delivers nothing."""
    receipt = Receipt()
    while True:
        part = spool.replay(deadline=Deadline.after(seconds, "full"))
        if not (part.has_retained and part.delivered):
            return receipt + part
        receipt += part.without(part.retained_events())


def _show(report: dict[str, Any], *, is_away: bool) -> None:
    print(f"{report['delivered']:,} events sent, {report['refused']:,} refused")
    if report["left_files"]:
        why = "still stored" if is_away else "in use by running processes"
        print(f"{report['left_files']} file(s) with {report['left_bytes']:,} bytes are {why}")
    if report["files_of_other_projects"]:
        others = report["files_of_other_projects"]
        print(f"{others} file(s) belong to another key or host; replay them with its settings")
