"""What commands share: parsers with an example, and arguments of the form `name=value`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ConfigError

PROGRAM = __name__.partition(".")[0]


class UsageError(ConfigError):
    """The arguments of a command do not fit. The exit code is 2."""


def command(
    commands: Any, name: str, summary: str, run: Callable[[argparse.Namespace], int], *examples: str
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    Args:
        commands: The object that `add_subparsers` returned.
        name: What the user types.
        summary: What it does, in sentences.
        run: Runs it, and returns the exit code.
        examples: Command lines for `--help`.
    """
    shown = "\n".join(f"  {each}" for each in examples)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary.partition(". ")[0].rstrip("."),
        description=summary,
        epilog=f"example{'s' if len(examples) > 1 else ''}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Also after the command; without a default, or it would undo the one before the command.
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """Return arguments of the form `name=value` as a dict of strings.

    Raises:
        UsageError: An argument has another form.
    """
    return dict(pair(each, option) for each in given)


def pair(text: str, option: str) -> tuple[str, str]:
    """Return the name and the value of one argument. Raises as `pairs`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{option} needs a name and a value with = between them, not {text!r}")
    return name, value


def value_of(text: str) -> Any:
    """Return an argument as JSON where it parses, else as the string that it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
