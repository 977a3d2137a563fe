"""Prints docs/guarantees.md from the fault matrices of the tests: `python -m scripts.guarantees_page`."""

from __future__ import annotations

import textwrap
from collections.abc import Collection
from pathlib import Path

from tests.delivery import exit_faults
from tests.delivery.exit_faults import EXIT_FAULTS
from tests.lambda_runtime.faults import FAULTS, FLUSHES, LOST, NEVER, SENT, WAYS, Fault

PAGE = Path(__file__).parents[1] / "docs" / "guarantees.md"
WIDTH = 118

HEAD = """# Guarantees

What happens to events under each fault: in an invocation of a Lambda function, by transport and by `flush`, and in a
program without a decorator, by transport. Each cell is a test, and this page is generated from the tables of the tests.

## An invocation

The function runs in AWS's own runtime interface emulator.

| | |
|---|---|
| sent | before the caller has the response; with `after_response`, before the sandbox is frozen |
| next | with the next invocation of the process; when sending is paused, with the first one after the pause |
| disk | with the first invocation of the next process that has the same directory |
| **lost** | an event can be lost; the number gives the reason |
| (empty) | the fault cannot happen with this `flush` |

Sending pauses for 30 s after three failed sends in a row, or after one that had no response until its deadline. In
Lambda the next process has the same directory after a timeout or a crash; elsewhere it has it on the same disk.

For `sqs` and `log`, *sent* means that the queue or the log has the event. The [relay](transports.md#the-relay)
delivers it from there, and retries until it succeeds. An event that is sent twice, because it is not known whether
it arrived, has the same uuid both times, and the server counts it once.
"""

PROGRAMS = """
## A program without a decorator

It captures on its own, and then its process ends. `http, buffered` is `sync_mode=False`.

| | |
|---|---|
| sent | before the process ends; the end takes 2 s at most, for all clients together |
| disk | with the next process that has the same directory |
| reported | lost: an ERROR says how many, and `on_error` is called with them |
| **lost** | an event can be lost without a report; the number gives the reason |

"""


def guarantees_page() -> str:
    reasons = list(dict.fromkeys(fault.why for fault in FAULTS if fault.why))
    always_sent = [fault for fault in FAULTS if all(set(row) == {SENT} for row in _rows(fault))]
    parts = [HEAD, "\n### Sent, with every transport and every `flush`\n\n"]
    parts += [f"* {fault.name}{_where(fault)}\n" for fault in always_sent]
    parts += ["\n### Everything else\n\n"]
    parts += [_line("What happens", "with", *(f"`{flush}`" for flush in FLUSHES)), "|---" * 5 + "|\n"]
    for fault in FAULTS:
        if fault not in always_sent:
            for number, (row, ways) in enumerate(_rows(fault).items()):
                cells = (_marked(outcome, fault.why, reasons) for outcome in row)
                parts.append(_line("" if number else fault.name, _named(ways), *cells))
    reasons += [each.why for each in EXIT_FAULTS if each.why and each.why not in reasons]
    columns = exit_faults.WAYS
    parts.append(PROGRAMS)
    parts += [_line("How it ends", *(f"`{way}`" for way in columns)), "|---" * (1 + len(columns)) + "|\n"]
    for each in EXIT_FAULTS:
        outcomes = map(each.outcome, columns)
        parts.append(_line(each.name, *(_marked(outcome, each.why, reasons) for outcome in outcomes)))
    parts.append("\n## Why\n\n")
    for number, reason in enumerate(reasons, 1):
        parts.append(textwrap.fill(f"{number}. {reason}", WIDTH, subsequent_indent="   ") + "\n")
    return "".join(parts)


def _rows(fault: Fault) -> dict[tuple[str, ...], list[str]]:
    """Return the transports of a fault, by their outcomes with each flush policy."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for way in fault.ways:
        rows.setdefault(tuple(fault.outcome(way, flush) for flush in FLUSHES), []).append(way)
    return rows


def _where(fault: Fault) -> str:
    return "" if set(fault.ways) == set(WAYS) else f" ({_named(fault.ways)})"


def _named(ways: Collection[str]) -> str:
    others = set(WAYS) - set(ways)
    if len(others) < 2:
        return " ".join(["all", *(f"but `{way}`" for way in others)])
    return ", ".join(f"`{way}`" for way in ways)


def _marked(outcome: str, why: str, reasons: list[str]) -> str:
    return f"lost ({reasons.index(why) + 1})" if outcome == LOST else "" if outcome == NEVER else outcome


def _line(*cells: str) -> str:
    return f"|{'|'.join(cells)}|\n"  # without spaces: a line has at most 120 characters


if __name__ == "__main__":
    print(guarantees_page(), end="")
