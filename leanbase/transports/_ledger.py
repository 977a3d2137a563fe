"""The books of one client: where each of its events is, and how many came and went.

An event that was captured is in exactly one place: collected in a delivery scope, kept for the next send, or
in flight. When it leaves the last of them it has an outcome, of which the number stays.

A lock keeps threads apart. It does not keep out a signal handler that captures, flushes or raises in the
middle of its own thread's work, so every change here is one *step*. CPython runs signal handlers at the
beginning of a Python function, at a backward jump, and after a call of a function written in C. A step is a
run of statements with none of these between its first change and its last: assignments, `+=` on an
attribute, `list[slice] = ...`, `del dict[key]`, `is`, and at most one call of `list.append` at the end. What
a step needs is computed before it, and compared once more where a handler might have changed it since. So a
handler finds the books whole wherever it strikes, and an exception that it raises leaves them whole.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from ..errors import ClosedError, DroppedError
from ..events.encoding import EncodedEvent
from .deadline import Stopwatch
from .receipt import OutcomeGroup, Receipt, imbalance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .receipt import Stats

logger = logging.getLogger("leanbase")

TRY_AGAIN_SECONDS = 1.0
"""So long after a send in the place of an interrupted one has failed, none is tried again."""

_FRONT = slice(0, 0)
_END = slice(sys.maxsize, None)


class Flight:
    """One send of one thread, and the events in it.

    Args:
        scope: The delivery scope that it is for, if any.

    Attributes:
        events: What it answers for, in order.
        sent: What is sent: the same, unless another send was tried in its place and some of that came back.
        has_backlog: Whether some were kept from an earlier send.
        interrupted: The send of the same thread in whose place this one is tried, by a signal handler.
        tried: When another send was last tried in its place, and failed.
        receipt: What became of its events, once it has landed.
        failed: Whether the transport retained some.
        is_recorded: Whether its delivery scope has taken down what became of it.
        is_followed: Whether events were captured during the send, by a signal handler, that wait for its end.
        admitted: Whether the event that it was made for is in the books.
    """

    __slots__ = (
        "admitted",
        "events",
        "failed",
        "has_backlog",
        "interrupted",
        "is_followed",
        "is_recorded",
        "receipt",
        "scope",
        "sent",
        "thread",
        "tried",
    )

    def __init__(self, scope: Any = None) -> None:
        self.scope = scope
        self.events: list[EncodedEvent] = []
        self.sent = self.events
        self.thread = threading.get_ident()
        self.interrupted: Flight | None = None
        self.tried: Stopwatch | None = None
        self.has_backlog = False
        self.receipt: Receipt | None = None
        self.failed = False
        self.is_followed = False
        self.is_recorded = False
        self.admitted = False

    def may_be_replaced(self) -> bool:
        """Whether a flush in a signal handler may try another send in its place.

        Not a second time at once: the first has failed, or was itself interrupted, and this may succeed.
        """
        if self.tried is not None:
            return self.tried.seconds() >= TRY_AGAIN_SECONDS
        return self.interrupted is None


class Collected:
    """What one delivery scope has collected of one client.

    Attributes:
        events: The events, in order.
        bytes: Their size.
        since: When the first of them came, on the monotonic clock.
        is_taken: Whether a send has them.
    """

    __slots__ = ("bytes", "events", "is_taken", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.events: list[EncodedEvent] = []
        self.bytes = 0
        self.is_taken = False


class Ledger:
    """Keeps the books of one client in this process.

    Args:
        limit: Most events kept for the next send; above it the oldest are dropped.
        limit_bytes: Most bytes of them.
        drops_oldest: `False` counts what is in flight or collected as well, and refuses new events for the
            lack of room but drops none that was admitted.

    Attributes:
        lock: Held for single steps, never while something is sent, logged or called back.
        tells: Whether somebody wants to be told of what sends drop.
        sealed: Whether no more events are admitted.
        closed: Whether none are kept: what a send retains is dropped.
    """

    def __init__(self, limit: int, limit_bytes: int, *, drops_oldest: bool = True) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.drops_oldest = drops_oldest
        self.tells = False
        self.sealed = False
        self.closed = False
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Start the books of this process: the parent's events are the parent's."""
        self.lock = threading.RLock()
        self._landed = threading.Condition(self.lock)
        self._kept: list[EncodedEvent] = []
        self._kept_bytes = 0
        self._collected: dict[Hashable, Collected] = {}
        self._flights: dict[Flight, None] = {}
        self._untold: list[OutcomeGroup] = []
        self._captured = 0
        self._delivered = 0
        self._handed_off = 0
        self._spooled = 0
        self._dropped: dict[str, int] = {}

    # --- events that come ----------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """Count an event that was captured and not admitted."""
        with self.lock:
            while True:
                before = self._dropped
                after = {**before, reason: before.get(reason, 0) + 1}
                if self._dropped is before:  # step
                    self._captured += 1
                    self._dropped = after
                    return

    def keep(self, event: EncodedEvent) -> bool:
        """Admit an event and keep it, behind the others; false, and dropped, when there is no room.

        Raises:
            ClosedError: Nothing is admitted any more.
        """
        with self.lock:
            if self.sealed:
                raise ClosedError(event)
            size = len(event)
            if len(self._kept) < self.limit and self._kept_bytes + size <= self.limit_bytes:  # step
                self._captured += 1
                self._kept_bytes += size
                self._kept.append(event)
                return True
        self.drop("overflow")
        return False

    def collect(self, event: EncodedEvent, scope: Any) -> Collected | None:
        """Admit an event into what a delivery scope collects.

        Returns:
            What the scope has collected now; `None` when it is closed.

        Raises:
            ClosedError: Nothing is admitted any more.
        """
        size = len(event)
        with self.lock:
            if self.sealed:
                raise ClosedError(event)
            while not scope.closed:
                collected = self._collected.get(scope)
                if collected is None:
                    collected = self._collected.setdefault(scope, Collected())
                if not collected.is_taken and not scope.closed:  # step
                    self._captured += 1
                    collected.bytes += size
                    collected.events.append(event)
                    return collected
        return None

    # --- sends -----------------------------------------------------------------------------------------

    def launch(
        self,
        flight: Flight,
        event: EncodedEvent | None = None,
        *,
        scope: Any = None,
        first: int | None = None,
        over: Iterable[Flight] = (),
    ) -> None:
        """Begin to send: move events into a flight.

        Args:
            flight: A new one.
            event: Admit this one, behind the others.
            scope: Send what this delivery scope has collected, after what was kept.
            first: Send only so many of those kept.
            over: Flights whose events this one takes over: their sends may never go on.

        Raises:
            ClosedError: There is an event, and none is admitted any more.
        """
        with self.lock:
            if event is not None and self.sealed:
                raise ClosedError(event)
            self._flights[flight] = None
            for other in over:
                while other in self._flights and other is not flight:
                    if flight in self._flights:  # step
                        flight.has_backlog = True
                        flight.events[_END] = other.events
                        del self._flights[other]
                    else:
                        self._launch_again(flight)
            if first is not None:
                return self._launch_first(flight, first)
            while self._kept:
                fresh: list[EncodedEvent] = []
                if flight in self._flights:  # step
                    flight.has_backlog = True
                    flight.events[_END] = self._kept
                    self._kept = fresh
                    self._kept_bytes = 0
                else:
                    self._launch_again(flight)
            while scope is not None and (collected := self._collected.get(scope)) is not None:
                if flight not in self._flights:
                    self._launch_again(flight)
                elif not collected.is_taken:  # step
                    flight.events[_END] = collected.events
                    collected.is_taken = True
                    del self._collected[scope]
            while event is not None and not flight.admitted:
                if flight in self._flights:  # step
                    self._captured += 1
                    flight.admitted = True
                    flight.events.append(event)
                else:
                    self._launch_again(flight)

    def _launch_again(self, flight: Flight) -> None:
        """Begin anew with a flight whose events a signal handler has sent in the middle of its launch."""
        fresh: list[EncodedEvent] = []
        flight.events = flight.sent = fresh
        self._flights[flight] = None

    def _launch_first(self, flight: Flight, count: int) -> None:
        while kept := self._kept:
            part, rest, last = kept[:count], kept[count:], kept[-1]
            left = self._kept_bytes - _bytes(part)
            if flight not in self._flights:
                self._launch_again(flight)
            elif self._kept is kept and kept[0] is part[0] and kept[-1] is last:  # step
                flight.has_backlog = True
                flight.events[_END] = part
                self._kept = rest
                self._kept_bytes = left
                return

    def land(self, flight: Flight, receipt: Receipt) -> tuple[list[EncodedEvent], Receipt]:
        """End a send: book the outcomes, and keep what was retained, in front.

        What is retained is dropped when the books are closed, and the oldest of it when there is no room.
        What is retained of an interrupted send goes back to that: it may still succeed.

        Args:
            flight: From `launch`. Nothing is left to do when it has landed before. If another flight has
                taken over its events, only those are booked that came back from there.
            receipt: What became of its events.

        Returns:
            The events that were booked, and the receipt about them.
        """
        with self.lock:
            if flight.sent is not flight.events:
                receipt = receipt.about(flight.events, flight.sent)
            kept: list[EncodedEvent] = []
            back: list[EncodedEvent] = []
            if receipt.groups:
                receipt, kept, back = self._divided(flight, receipt)
            flight.receipt = receipt
            interrupted = flight.interrupted
            dropped: list[OutcomeGroup] = []
            if receipt.groups and self.tells:
                dropped = [group for group in receipt.groups if group.outcome == "dropped"]
            size = _bytes(kept) if kept else 0
            while flight in self._flights:
                before = self._dropped
                after = _added(before, receipt.dropped) if receipt.groups else before
                if flight in self._flights and self._dropped is before:  # step
                    if back and interrupted is not None:
                        interrupted.events = back
                        self._flights[interrupted] = None
                    self._kept[_FRONT] = kept
                    self._kept_bytes += size
                    self._untold[_END] = dropped
                    self._delivered += receipt.delivered
                    self._handed_off += receipt.handed_off
                    self._spooled += receipt.spooled
                    self._dropped = after
                    del self._flights[flight]
                    self._landed.notify_all()
                    return flight.events, receipt
            if not flight.events:
                return [], Receipt()
            came_back = self._recall(flight, receipt)
            return self.land(came_back, receipt.about(came_back.events, flight.events))

    def _divided(
        self, flight: Flight, receipt: Receipt
    ) -> tuple[Receipt, list[EncodedEvent], list[EncodedEvent]]:
        """The receipt without what cannot be kept; which events are kept, and which go back."""
        retained, back = receipt.retained_events(), []
        if self.closed:
            return receipt.giving_up(retained, _lost_at_shutdown(len(retained))), [], []
        if flight.interrupted is not None:
            flight.interrupted.tried = Stopwatch()
            own = set(map(id, flight.interrupted.sent))
            back = [event for event in retained if id(event) in own]
            retained = [event for event in retained if id(event) not in own]
        excess = self._excess(retained, len(self._kept), self._kept_bytes)
        if excess:
            text = f"the oldest {excess} undelivered event(s) were dropped: {self.limits}"
            receipt = receipt.giving_up(retained[:excess], DroppedError("overflow", text))
            retained = retained[excess:]
        return receipt, retained, back

    def _excess(self, events: Sequence[EncodedEvent], others: int = 0, bytes_of_others: int = 0) -> int:
        """How many of these, the oldest first, must go for the rest to fit beside others."""
        if not self.drops_oldest:
            return 0
        count = min(len(events), max(0, len(events) + others - self.limit))
        size = bytes_of_others + _bytes(events[count:])
        while size > self.limit_bytes and count < len(events):
            size -= len(events[count])
            count += 1
        return count

    def _recall(self, flight: Flight, receipt: Receipt) -> Flight:
        """A flight of those events that are kept although the receipt has an outcome for them.

        Another flight took them over and did not deliver them; this one did.
        """
        came_back = Flight(flight.scope)
        came_back.has_backlog = True
        self._flights[came_back] = None
        wanted = set(map(id, flight.events)) - set(map(id, receipt.retained_events()))
        while kept := self._kept:
            rest = [event for event in kept if id(event) not in wanted]
            back, first, last = [event for event in kept if id(event) in wanted], kept[0], kept[-1]
            left = _bytes(rest)
            if self._kept is kept and kept[0] is first and kept[-1] is last:  # step
                came_back.events[_END] = back
                self._kept = rest
                self._kept_bytes = left
                break
        return came_back

    def keep_collected(self, scope: Any) -> list[EncodedEvent]:
        """Leave what a delivery scope has collected to the next send, behind what is kept already."""
        moved: list[EncodedEvent] = []
        with self.lock:
            while (collected := self._collected.get(scope)) is not None:
                if not collected.is_taken:  # step
                    self._kept[_END] = collected.events
                    self._kept_bytes += collected.bytes
                    moved[_END] = collected.events
                    collected.is_taken = True
                    del self._collected[scope]
        return moved

    @property
    def limits(self) -> str:
        """The limits in words."""
        return f"max_queue_size is {self.limit}, max_queue_bytes {self.limit_bytes}"

    # --- what is told of ---------------------------------------------------------------------------------

    def has_untold(self) -> bool:
        """Whether sends have dropped events of which nobody was told."""
        return bool(self._untold)

    def tell(self, call: Callable[[OutcomeGroup], object]) -> None:
        """Call with each group of events that sends have dropped; again if an interrupt ends the call."""
        while self._untold:
            groups: list[OutcomeGroup] = []
            fresh: list[OutcomeGroup] = []
            try:
                with self.lock:
                    groups[_END] = self._untold  # step
                    self._untold = fresh
                while groups:
                    call(groups[0])
                    del groups[0]
            finally:
                if groups:
                    with self.lock:
                        self._untold[_FRONT] = groups

    # --- what there is ---------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many events are kept for the next send."""
        return len(self._kept)

    @property
    def settled(self) -> int:
        """How many events have an outcome."""
        return self._delivered + self._handed_off + self._spooled + sum(list(self._dropped.values()))

    def collecting(self) -> list[Any]:
        """The delivery scopes that have collected events."""
        with self.lock:
            return list(self._collected)

    def has_room(self, size: int) -> bool:
        """Whether one more event of this size may be admitted."""
        with self.lock:
            count, kept = len(self._kept), self._kept_bytes
            if not self.drops_oldest:
                others = [each.events for each in list(self._flights)]
                others += [each.events for each in list(self._collected.values())]
                count += sum([len(events) for events in others])
                kept += sum([_bytes(events) for events in others])
            return not count or (count < self.limit and kept + size <= self.limit_bytes)

    def excess(self) -> int:
        """How many of the events that are kept, the oldest first, are too many."""
        with self.lock:
            return self._excess(self._kept)

    def has_flights(self) -> bool:
        """Whether anything is in flight."""
        return bool(self._flights)

    def flights(self, wanted: Callable[[Flight], bool]) -> list[Flight]:
        """The flights that are wanted, oldest first."""
        with self.lock:
            return [flight for flight in list(self._flights) if wanted(flight)]

    def wait_for(self, flights: Iterable[Flight], seconds: float | None) -> None:
        """Wait until these flights have landed, or the time is up."""
        awaited = set(flights)
        self.wait_until(lambda: awaited.isdisjoint(self._flights), seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float | None) -> None:
        """Wait until a condition holds, which is looked at whenever a flight lands, or the time is up."""
        with self.lock:
            self._landed.wait_for(condition, seconds)

    def seal(self) -> None:
        """Admit no more events. One that is just being admitted is in the books afterwards."""
        with self.lock:
            self.sealed = True

    def pending(self, flights: Iterable[Flight]) -> list[EncodedEvent]:
        """What is kept, and what these flights still have."""
        wanted = set(flights)
        with self.lock:
            flights = [each for each in list(self._flights) if each in wanted]
            flying = [event for each in flights for event in each.events]
            return [*self._kept, *flying]

    def stats(self) -> Stats:
        """The numbers at this moment. Whether they add up is checked: every event is counted where it is."""
        for _ in range(3):  # a signal handler may capture half-way through
            with self.lock:
                captured, dropped = self._captured, self._dropped
                retained = len(self._kept)
                retained += sum([len(each.events) for each in list(self._collected.values())])
                retained += sum([len(each.events) for each in list(self._flights)])
                stats: Stats = {
                    "captured": captured,
                    "delivered": self._delivered,
                    "handed_off": self._handed_off,
                    "spooled": self._spooled,
                    "retained": retained,
                    "dropped": dict(dropped),
                }
            if imbalance(stats) == 0:
                return stats
        count = imbalance(stats)
        logger.error("internal error: %d event(s) are unaccounted for; please report it", count)
        return stats


def _bytes(events: Sequence[EncodedEvent]) -> int:
    return sum([len(event.body) for event in events])


def _added(before: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {**before, **{reason: before.get(reason, 0) + count for reason, count in more.items()}}


def _lost_at_shutdown(count: int) -> DroppedError:
    return DroppedError("shutdown", f"{count} event(s) could not be delivered before shutdown")
