"""Prints docs/guarantees.md from the fault matrix: `python -m tests.guarantees_page > docs/guarantees.md`."""

from __future__ import annotations

from pathlib import Path

from tests.lambda_runtime.faults import FAULTS, FLUSHES, LOST, WAYS, Fault

PAGE = Path(__file__).parents[1] / "docs" / "guarantees.md"

HEAD = """# Guarantees

What becomes of the events of an invocation, whatever happens to it. Each cell is a test that runs the function in AWS's own runtime interface
emulator; the table that the tests read is the one that this page is made from.

| | |
|---|---|
| sent | before the caller has the answer; with `after_response`, before the sandbox is frozen |
| next | with the next invocation that the process has; after three failed sends in a row, or one without an answer until its deadline, with the first that begins 30 s later |
| disk | with the first invocation of the next process that has the same directory: in Lambda after a timeout or a crash, elsewhere on the same disk |
| **lost** | an event can be lost; the number says why |

For `sqs` and `log`, *sent* means that the queue or the log has it; the [relay](transports.md#the-relay) delivers from there, again and again until it is done.
No event ever arrives under two ids: what is sent twice, because nobody knows whether it arrived, has the same uuid, and the server counts it once.
"""


def guarantees_page() -> str:
    reasons = list(dict.fromkeys(fault.why for fault in FAULTS if fault.why))
    parts = [HEAD]
    for way in WAYS:
        parts.append(
            f"\n## `{way}`\n\n| What happens | " + " | ".join(f"`{flush}`" for flush in FLUSHES) + " |\n"
        )
        parts.append("|---|" + "---|" * len(FLUSHES) + "\n")
        for fault in FAULTS:
            if way in fault.ways:
                cells = " | ".join(_cell(fault, way, flush, reasons) for flush in FLUSHES)
                parts.append(f"| {fault.name} | {cells} |\n")
    parts.append("\n## Why\n\n")
    parts += [f"{number}. {reason}\n" for number, reason in enumerate(reasons, 1)]
    return "".join(parts)


def _cell(fault: Fault, way: str, flush: str, reasons: list[str]) -> str:
    outcome = fault.outcome(way, flush)
    return f"**lost** ({reasons.index(fault.why) + 1})" if outcome == LOST else outcome


if __name__ == "__main__":
    print(guarantees_page(), end="")
