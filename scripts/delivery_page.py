"""Writes the lists of docs/delivery.md from the lists in receipt.py: `python -m scripts.delivery_page`."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from leanbase.transports.receipt import DROPPED_REASONS, OUTCOMES, RETAINED_REASONS

PAGE = Path(__file__).parents[1] / "docs" / "delivery.md"
LISTS = {
    "Outcomes of an event": OUTCOMES,
    "Why an event was dropped": DROPPED_REASONS,
    "Why an event is retained": RETAINED_REASONS,
}
WIDTH = 118


def entries(title: str) -> str:
    lines = [f"- `{word}`: {meaning}" for word, meaning in LISTS[title].items()]
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    return f"**{title}:**\n\n" + "\n".join(wrapped)


def page() -> str:
    """Return the current page with its lists replaced."""
    text = PAGE.read_text()
    for title in LISTS:
        pattern = rf"^\*\*{title}:\*\*\n\n(?:- [^\n]*\n(?:  [^\n]*\n)*)+"
        found = re.findall(pattern, text, flags=re.MULTILINE)
        if len(found) != 1:
            raise ValueError(f"docs/delivery.md must have one list with the title {title!r}")
        before, after = re.split(pattern, text, maxsplit=1, flags=re.MULTILINE)
        text = f"{before}{entries(title)}\n{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
