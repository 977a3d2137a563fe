"""Receipts: one outcome for every event of a send.

This module defines all outcomes and reasons; `docs/delivery.md` shows them.
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
        """Numbers of events of one client in this process, by outcome.

        `captured` is the sum of all others. Retained events are pending: in an open delivery scope, in memory
        or in an in-flight send. Dropped events are lost; `dropped` counts them by reason.
        """

        captured: int
        delivered: int
        handed_off: int
        spooled: int
        retained: int
        dropped: dict[str, int]


OUTCOMES = {
    "delivered": "the server responded with 2xx",
    "handed_off": "a queue or the log has it; the relay delivers it",
    "spooled": "it is in the directory of the spool. The next send of any process delivers it, and does not "
    "count it again",
    "retained": "it is pending: in an open scope, in a buffer, in a send, or in memory for the next send",
    "dropped": "it was discarded, and is counted by reason",
}
"""Every outcome of an event, with its meaning."""

RETAINED_REASONS = {
    "unavailable": "no connection, no response in time, 407, 408, 429, 5xx",
    "refused": "the client lacks permission for the queue, or the queue does not exist; the log says which",
    "paused": "sending pauses for 30 s, doubling up to 5 min, because three sends in a row failed or one had "
    "no response until its deadline",
    "deadline": "no time was left for an attempt",
    "interrupted": "an exception, such as the exit of a signal handler, ended the send",
    "failed": "the transport raised",
    "waiting": "no attempt was made: the client is disabled, or another send has the event",
}
"""Every reason in a receipt for a retained event, with its meaning."""

DROPPED_REASONS = {
    "invalid": "the arguments, or the result of a hook, are not a valid event",
    "before_send": "a hook returned `None`, raised, or returned something other than a dict",
    "too_large": "above 900 KiB, or above the limit of a queue or a log line",
    "rejected": "the server refused it permanently: a 4xx except 407, 408 and 429, or a redirect that is not "
    "followed",
    "overflow": "more than `max_queue_size` or `max_queue_bytes` were pending: the oldest retained event was "
    "dropped, or the new one of a buffer or an import",
    "shutdown": "it could not be delivered before shutdown or the end of the process, or was captured after "
    "that",
    "send_off": "the option `send` is `False`",
    "internal": "a defect of this package; it is logged",
}
"""Every reason in a receipt and in `stats()` for a dropped event, with its meaning."""

WAITING = "waiting"
"""The reason in a receipt for an event that the call did not try to send."""


class Undelivered:
    """One event that a send retained or dropped.

    Attributes:
        event: The event, encoded.
        outcome: `"retained"` if it is still pending, `"dropped"` if it is lost.
        reason: A key of `RETAINED_REASONS` or `DROPPED_REASONS`, such as `"unavailable"` or `"overflow"`.
        error: The exception that `on_error` gets.
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
    """Events with the same outcome, reason and error, so that a receipt does not need an object for each."""

    __slots__ = ("error", "events", "outcome", "reason")

    def __init__(
        self, events: Sequence[EncodedEvent], outcome: Outcome, reason: str, error: Exception
    ) -> None:
        self.events = events
        self.outcome = outcome
        self.reason = reason
        self.error = error

    def with_events(self, more: Sequence[EncodedEvent]) -> OutcomeGroup:
        """Return a copy of the group with more events."""
        return OutcomeGroup([*self.events, *more], self.outcome, self.reason, self.error)

    def lightened(self) -> OutcomeGroup:
        """Return a copy of the group whose events have only their uuids, to save memory."""
        uuids = [type(event)(event.uuid, b"{}") for event in self.events]
        return OutcomeGroup(uuids, self.outcome, self.reason, self.error)


