"""Writes to a terminal: colours, and the progress bar of an import."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ..historical import Progress

BAR_CHARACTERS = 24
SECONDS_BETWEEN_LINES = 30.0
COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Return text in a colour, if the stream has colours."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if has_colours(stream) else text


def has_colours(stream: TextIO) -> bool:
    """Return True if the stream is a terminal, and `NO_COLOR` is not set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    """Return seconds as `m:ss`, or `h:mm:ss`.

    >>> duration(67), duration(3723.4)
    ('1:07', '1:02:03')
    """
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class ProgressBar:
    """Shows an import in one line on stderr. If stderr is not a terminal, prints a line every 30 s."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._is_terminal = self._stream.isatty()
        self._started: tuple[float, float] | None = None
        self._last_line = time.monotonic()
        self._waited_for = False
        self._is_drawn = False

    def show(self, progress: Progress) -> None:
        """Draw the bar again, or print a line if one is due."""
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            text = self._text(progress)
            self._stream.write(f"\r\x1b[K{text[: width - 1]}")
            self._stream.flush()
            self._is_drawn = True
            return
        is_waiting = progress.waiting_for is not None
        now = time.monotonic()
        if (is_waiting and not self._waited_for) or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(self._text(progress), file=self._stream, flush=True)
        self._waited_for = is_waiting

    def close(self) -> None:
        if self._is_drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _text(self, progress: Progress) -> str:
        read = f"{progress.report.read:,} rows"
        if progress.waiting_for is not None:
            return f"{read}  waiting: {progress.waiting_for}"
        now, fraction = time.monotonic(), progress.fraction
        if self._started is None:
            self._started = now, fraction or 0.0
        seconds, begun = now - self._started[0], self._started[1]
        rate = (progress.report.read - progress.skipped) / seconds if seconds > 0.5 else 0.0
        parts = [read, f"{rate:,.0f}/s"] if rate else [read]
        if fraction is not None:
            full = round(fraction * BAR_CHARACTERS)
            parts.insert(0, f"{fraction:4.0%} {'█' * full}{'░' * (BAR_CHARACTERS - full)}")
            if seconds > 0.5 and fraction > begun:
                parts.append(f"{duration(seconds * (1 - fraction) / (fraction - begun))} left")
        return "  ".join(parts)
