"""Regular expressions that mean the same in Python and on the server, which is written in Rust.

The server decides all others, so that a flag has the same value everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

MAX_REPETITIONS = 1000
MAX_UNBOUNDED = 2
MAX_OPTIONAL = 8
MAX_CHARACTERS = {0: 10_000, 1: 1000, 2: 200}
"""The longest string that is searched, by the number of unbounded quantifiers.

Python tries all combinations, Rust does not. So the server decides searches that could take long in Python.
"""

LONG_RANGE = 8
"""A larger range of repetitions counts as unbounded."""

_COUNT = r"\{([0-9]{1,4})(,([0-9]{1,4})?)?\}"  # not compiled at import
_CLASSES = "dDwWsS"
_CONTROLS = "afnrtv"
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;=?@[\\]^_`{|}~")
_ODD_SPACES = frozenset("\x1c\x1d\x1e\x1f")


class UnlikeError(ValueError):
    """An expression may differ in Python and Rust, or take too long in Python."""


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Callable[[str], bool | None] | None:
    """Return a function that searches a string, or `None` if the expression is invalid.

    The function returns `None` for a string in which Python and Rust may find different matches.

    Raises:
        UnlikeError: The server must decide.
    """
    reader = _Reader(pattern)
    text = reader.read()
    try:
        search = re.compile(text).search
    except (re.error, RecursionError, OverflowError):
        return None

    most = MAX_CHARACTERS[reader.unbounded]

    def found(text: str) -> bool | None:
        if len(text) > most:
            return None
        if reader.has_spaces and not _ODD_SPACES.isdisjoint(text):
            return None
        if reader.has_words and not (text.isascii() or all(c.isascii() or c.isalpha() for c in text)):
            return None
        return search(text) is not None

    return found


class _Reader:
    """Checks an expression, and translates it to Python's syntax.

    Attributes:
        has_words: Whether it matches word characters, which differ between Python and Rust.
        has_spaces: Whether it matches white space, which differs too.
        unbounded: The number of quantifiers without a bound, or with a range above `LONG_RANGE`.
        optional: The number of other quantifiers with a range.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self.has_words = False
        self.has_spaces = False
        self.unbounded = 0
        self.optional = 0

    def read(self) -> str:
        """Return the expression in Python's syntax."""
        pattern, out = self._pattern, []
        groups: list[bool] = []  # for each outer level, whether it contains a quantifier or `|`
        repeats = False  # the same for the current level
        before = ""  # what precedes: "", "atom", "anchor", "repeating" (a group), "quantifier", "lazy"
        while self._at < len(pattern):
            character = pattern[self._at]
            start = self._at
            self._at += 1
            if character in "*+?{":
                if character == "{":
                    self._count(start)
                elif before != "quantifier":
                    self._note(character != "?")
                if before == "quantifier" and character == "?":
                    before = "lazy"
                elif before in ("quantifier", "lazy", "anchor", "repeating"):
                    raise UnlikeError("a quantifier after a quantifier or an anchor, or around one")
                else:
                    before, repeats = "quantifier", True
            elif character == "(":
                if pattern.startswith("?", self._at) and not pattern.startswith("?:", self._at):
                    raise UnlikeError("a group with an extension")
                self._at += 2 if pattern.startswith("?:", self._at) else 0
                groups.append(repeats)
                repeats, before = False, ""
            elif character == ")":
                before = "repeating" if repeats else "atom"
                repeats = (groups.pop() if groups else False) or repeats
            elif character == "[":
                self._class()
                before = "atom"
            elif character == "\\":
                self._escape()
                before = "atom"
            elif character == "$":
                out.append(r"\Z")
                before = "anchor"
                continue
            else:
                repeats = repeats or character == "|"
                before = {"^": "anchor", "|": ""}.get(character, "atom")
            out.append(pattern[start : self._at])
        return "".join(out)

    def _count(self, start: int) -> None:
        found = re.match(_COUNT, self._pattern[start:])
        if not found or max(int(found[1]), int(found[3] or 0)) > MAX_REPETITIONS:
            raise UnlikeError("a brace")
        self._at = start + found.end()
        if found[2]:
            self._note(not found[3] or int(found[3]) - int(found[1]) > LONG_RANGE)

    def _note(self, is_unbounded: bool) -> None:
        """Count a quantifier that does not have a fixed number."""
        self.unbounded += is_unbounded
        self.optional += not is_unbounded
        if self.unbounded > MAX_UNBOUNDED or self.optional > MAX_OPTIONAL:
            raise UnlikeError("many quantifiers, which may take long")

    def _escape(self) -> None:
        character = self._pattern[self._at : self._at + 1]
        self._at += 1
        if character in _HEXADECIMAL:
            digits = self._pattern[self._at : self._at + _HEXADECIMAL[character]]
            if len(digits) < _HEXADECIMAL[character] or not re.fullmatch("[0-9a-fA-F]+", digits):
                raise UnlikeError("an escape")
            self._at += len(digits)
        elif character and character in _CLASSES:
            self.has_words = self.has_words or character in "wW"
            self.has_spaces = self.has_spaces or character in "sS"
        elif character and character not in _PUNCTUATION and character not in _CONTROLS:
            raise UnlikeError("an escape")

    def _class(self) -> None:
        pattern = self._pattern
        if pattern.startswith("^", self._at):
            self._at += 1
        if pattern.startswith("]", self._at):
            self._at += 1
        while self._at < len(pattern):
            character = pattern[self._at]
            self._at += 1
            if character == "]":
                return
            if character == "[" or pattern[self._at - 1 : self._at + 1] in ("&&", "--", "~~", "||"):
                raise UnlikeError("an operation on classes")
            if character == "\\":
                self._escape()
