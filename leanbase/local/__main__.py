"""`python -m leanbase.local`: run the local ingestion server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import ConfigError
from .server import LocalServer
from .store import Store


def main() -> int:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="An ingestion server for development. Received events are printed and at GET /events.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (%(default)s)")
    parser.add_argument("--database", type=Path, help="SQLite file for the events (default: in memory)")
    parser.add_argument("--flags", type=Path, help="file with flag definitions, for /flags/")
    parser.add_argument("--quiet", action="store_true", help="do not print arrivals")
    options = parser.parse_args()
    try:
        server = LocalServer(
            options.host,
            options.port,
            store=Store(options.database),
            show=not options.quiet,
            flags=options.flags,
        )
    except (ConfigError, OSError, OverflowError) as error:
        hint = f" (port {options.port}; --port 0 takes a free one)" if isinstance(error, OSError) else ""
        print(f"cannot start: {error}{hint}", file=sys.stderr)
        return 2
    print(
        f"listening on {server.url}   (set host to it, api_key to any string; see {server.url}/events)",
        flush=True,
    )
    try:
        server.serve()
    except KeyboardInterrupt:
        print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
