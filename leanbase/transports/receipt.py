"""What became of the events of a send: one outcome for every event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from ..events.encoding import EncodedEvent

    Outcome = Literal["retained", "dropped"]


class Undelivered:
    """One event that a send did not pass on.

    Attributes:
        event: The event, encoded.
        outcome: `"retained"` when it is still to be delivered, `"dropped"` when it is gone.
        reason: Why, as `stats()` counts it: `"unavailable"`, `"rejected"`, `"overflow"` ...
        error: The same as an exception, for `on_error`.
    """

    __slots__ = ("error", "event", "outcome", "reason")

    def __init__(self, event: EncodedEvent, outcome: Outcome, reason: str, error: Exception) -> None:
        self.event = event
        self.outcome = outcome
        self.reason = reason
        self.error = error

    @property
    def uuid(self) -> str:
        """The event's uuid."""
        return self.event.uuid

    def __repr__(self) -> str:
        return f"<Undelivered {self.uuid} {self.outcome}: {self.reason}>"


class OutcomeGroup:
    """Events that met the same fate together. A receipt of ten thousand must not make as many objects."""

    __slots__ = ("error", "events", "outcome", "reason")

    def __init__(
        self, events: Sequence[EncodedEvent], outcome: Outcome, reason: str, error: Exception
    ) -> None:
        self.events = events
        self.outcome = outcome
        self.reason = reason
        self.error = error


class Receipt:
    """What became of the events of a send, flush or shutdown. True when nothing is outstanding.

    Receipts of parts add up with `+`.

    Attributes:
        delivered: How many the ingestion server accepted.
        handed_off: How many a queue or a log took over.
        spooled: How many wait in a directory.
    """

    __slots__ = ("delivered", "groups", "handed_off", "spooled")

    def __init__(
        self,
        delivered: int = 0,
        handed_off: int = 0,
        spooled: int = 0,
        groups: tuple[OutcomeGroup, ...] = (),
    ) -> None:
        self.delivered = delivered
        self.handed_off = handed_off
        self.spooled = spooled
        self.groups = groups

    @classmethod
    def retaining(cls, events: Sequence[EncodedEvent], reason: str, error: Exception) -> Receipt:
        """None of `events` went out; whoever sent them still has them."""
        return cls(groups=(OutcomeGroup(events, "retained", reason, error),)) if events else cls()

    @classmethod
    def dropping(cls, events: Sequence[EncodedEvent], reason: str, error: Exception) -> Receipt:
        """All of `events` are given up."""
        return cls(groups=(OutcomeGroup(events, "dropped", reason, error),)) if events else cls()

    @property
    def undelivered(self) -> tuple[Undelivered, ...]:
        """Every event that was retained or dropped, with its uuid and the reason."""
        return tuple(
            Undelivered(event, group.outcome, group.reason, group.error)
            for group in self.groups
            for event in group.events
        )

    @property
    def retained(self) -> int:
        """How many are still to be delivered."""
        return sum(len(group.events) for group in self.groups if group.outcome == "retained")

    @property
    def dropped(self) -> dict[str, int]:
        """How many were given up, by reason."""
        counts: dict[str, int] = {}
        for group in self.groups:
            if group.outcome == "dropped":
                counts[group.reason] = counts.get(group.reason, 0) + len(group.events)
        return counts

    def retained_events(self) -> list[EncodedEvent]:
        """The events that are still to be delivered, in order."""
        return [event for group in self.groups if group.outcome == "retained" for event in group.events]

    def drops(self, event: EncodedEvent, reason: str) -> bool:
        """Whether it says that this event was given up for this reason."""
        return any(
            each is event
            for group in self.groups
            if group.outcome == "dropped" and group.reason == reason
            for each in group.events
        )

    def without(self, events: Iterable[EncodedEvent]) -> Receipt:
        """The same receipt without what it says of these undelivered events."""
        others = set(map(id, events))
        groups = []
        for group in self.groups:
            rest = [event for event in group.events if id(event) not in others]
            if rest:
                groups.append(OutcomeGroup(rest, group.outcome, group.reason, group.error))
        return Receipt(self.delivered, self.handed_off, self.spooled, tuple(groups))

    def __bool__(self) -> bool:
        return not self.groups or not any(group.outcome == "retained" for group in self.groups)

    def __add__(self, other: Receipt) -> Receipt:
        return Receipt(
            self.delivered + other.delivered,
            self.handed_off + other.handed_off,
            self.spooled + other.spooled,
            self.groups + other.groups,
        )

    def __repr__(self) -> str:
        counts = {
            "delivered": self.delivered,
            "handed_off": self.handed_off,
            "spooled": self.spooled,
            "retained": self.retained,
            "dropped": self.dropped,
        }
        shown = ", ".join(f"{name}={count}" for name, count in counts.items() if count)
        return f"<Receipt {shown or 'nothing to do'}>"
