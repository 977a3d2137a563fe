"""`leanbase capture`: captures one event from a shell."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any
from uuid import UUID

from .. import errors
from ..client import Leanbase
from ..events.timestamps import normalized_timestamp
from .parsing import PROGRAM, UsageError, command, pairs, value_of


def add(commands: Any) -> None:
    parser = command(
        commands,
        "capture",
        "Capture one event, and print its uuid once it is delivered.",
        _run,
        "leanbase capture 'deploy finished' --distinct-id ci -p version=1.4.2 -p seconds=42",
    )
    parser.add_argument("event", metavar="EVENT", help="the event's name")
    parser.add_argument("--distinct-id", metavar="ID", help="the person (default: none)")
    parser.add_argument(
        "-p",
        "--property",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a property; valid JSON is read as JSON, else as a string",
    )
    parser.add_argument("--group", action="append", default=[], metavar="TYPE=KEY", help="a group")
    parser.add_argument("--timestamp", metavar="TIME", help="when it happened (default: now)")
    parser.add_argument("--uuid", metavar="UUID", help="the event's id (default: a new one)")


def _run(options: argparse.Namespace) -> int:
    if options.timestamp is not None:
        _check_timestamp(options.timestamp)
    if options.uuid is not None:
        _check_uuid(options.uuid)
    properties = {name: value_of(value) for name, value in pairs(options.property, "-p").items()}
    logging.getLogger("leanbase").setLevel(logging.CRITICAL)  # the last line reports the failure
    failures: list[Exception] = []
    client = Leanbase(on_error=lambda error, _: failures.append(error))
    if client.disabled:
        raise errors.ConfigError("the client is disabled; leanbase doctor says why")
    uuid = client.capture(
        options.event,
        distinct_id=options.distinct_id,
        properties=properties,
        groups=pairs(options.group, "--group"),
        timestamp=options.timestamp,
        uuid=options.uuid,
    )
    receipt = client.shutdown()
    stats = client.stats()
    if uuid is None or not receipt or stats["dropped"]:
        why = failures[0] if failures else "it is not valid, or a setting stops it"
        print(
            f"{PROGRAM}: the event did not arrive: {why}; leanbase doctor checks each step", file=sys.stderr
        )
        return 1
    print(uuid)
    return 0


def _check_timestamp(text: str) -> None:
    try:
        normalized_timestamp(text, is_history=True)
    except errors.InvalidEventError:
        raise UsageError("--timestamp must be like 2026-01-02T03:04:05Z") from None


def _check_uuid(text: str) -> None:
    try:
        UUID(text)
    except ValueError:
        raise UsageError("--uuid must be a UUID, in the format 8-4-4-4-12") from None
