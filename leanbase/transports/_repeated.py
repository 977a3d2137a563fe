"""Logs a continuing failure once a minute, with the number of events since the last record."""

from __future__ import annotations

import logging
from collections.abc import Hashable

from .deadline import Stopwatch

logger = logging.getLogger("leanbase")

SILENT_SECONDS = 60.0
MAX_KINDS = 20


class RepeatedLog:
    """Logs each kind of failure at most once a minute."""

    def __init__(self) -> None:
        self._said: dict[Hashable, Stopwatch] = {}
        self._unsaid: dict[Hashable, int] = {}

    def log(self, level: int, kind: Hashable, events: int, what: str, things: str = "event(s)") -> None:
        """Log `N event(s) what`. N includes the events since the last log record of this kind."""
        said = self._said.get(kind)
        if said is not None and said.seconds() < SILENT_SECONDS:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + events
            return
        if len(self._said) >= MAX_KINDS:
            self._said.clear()
            self._unsaid.clear()
        self._said[kind] = Stopwatch()
        logger.log(level, "%d %s %s", events + self._unsaid.pop(kind, 0), things, what)
