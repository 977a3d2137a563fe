"""`leanbase local`: runs the ingestion server for development, with its page."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..local.faults import REFUSALS, Faults
from ..local.server import LocalServer
from ..local.store import Store
from .parsing import command

TOKEN_VARIABLE = "LEANBASE_LOCAL_TOKEN"  # noqa: S105 - the name of a variable


def add(commands: Any) -> None:
    parser = command(
        commands,
        "local",
        "Run an ingestion server for development. It accepts and refuses the same requests as the real "
        "server, prints the events that arrive, and shows them on a page.",
        _run,
        "leanbase local",
        "leanbase local --port 9000 --database events.db --flags flags.json",
        "leanbase local --status 503 --delay 2",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (%(default)s)")
    parser.add_argument("--database", type=Path, help="SQLite file for the events (default: in memory)")
    parser.add_argument("--flags", type=Path, help="file with flag definitions, for /flags/")
    parser.add_argument(
        "--token",
        default=os.environ.get(TOKEN_VARIABLE),
        help=f"first segment of every path (default: {TOKEN_VARIABLE}; beyond loopback, a new one)",
    )
    parser.add_argument("--status", type=int, default=0, help="respond to every batch with this status")
    parser.add_argument(
        "--delay", type=float, default=0.0, metavar="SECONDS", help="delay the response to every batch"
    )
    parser.add_argument(
        "--reject", choices=list(REFUSALS), default="", help="refuse every batch for this reason"
    )
    parser.add_argument("--reject-key", default="", metavar="KEY", help="refuse this API key")


def _run(options: argparse.Namespace) -> int:
    faults = Faults(options.status, options.delay, options.reject, options.reject_key).check()
    try:
        store = Store(options.database)
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"the database {options.database} cannot be used: {why}") from error
    try:
        return _serve(options, store, faults)
    finally:
        store.close()


def _serve(options: argparse.Namespace, store: Store, faults: Faults) -> int:
    try:
        server = LocalServer(
            options.host,
            options.port,
            store=store,
            show=not options.quiet,
            flags=options.flags,
            token=options.token or None,
            faults=faults,
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot start on port {options.port}: {why}; --port 0 takes a free one") from error
    print(
        f"listening on {server.url}   (set host to it, api_key to any string; open it in a browser)",
        flush=True,
    )
    try:
        server.serve()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0
