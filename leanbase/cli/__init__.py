"""The command line: `leanbase`, or `python -m leanbase`.

Each command is a module with `add`, which adds its parser. Exit codes: 0 for success, 1 for a failure, 2 for
wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .._version import __version__
from ..errors import LeanbaseError
from . import capture, doctor, flags, historical, local, replay
from .parsing import PROGRAM, UsageError

COMMANDS = (local, doctor, capture, historical, replay, flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` defaults to those of the process."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Leanbase on the command line.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--quiet", action="store_true", help="print results and errors only")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        code: int = options.run(options)
    except LeanbaseError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        return 1  # for example with `| head`
    except KeyboardInterrupt:
        return 130
    return code
