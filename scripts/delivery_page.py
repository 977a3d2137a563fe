"""Write the tables of docs/delivery.md from the lists in receipt.py: `python -m scripts.delivery_page`."""

from __future__ import annotations

import re
from pathlib import Path

from leanbase.transports.receipt import DROPPED_REASONS, OUTCOMES, RETAINED_REASONS

PAGE = Path(__file__).parents[1] / "docs" / "delivery.md"
TABLES = {
    "Outcome": OUTCOMES,
    "Reason of a drop": DROPPED_REASONS,
    "Reason for being retained": RETAINED_REASONS,
}


def table(title: str) -> str:
    rows = [f"| {title} | Meaning |", "|---|---|"]
    rows += [f"| `{word}` | {meaning} |" for word, meaning in TABLES[title].items()]
    return "\n".join(rows)


def page() -> str:
    """The page as it is, with the tables as they are to be."""
    text = PAGE.read_text()
    for title in TABLES:
        pattern = rf"^\| {title} \|[^\n]*\n\|[-|]+\|\n(?:\|[^\n]*\n)*"
        found = re.findall(pattern, text, flags=re.MULTILINE)
        if len(found) != 1:
            raise ValueError(f"docs/delivery.md must have one table that begins with {title!r}")
        before, after = re.split(pattern, text, maxsplit=1, flags=re.MULTILINE)
        text = f"{before}{table(title)}\n{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
