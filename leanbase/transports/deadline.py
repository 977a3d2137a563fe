"""By when the caller must have its thread back, and whether a later send may come."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    LastChance = Literal["brief", "full"]


class Deadline:
    """The moment by which the caller must have its thread back, on the monotonic clock.

    Args:
        at: That moment.
        last_chance: Whether one attempt is made even while sends to the endpoint pause, because no later send
            may come: `"brief"` where it will probably come after all (a flush), `"full"` at a real end.

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
        """A deadline this many seconds from now; negative counts as now."""
        return cls(time.monotonic() + max(0.0, seconds), last_chance)

    def earlier(self, other: Deadline | None) -> Deadline:
        """The earlier of the two moments; whether it is a last chance, this one says."""
        if other is None or self._at <= other._at:
            return self
        return other if other.last_chance == self.last_chance else Deadline(other._at, self.last_chance)

    def at_most(self, seconds: float) -> Deadline:
        """This deadline, or the one so many seconds from now if that is earlier."""
        return Deadline.after(seconds, self.last_chance).earlier(self)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining() <= 0.0


class Stopwatch:
    """Seconds since it was made, by whichever clock saw more of them.

    A frozen sandbox may stop the monotonic clock while the world goes on; the wall clock is put
    right after the thaw. For "has this been idle too long?", not for measuring.
    """

    __slots__ = ("_monotonic", "_wall")

    def __init__(self) -> None:
        self._monotonic = time.monotonic()
        self._wall = time.time()

    def seconds(self) -> float:
        return max(time.monotonic() - self._monotonic, time.time() - self._wall)
