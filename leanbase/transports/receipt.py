"""What became of the events of a send: one outcome for every event.

The outcomes and reasons that there are stand here, once; `docs/delivery.md` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypedDict

    from ..errors import DroppedError
    from ..events.encoding import EncodedEvent

    Outcome = Literal["retained", "dropped"]

    class Stats(TypedDict):
        """What became of the events of one client in this process, in numbers of events.

        `captured` is the sum of the others: `retained` ones are pending in an open delivery scope, in memory
        or in a send, `dropped` ones are gone, counted by reason.
        """

        captured: int
        delivered: int
        handed_off: int
        spooled: int
        retained: int
        dropped: dict[str, int]


OUTCOMES = {
    "delivered": "the server answered with 2xx",
    "handed_off": "a queue or the log has it; the relay delivers it",
    "spooled": "it was written to the spool's directory, for the next send of any process, which does not "
    "count it again",
    "retained": "it is pending: in an open scope, in a buffer, in a send, or in memory for the next send",
    "dropped": "it is gone, counted by reason",
}
"""What can become of an event."""

RETAINED_REASONS = {
    "unavailable": "no connection, no response in time, 407, 408, 429, 5xx",
    "refused": "the client lacks permission for the queue, or the queue does not exist; the log says which",
    "paused": "three sends in a row had failed, or one had no response until its deadline; none is tried for "
    "30 s, doubling up to 5 min",
    "deadline": "there was no time left to try",
    "interrupted": "an exception, such as the exit of a signal handler, ended the send",
    "failed": "the transport raised",
    "waiting": "nothing was tried: the client is disabled, or another send has it",
}
"""Why an event is pending, as a receipt says it."""

DROPPED_REASONS = {
    "invalid": "the arguments, or what a hook left, make no event",
    "before_send": "a hook returned `None`, raised, or returned something else than a dict",
    "too_large": "above 900 KiB, or above what a queue or a log line takes",
    "rejected": "the server refused it for good: 4xx but 407, 408 and 429; a redirect that is not followed",
    "overflow": "more than `max_queue_size` or `max_queue_bytes` were pending: the oldest went, or a new one "
    "found no room in a buffer or an import",
    "shutdown": "it could not be delivered before shutdown or the end of the process, or came after that",
    "send_off": "the option `send` is `False`",
    "internal": "a defect of this package; it is logged",
}
"""Why an event is gone, as a receipt and `stats()` say it."""

WAITING = "waiting"
"""The reason of events for which nothing was tried."""


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

    def with_events(self, more: Sequence[EncodedEvent]) -> OutcomeGroup:
        """The same with more events."""
        return OutcomeGroup([*self.events, *more], self.outcome, self.reason, self.error)

    def lightened(self) -> OutcomeGroup:
        """The same without the contents of the events."""
        uuids = [type(event)(event.uuid, b"{}") for event in self.events]
        return OutcomeGroup(uuids, self.outcome, self.reason, self.error)


class Receipt:
    """What became of the events of a send, flush or shutdown.

    True when every event was passed on: delivered, handed off or spooled. False when any is retained or was
    dropped. Receipts of parts add up with `+`.

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
    def has_retained(self) -> bool:
        """Whether any are still to be delivered."""
        return "retained" in [group.outcome for group in self.groups]

    @property
    def retained(self) -> int:
        """How many are still to be delivered."""
        return sum([len(group.events) for group in self.groups if group.outcome == "retained"])

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

    def without(self, events: Iterable[EncodedEvent]) -> Receipt:
        """The same receipt without what it says of these undelivered events."""
        others = set(map(id, events))
        groups = []
        for group in self.groups:
            rest = [event for event in group.events if id(event) not in others]
            if rest:
                groups.append(OutcomeGroup(rest, group.outcome, group.reason, group.error))
        return Receipt(self.delivered, self.handed_off, self.spooled, tuple(groups))

    def giving_up(self, events: Sequence[EncodedEvent], error: DroppedError) -> Receipt:
        """The same receipt, but that these of the undelivered events are dropped."""
        return self.without(events) + Receipt.dropping(events, error.reason, error)

    def lightened(self) -> Receipt:
        """The same receipt, of events that went for want of room only with their uuids."""
        if "overflow" not in [group.reason for group in self.groups]:
            return self
        groups = [group.lightened() if group.reason == "overflow" else group for group in self.groups]
        return Receipt(self.delivered, self.handed_off, self.spooled, tuple(groups))

    def about(self, some: Iterable[EncodedEvent], batch: Sequence[EncodedEvent]) -> Receipt:
        """The part of the receipt that is about some events of a batch.

        Which of the others were delivered, handed off or spooled it does not say. Transports send in order,
        so the first in the batch count as delivered, the next as handed off, the last as spooled.
        """
        wanted = set(map(id, some))
        undelivered = {id(event) for group in self.groups for event in group.events}
        counts, passed_on = [0, 0, 0], 0
        for event in batch:
            if id(event) not in undelivered:
                if id(event) in wanted:
                    place = (passed_on >= self.delivered) + (passed_on >= self.delivered + self.handed_off)
                    counts[place] += 1
                passed_on += 1
        others = [event for event in batch if id(event) not in wanted]
        return Receipt(counts[0], counts[1], counts[2], self.without(others).groups)

    def __bool__(self) -> bool:
        return not self.groups

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


def no_stats() -> Stats:
    """The stats of a client that has captured nothing."""
    return {"captured": 0, "delivered": 0, "handed_off": 0, "spooled": 0, "retained": 0, "dropped": {}}


def imbalance(stats: Stats) -> int:
    """How many captured events are in no place and have no outcome; negative when some count twice."""
    settled = stats["delivered"] + stats["handed_off"] + stats["spooled"] + sum(stats["dropped"].values())
    return stats["captured"] - settled - stats["retained"]
