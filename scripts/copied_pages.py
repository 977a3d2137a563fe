"""Copies pages into docs/ that are kept elsewhere in the repository: `python -m scripts.copied_pages`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "benchmarks/results.md": "benchmarks.md"}


def main() -> None:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text()
        (ROOT / "docs" / page).write_text(re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text))


if __name__ == "__main__":
    main()
