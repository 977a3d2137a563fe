"""Deadlines of sends, and a stopwatch that counts the time in a frozen sandbox."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    LastChance = Literal["brief", "full"]


class Deadline:
    """The time by which a call must have returned.

    Args:
        at: That time in seconds, on the monotonic clock.
        last_chance: Allows one attempt even while sends to the endpoint are paused. `"brief"` if a later
            send is likely, as after a flush. `"full"` if there is no later send.

    >>> Deadline.after(5.0).remaining() <= 5.0
    True
    >>> Deadline.after(0.0).expired
    True
    """

    __slots__ = ("_at", "last_chance")

    def __init__(self, at: float, last_chance: LastChance | None = None) -> None:
        self._at = at
        self.last_chance = last_chance

    @classmethod
    def after(cls, seconds: float, last_chance: LastChance | None = None) -> Deadline:
        """Create a deadline in this many seconds. A negative number counts as 0."""
        return cls(time.monotonic() + max(0.0, seconds), last_chance)

    def earlier(self, other: Deadline | None) -> Deadline:
        """Return the earlier of two deadlines, with the `last_chance` of this one."""
        if other is None or self._at <= other._at:
            return self
        return other if other.last_chance == self.last_chance else Deadline(other._at, self.last_chance)

    def at_most(self, seconds: float) -> Deadline:
        """Return this deadline, or a deadline in this many seconds if that is earlier."""
        return Deadline.after(seconds, self.last_chance).earlier(self)

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining() <= 0.0


class Stopwatch:
    """Counts the seconds since it was created, on the monotonic or the wall clock, whichever counted more.

    The monotonic clock may stop while a sandbox is frozen; the wall clock is corrected after the thaw. Use it
    to check how old something is, not to measure durations.
    """

    __slots__ = ("_monotonic", "_wall")

    def __init__(self) -> None:
        self._monotonic = time.monotonic()
        self._wall = time.time()

    def seconds(self) -> float:
        return max(time.monotonic() - self._monotonic, time.time() - self._wall)
