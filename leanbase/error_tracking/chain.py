"""Lists an exception with its causes, contexts and group members: parents before children (X-15 to X-18)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from .. import introspection

MAX_EXCEPTIONS = 50

Node = TypeVar("Node")


class Link(NamedTuple):
    """One exception of a chain.

    Attributes:
        parent: The position of its parent in the list; `None` for the first exception.
        source: Its relation to its parent: `cause`, `context` or `member`; `None` for the first exception.
    """

    node: Any
    position: int
    parent: int | None
    source: str | None


def flatten(root: Node, relatives: Callable[[Node], Iterable[tuple[Node, str]]]) -> list[Link]:
    """List the objects reachable from `root`, depth first, each once, at most 50.

    `relatives` returns the children of an object, each with its relation.
    """
    links: list[Link] = []
    seen: set[int] = set()
    waiting: list[tuple[Node, int | None, str | None]] = [(root, None, None)]
    while waiting and len(links) < MAX_EXCEPTIONS:
        node, parent, source = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        position = len(links)
        links.append(Link(node, position, parent, source))
        children = [(child, position, relation) for child, relation in relatives(node)]
        waiting.extend(reversed(children))
    return links


def relatives(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield the children of an exception: its cause or context, then the members of a group."""
    if introspection.suppresses_context(error):
        if (cause := introspection.cause(error)) is not None:
            yield cause, "cause"
    elif (context := introspection.context(error)) is not None:
        yield context, "context"
    for member in members(error):
        yield member, "member"


def members(error: BaseException) -> list[BaseException]:
    """Return at most 50 members of an exception group, built-in or backported; `[]` if it is not a group."""
    try:
        held: Any = error.exceptions  # type: ignore[attr-defined]
    except Exception:
        return []
    for kind in (tuple, list):
        if issubclass(type(held), kind):
            found = list(islice(kind.__iter__(held), MAX_EXCEPTIONS))
            return found if all(introspection.is_exception(each) for each in found) else []
    return []
