"""Shared by the commands: parsers with examples, and arguments of the form `name=value`."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ConfigError

PROGRAM = __name__.partition(".")[0]
WIDTH = 79


class UsageError(ConfigError):
    """The arguments of a command are wrong. The exit code is 2."""


def command(
    commands: Any, name: str, summary: str, run: Callable[[argparse.Namespace], int], *examples: str
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    Args:
        commands: The object that `add_subparsers` returned.
        name: The name of the command.
        summary: Sentences for `--help`. The first sentence is also shown in the list of commands.
        run: Runs the command, and returns the exit code.
        examples: Command lines for `--help`.
    """
    shown = "\n".join(f"  {each}" for each in examples)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary.partition(". ")[0].rstrip("."),
        description=textwrap.fill(summary, WIDTH),
        epilog=f"example{'s' if len(examples) > 1 else ''}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # `--quiet` may also follow the command. With a default it would override a `--quiet` before the command.
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """Return arguments of the form `name=value` as a dict.

    Raises:
        UsageError: An argument has another form.
    """
    return dict(pair(each, option) for each in given)


def pair(text: str, option: str) -> tuple[str, str]:
    """Return the name and the value of one argument. Raises `UsageError` as `pairs` does."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{option} needs a name and a value with = between them, not {text!r}")
    return name, value


def value_of(text: str) -> Any:
    """Return an argument decoded from JSON, or unchanged if it is not valid JSON, as `NaN` is not."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
