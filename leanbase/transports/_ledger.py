"""The ledger of one client: where each of its events is, and how many had each outcome.

A captured event is in exactly one place: collected in a delivery scope, retained for the next send, or in
flight. Once it has a final outcome, only the count of that outcome remains.

A lock keeps threads apart. It does not stop a signal handler that captures, flushes or raises in the middle
of its own thread's work. So every change here is one *step*, which no signal handler can interrupt.

CPython runs signal handlers at the beginning of a Python function, at a backward jump, and after a call of a
function written in C. A step is a sequence of statements with none of these between its first change and its
last. It may contain assignments, `+=` on an attribute, `list[slice] = ...`, `del dict[key]`, `is`, and at
most one call of `list.append`, at its end. The values that a step needs are computed before it, and compared
again if a handler might have changed them. So a handler always finds a consistent ledger, and an exception
that it raises leaves the ledger consistent. The comment `# step` marks where a step begins.
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
"""Seconds after a failed resend of an interrupted send's events before the next resend."""

_FRONT = slice(0, 0)
_END = slice(sys.maxsize, None)


class Flight:
    """One send of one thread, and its events.

    It is launched when it gets its events, and lands when the ledger gets their outcomes.

    Args:
        scope: The delivery scope that the send is for, if any.

    Attributes:
        events: The events whose outcomes this send must report, in order.
        sent: The events that are sent. They differ from `events` only after a signal handler has resent them:
            `events` then holds the events that the resend could not deliver.
        has_backlog: Whether some events come from an earlier send, retained or taken over.
        interrupted: The send of the same thread that a signal handler interrupted to resend its events here.
        tried: When a signal handler last resent its events without delivering all.
        receipt: The outcomes of its events, once it has landed.
        failed: Whether the transport retained some events.
        is_recorded: Whether the delivery scopes have recorded the outcomes.
        has_followers: Whether a signal handler captured events during the send, to be sent after it.
        admitted: Whether the ledger has admitted the event that the send was created for.
    """

    __slots__ = (
        "_measured",
        "admitted",
        "events",
        "failed",
        "has_backlog",
        "has_followers",
        "interrupted",
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
        self._measured = (0, 0, 0)
        self.thread = threading.get_ident()
        self.interrupted: Flight | None = None
        self.tried: Stopwatch | None = None
        self.has_backlog = False
        self.receipt: Receipt | None = None
        self.failed = False
        self.has_followers = False
        self.is_recorded = False
        self.admitted = False

    @property
    def bytes(self) -> int:
        """The size of its events, in bytes. Measured again when the events have changed."""
        key = id(self.events), len(self.events)
        if self._measured[:2] != key:
            self._measured = (*key, _bytes(self.events))
        return self._measured[2]

    def may_be_replaced(self) -> bool:
        """Return True if a flush in a signal handler may take over its events and resend them.

        It may not twice in a row, because the original send may still succeed.
        """
        if self.tried is not None:
            return self.tried.seconds() >= TRY_AGAIN_SECONDS
        return self.interrupted is None


class Collected:
    """The events of one client that one delivery scope has collected.

    Attributes:
        since: When the first event was collected, in seconds on the monotonic clock.
        is_taken: Whether the events have moved into a send or to the retained events.
    """

    __slots__ = ("bytes", "events", "is_taken", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.events: list[EncodedEvent] = []
        self.bytes = 0
        self.is_taken = False


class Ledger:
    """Records where each event of one client is in this process, and counts the outcomes.

    Args:
        limit: The maximum number of events retained for the next send. Above it, the oldest are dropped.
        limit_bytes: The maximum size of these events, in bytes.
        drops_oldest: `False` refuses new events instead of dropping admitted ones. The limits then count
            collected and in-flight events as well.

    Attributes:
        lock: Held for single steps, never during a send, a log call or a callback.
        reports_dropped: Whether the client reports dropped events to `on_error`.
        sealed: Whether no more events are admitted.
        closed: Whether events that a send retains are dropped.
    """

    def __init__(self, limit: int, limit_bytes: int, *, drops_oldest: bool = True) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.drops_oldest = drops_oldest
        self.reports_dropped = False
        self.sealed = False
        self.closed = False
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Empty the ledger: the parent process delivers its own events."""
        self.lock = threading.RLock()
        self._landed = threading.Condition(self.lock)
        self._kept: list[EncodedEvent] = []
        self._kept_bytes = 0
        self._collected: dict[Hashable, Collected] = {}
        self._flights: dict[Flight, None] = {}
        self._unreported: list[OutcomeGroup] = []
        self._captured = 0
        self._delivered = 0
        self._handed_off = 0
        self._spooled = 0
        self._dropped: dict[str, int] = {}

    # --- new events ----------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """Count an event that was captured but not admitted."""
        with self.lock:
            while True:
                before = self._dropped
                after = {**before, reason: before.get(reason, 0) + 1}
                if self._dropped is before:  # step
                    self._captured += 1
                    self._dropped = after
                    return

    def keep(self, event: EncodedEvent) -> bool:
        """Admit and retain an event, after the others. If there is no room, drop it and return False.

        Raises:
            ClosedError: The ledger is sealed.
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
        """Admit an event into a delivery scope.

        Returns:
            All events that the scope has collected for this client, or `None` if the scope is closed.

        Raises:
            ClosedError: The ledger is sealed.
        """
        size = len(event.body)
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
        taking_over: Iterable[Flight] = (),
    ) -> None:
        """Begin a send: move events into it.

        Args:
            flight: The new send.
            event: Admit this event and send it last.
            scope: Send the collected events of this delivery scope, after the retained events.
            first: Send only this many of the retained events, and nothing else.
            taking_over: In-flight sends whose events this send takes over, because they may never continue.

        Raises:
            ClosedError: There is an event to admit, and the ledger is sealed.
        """
        with self.lock:
            if event is not None and self.sealed:
                raise ClosedError(event)
            self._flights[flight] = None
            for other in taking_over:
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
        """Start again without events: a signal handler took them over in the middle of the launch."""
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
        """End a send: count the outcomes, and put retained events in front of the others.

        A closed ledger drops retained events. If there is no room, it drops the oldest. Events that were
        taken over from an interrupted send go back to it, because it may still succeed.

        Args:
            flight: The launched send. If it has landed before, nothing happens. If another send has taken
                over its events, only the events that the other send retained are counted.
            receipt: The outcomes of its events.

        Returns:
            The counted events, and the receipt for them.
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
            if receipt.groups and self.reports_dropped:
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
                    self._unreported[_END] = dropped
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
        """Return the receipt with excess events dropped, the events to retain, and events to give back."""
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
        """Return how many of these events, the oldest first, must be dropped so that the rest fits."""
        if not self.drops_oldest:
            return 0
        count = min(len(events), max(0, len(events) + others - self.limit))
        size = bytes_of_others + _bytes(events[count:])
        while size > self.limit_bytes and count < len(events):
            size -= len(events[count])
            count += 1
        return count

    def _recall(self, flight: Flight, receipt: Receipt) -> Flight:
        """Return a new send with the retained events for which the receipt has a final outcome.

        Another send took over and retained these events, but `flight` has delivered or dropped them.
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
        """Move the collected events of a delivery scope behind the retained events, and return them."""
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
        return f"max_queue_size is {self.limit}, max_queue_bytes {self.limit_bytes}"

    # --- reports of dropped events -----------------------------------------------------------------------

    def has_unreported(self) -> bool:
        """Return True if sends have dropped events that are not reported to `on_error` yet."""
        return bool(self._unreported)

    def report_dropped(self, call: Callable[[OutcomeGroup], object]) -> None:
        """Call `call` with each group of events that sends have dropped. Repeat a call that raised."""
        while self._unreported:
            groups: list[OutcomeGroup] = []
            fresh: list[OutcomeGroup] = []
            try:
                with self.lock:
                    groups[_END] = self._unreported  # step
                    self._unreported = fresh
                while groups:
                    call(groups[0])
                    del groups[0]
            finally:
                if groups:
                    with self.lock:
                        self._unreported[_FRONT] = groups

    # --- counts and pending events ---------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """The number of events retained for the next send."""
        return len(self._kept)

    @property
    def settled(self) -> int:
        """The number of events that have a final outcome."""
        return self._delivered + self._handed_off + self._spooled + sum(list(self._dropped.values()))

    def collecting(self) -> list[Any]:
        """Return the delivery scopes that have collected events."""
        with self.lock:
            return list(self._collected)

    def has_room(self, size: int) -> bool:
        """Return True if there is room for one more event of this size, in bytes."""
        with self.lock:
            count, kept = len(self._kept), self._kept_bytes
            if not self.drops_oldest:
                others: list[Flight | Collected] = [*self._flights, *self._collected.values()]
                count += sum([len(each.events) for each in others])
                kept += sum([each.bytes for each in others])
            return not count or (count < self.limit and kept + size <= self.limit_bytes)

    def excess(self) -> int:
        """Return how many retained events, the oldest first, are above the limits."""
        with self.lock:
            return self._excess(self._kept)

    def has_flights(self) -> bool:
        return bool(self._flights)

    def flights(self, wanted: Callable[[Flight], bool]) -> list[Flight]:
        """Return the in-flight sends for which `wanted` is true, the oldest first."""
        with self.lock:
            return [flight for flight in list(self._flights) if wanted(flight)]

    def wait_for(self, flights: Iterable[Flight], seconds: float | None) -> None:
        """Wait until these sends have landed, at most `seconds`; `None` waits without a limit."""
        awaited = set(flights)
        self.wait_until(lambda: awaited.isdisjoint(self._flights), seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float | None) -> None:
        """Wait until `condition`, which is checked whenever a send lands, is true, at most `seconds`."""
        with self.lock:
            self._landed.wait_for(condition, seconds)

    def seal(self) -> None:
        """Admit no more events. An event that another thread admits meanwhile is in the ledger afterwards."""
        with self.lock:
            self.sealed = True

    def pending(self, flights: Iterable[Flight]) -> list[EncodedEvent]:
        """Return the retained events and the events that these in-flight sends still have."""
        wanted = set(flights)
        with self.lock:
            flights = [each for each in list(self._flights) if each in wanted]
            flying = [event for each in flights for event in each.events]
            return [*self._kept, *flying]

    def stats(self) -> Stats:
        """Return the current counts. Pending events are counted where they are, to check the sum."""
        for _ in range(3):  # a signal handler may capture an event in between
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
