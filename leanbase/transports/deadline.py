"""By when the caller must have its thread back."""

from __future__ import annotations

import time


class Deadline:
    """The moment by which the caller must have its thread back, on the monotonic clock.

    >>> Deadline.after(5.0).remaining() <= 5.0
    True
    >>> Deadline.after(0.0).expired
    True
    """

    __slots__ = ("_at",)

    def __init__(self, at: float) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline this many seconds from now; negative counts as now."""
        return cls(time.monotonic() + max(0.0, seconds))

    def earlier(self, other: Deadline | None) -> Deadline:
        """The earlier of the two."""
        return self if other is None or self._at <= other._at else other

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