class Receipt:
    """The outcomes of the events of a send, flush or shutdown.

    A receipt is true if every event was delivered, handed off or spooled. It is false if any event was
    retained or dropped. `+` adds two receipts.

    Args:
        delivered: See the attribute.
        handed_off: See the attribute.
        spooled: See the attribute.
        groups: The retained and dropped events. `retaining` and `dropping` create receipts with groups.

    Attributes:
        delivered: The number of events that the ingestion server accepted.
        handed_off: The number of events that a queue or a log accepted.
        spooled: The number of events that were stored in the spool's directory.
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
        """Create a receipt for events that were not sent and that the caller still owns.

        Args:
            events: The events. Without any, the receipt is empty and true.
            reason: A key of `RETAINED_REASONS`.
            error: The exception that `on_error` gets.
        """
        return cls(groups=(OutcomeGroup(events, "retained", reason, error),)) if events else cls()

    @classmethod
    def dropping(cls, events: Sequence[EncodedEvent], reason: str, error: Exception) -> Receipt:
        """Create a receipt for events that are lost.

        Args:
            events: The events. Without any, the receipt is empty and true.
            reason: A key of `DROPPED_REASONS`.
            error: The exception that `on_error` gets.
        """
        return cls(groups=(OutcomeGroup(events, "dropped", reason, error),)) if events else cls()

    @classmethod
    def unknown(cls, error: Exception) -> Receipt:
        """Create a receipt for a call that failed because of a defect: it is false, and counts no event."""
        return cls(groups=(OutcomeGroup((), "retained", "failed", error),))

    @property
    def undelivered(self) -> tuple[Undelivered, ...]:
        """Every event that was retained or dropped, with its uuid and its reason."""
        return tuple(
            Undelivered(event, group.outcome, group.reason, group.error)
            for group in self.groups
            for event in group.events
        )

    @property
    def has_retained(self) -> bool:
        """Whether any event was retained."""
        return "retained" in [group.outcome for group in self.groups]

    @property
    def retained(self) -> int:
        """The number of retained events."""
        return sum([len(group.events) for group in self.groups if group.outcome == "retained"])

    @property
    def dropped(self) -> dict[str, int]:
        """The number of dropped events by reason."""
        counts: dict[str, int] = {}
        for group in self.groups:
            if group.outcome == "dropped":
                counts[group.reason] = counts.get(group.reason, 0) + len(group.events)
        return counts

    def retained_events(self) -> list[EncodedEvent]:
        """Return the retained events, in order."""
        return [event for group in self.groups if group.outcome == "retained" for event in group.events]

    def without(self, events: Iterable[EncodedEvent]) -> Receipt:
        """Return a copy of the receipt without these retained or dropped events."""
        others = set(map(id, events))
        groups = []
        for group in self.groups:
            rest = [event for event in group.events if id(event) not in others]
            if rest:
                groups.append(OutcomeGroup(rest, group.outcome, group.reason, group.error))
        return Receipt(self.delivered, self.handed_off, self.spooled, tuple(groups))

    def giving_up(self, events: Sequence[EncodedEvent], error: DroppedError) -> Receipt:
        """Return a copy of the receipt in which these retained events are dropped."""
        return self.without(events) + Receipt.dropping(events, error.reason, error)

    def lightened(self) -> Receipt:
        """Return a copy in which events dropped as `"overflow"` have only their uuids, to save memory."""
        if "overflow" not in [group.reason for group in self.groups]:
            return self
        groups = [group.lightened() if group.reason == "overflow" else group for group in self.groups]
        return Receipt(self.delivered, self.handed_off, self.spooled, tuple(groups))

    def about(self, some: Iterable[EncodedEvent], batch: Sequence[EncodedEvent]) -> Receipt:
        """Return the part of the receipt that is about some events of its batch, given in the order sent.

        The receipt only knows how many events were delivered, handed off and spooled. Transports send in
        order, so the first of these count as delivered, the next as handed off, the last as spooled.
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
        if not (self.delivered or self.handed_off or self.spooled or self.groups):
            return other
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
        return f"<Receipt {shown or ('unknown' if self.groups else 'nothing to do')}>"


def no_stats() -> Stats:
    """Return the stats of a client that has captured nothing."""
    return {"captured": 0, "delivered": 0, "handed_off": 0, "spooled": 0, "retained": 0, "dropped": {}}


def imbalance(stats: Stats) -> int:
    """Return how many captured events are unaccounted for; negative if some count twice."""
    settled = stats["delivered"] + stats["handed_off"] + stats["spooled"] + sum(stats["dropped"].values())
    return stats["captured"] - settled - stats["retained"]
