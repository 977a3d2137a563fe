"""`leanbase local`: the ingestion server for development."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..local.server import LocalServer
from ..local.store import Store
from .parsing import command


def add(commands: Any) -> None:
    """Add the command and its arguments."""
    parser = command(
        commands,
        "local",
        "Run an ingestion server for development. It accepts and refuses the same requests as the real "
        "server, and prints the events that arrive.",
        _run,
        "leanbase local",
        "leanbase local --port 9000 --database events.db --flags flags.json",
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (%(default)s)")
    parser.add_argument("--database", type=Path, help="SQLite file for the events (default: in memory)")
    parser.add_argument("--flags", type=Path, help="file with flag definitions, for /flags/")


def _run(options: argparse.Namespace) -> int:
    try:
        server = LocalServer(
            options.host,
            options.port,
            store=Store(options.database),
            show=not options.quiet,
            flags=options.flags,
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot start on port {options.port}: {why}; --port 0 takes a free one") from error
    url = server.url
    print(f"listening on {url}   (set host to it, api_key to any string; see {url}/events)", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0
