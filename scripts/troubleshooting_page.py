"""Updates docs/troubleshooting.md from the log calls: `python -m scripts.troubleshooting_page`.

Messages and levels come from the code. Explanations come from the page, below the heading of each message. A
new message is added at the end of the page, without an explanation.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGE = ROOT / "leanbase"
LEVELS = ("ERROR", "WARNING", "INFO", "DEBUG")
WIDTH = 118
MOST_OF_A_HEADING = 100
UNEXPLAINED = "## Messages without an explanation"


def messages() -> dict[str, set[str]]:
    """Return each log message of the package, with `…` for its values, and its levels."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for text, levels in _logged(ast.parse(path.read_text())):
            found.setdefault(text, set()).update(levels)
    return found


def _logged(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    constants = _names(ast.Module([node for node in tree.body if isinstance(node, ast.Assign)], []))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = {**constants, **_names(function)}
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            called, arguments = ast.unparse(node.func), list(node.args)
            if called.endswith("_repeated.log"):
                subject = "… request(s)" if len(arguments) > 4 else "… event(s)"
                for text in _texts(arguments[3], names):
                    yield f"{subject} {text}", _levels(arguments[0], names)
            elif called == "logger.log":
                for text in _texts(arguments[1], names):
                    yield text, _levels(arguments[0], names)
            elif called.startswith("logger.") and called.partition(".")[2].upper() in LEVELS:
                for text in _texts(arguments[0], names):
                    yield text, {called.partition(".")[2].upper()}
            elif called == "_warn_once":
                for text in _texts(arguments[0], names):
                    yield text, {"WARNING"}


def _names(function: ast.AST) -> dict[str, list[ast.expr]]:
    """Return the values that are assigned to each name of a function, or of a module."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _texts(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    if isinstance(node, ast.Constant):
        texts = [str(node.value)]
    elif isinstance(node, ast.JoinedStr):
        texts = ["".join(map(_part, node.values))]
    elif isinstance(node, ast.Name):
        texts = [text for value in names.get(node.id, []) for text in _texts(value, names)]
    else:
        texts = []
    plain = [re.sub(r"%(\.\d+)?[srdf]", "…", text) for text in texts]
    return [text for text in plain if text.strip("…: ") not in ("", "event(s)")]  # its insertion is listed


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    return (
        "leanbase" if isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == "PACKAGE" else "…"
    )


def _levels(node: ast.expr, names: dict[str, list[ast.expr]]) -> set[str]:
    text = ast.unparse(node)
    if isinstance(node, ast.Name):
        text = " ".join(map(ast.unparse, names.get(node.id, [])))
    return {level for level in LEVELS if f"logging.{level}" in text}


def page() -> str:
    """Return the page with the current messages and the existing explanations."""
    head, _, _ = PAGE.read_text().partition("\n## ")
    known = messages()
    by_heading = {_shortened(message): message for message in known}
    assert len(by_heading) == len(known), "two messages begin with the same words"
    parts = [head]
    explained = set()
    for section in re.split(r"(?m)^## ", PAGE.read_text())[1:]:
        title, _, body = section.partition("\n")
        entries = []
        introduction, *items = re.split(r"(?m)^### ", body)
        for item in items:
            heading, _, text = item.partition("\n")
            message = by_heading.get(_shortened(_unquoted(heading)), "")
            if message in known:
                explained.add(message)
                entries.append(_entry(message, known[message], text))
        if entries and f"## {title}" != UNEXPLAINED:
            parts.append("\n\n".join(filter(None, [f"## {title}", introduction.strip(), *entries])))
        elif entries:
            explained -= {by_heading.get(_unquoted(item.partition("\n")[0]), "") for item in items}
    rest = [_entry(message, known[message], "") for message in sorted(set(known) - explained)]
    if rest:
        parts.append("\n\n".join([UNEXPLAINED, *rest]))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _unquoted(heading: str) -> str:
    return heading[3:-3] if heading.startswith("`` ") else heading.strip("`")


def _entry(message: str, levels: set[str], text: str) -> str:
    named = " or ".join(level for level in LEVELS if level in levels)
    text = re.sub(r"(?s)^```text\n.*?```\n", "", text.strip()).strip()
    explanation = " ".join(re.sub(r"^\*\*[A-Z a-z]+\.\*\*", "", text).split())
    shown = _shortened(message)
    quoted = f"`` {shown} ``" if "`" in shown else f"`{shown}`"
    whole = f"```text\n{_wrapped(message)}\n```\n\n" if shown != message else ""
    return f"### {quoted}\n\n{whole}{_wrapped(f'**{named}.** {explanation}'.rstrip())}"


def _shortened(message: str) -> str:
    """Return a message as shortened for its heading."""
    if len(message) <= MOST_OF_A_HEADING:
        return message
    return message[:MOST_OF_A_HEADING].rpartition(" ")[0] + " …"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page())
