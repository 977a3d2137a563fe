"""Between a client and its transport: decides when an event leaves, and keeps the books.

Every event that a client admits passes `Outbox.put`; every outcome passes `_settle`. So the sum holds
at any moment: captured = delivered + handed off + spooled + retained + dropped.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TypedDict

from ..events.encoding import EncodedEvent
from ..forking import reset_in_child
from ..settings import OnError
from ..transports._http.sender import PAUSED
from ..transports._retaining import WAITING, RetainingTransport
from ..transports.base import BaseTransport
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt
from .scope import open_scope, send_deadline

logger = logging.getLogger("leanbase")

# Nothing was tried for these, so there is nothing to tell `on_error` that it has not heard.
_UNTRIED = frozenset({PAUSED, WAITING})

_in_on_error: ContextVar[bool] = ContextVar("leanbase_in_on_error", default=False)


class Stats(TypedDict):
    """What became of the events of one client in this process, in numbers of events.

    `captured` is the sum of the others: `retained` ones wait in an open delivery scope or in memory,
    `dropped` ones are gone, counted by reason.
    """

    captured: int
    delivered: int
    handed_off: int
    spooled: int
    retained: int
    dropped: dict[str, int]


class Outbox:
    """Takes admitted events and sees them through to an outcome.

    Args:
        transport: Where events go.
        send_seconds: The longest one send may take.
        limit: Most undelivered events kept in memory.
        transmits: `False` admits events and lets them end here.
        on_error: The user's callback for what was not delivered.
    """

    def __init__(
        self,
        transport: BaseTransport,
        *,
        send_seconds: float,
        limit: int,
        transmits: bool = True,
        on_error: OnError | None = None,
    ) -> None:
        self.disabled = False
        self.closed = False
        if not isinstance(transport, RetainingTransport):
            transport = RetainingTransport(transport, limit=limit)
        self._transport = transport
        self._transport.attach(self._settle, lambda: self.disabled)
        self._send_seconds = send_seconds
        self._transmits = transmits
        self._on_error = on_error
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        """Start the books of this process: what the parent captured is the parent's to account for."""
        self._lock = threading.RLock()
        self._captured = 0
        self._delivered = 0
        self._handed_off = 0
        self._spooled = 0
        self._dropped: Counter[str] = Counter()

    def put(self, event: EncodedEvent) -> bool | None:
        """Take an event: into the open delivery scope, else to the transport.

        Blocks for the time of a send, at most the deadline; not at all when a scope collects.

        Returns:
            Whether it was admitted; a full buffer does not. `None` when the outbox is closed.
        """
        if self.closed:
            return None
        self._count(captured=1)
        if not self._transmits:
            self._count(dropped="send_off")
            return True
        scope = open_scope()
        try:
            if scope is None or not scope.collect(self, event):
                return not self._hand_over(event).drops(event, "overflow")
        except Exception as error:
            logger.error("internal error %s; please report it", type(error).__name__)
            logger.debug("it happened here:", exc_info=error)
        return True

    def _hand_over(self, event: EncodedEvent) -> Receipt:
        if self.disabled:
            return self.keep((event,))
        deadline = send_deadline(self._send_seconds)
        return self._settle(self._transport.send((event,), deadline=deadline))

    def drop(self, reason: str) -> None:
        """Account for an event that was captured but not admitted."""
        self._count(captured=1, dropped=reason)

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline | None = None) -> Receipt:
        """Send events, past a buffer, and account for the outcome. Blocks up to the deadline."""
        if self.disabled:
            return self.keep(events)
        if deadline is None:
            deadline = send_deadline(self._send_seconds)
        return self._settle(self._transport.send_now(events, deadline=deadline))

    def resend(self, events: Sequence[EncodedEvent]) -> Receipt:
        """Send events once more whose send is under way and accounts for them itself."""
        if self.disabled:
            return self.waiting()
        return self._transport.resend(events, deadline=send_deadline(self._send_seconds))

    def keep(self, events: Sequence[EncodedEvent]) -> Receipt:
        """Leave events to the next send."""
        return self._settle(self._transport.keep(events))

    def waiting(self) -> Receipt:
        """A receipt of all that waits, without an attempt to send it."""
        return self._transport.waiting()

    def join(self) -> None:
        """Wait for what other threads are sending outside of scopes, without an attempt of our own."""
        if not _in_on_error.get():
            self._transport.join(send_deadline(self._send_seconds), of_scopes=False)

    def flush(self, *, within: float | None = None) -> Receipt:
        """Send what the open scope collected for this client, then all that waits in the transport."""
        if self.disabled or _in_on_error.get():
            return self.waiting()
        deadline = send_deadline(self._send_seconds if within is None else within)
        receipt = self._send_collected(deadline)
        if not receipt:
            return receipt  # it has just been tried; trying again at once would only take time
        return receipt + self._settle(self._transport.flush(deadline=deadline))

    def close(self, *, within: float | None = None) -> Receipt:
        """Refuse new events, send what waits, and release what the transport holds."""
        self.closed = True
        deadline = send_deadline(self._send_seconds if within is None else within)
        if self.disabled or _in_on_error.get():
            return self._settle(self._transport.abandon(deadline=deadline))
        receipt = self._send_collected(deadline)
        # What has just failed is not tried again at once.
        ended = self._transport.close if receipt else self._transport.abandon
        last = self._settle(ended(deadline=deadline))
        return receipt.without(each.event for each in last.undelivered) + last

    def release(self, *, within: float) -> Receipt:
        """Send all that waits and let go of connections."""
        receipt = self.flush(within=within)
        self._transport.release(deadline=Deadline.after(within))
        return receipt

    def _send_collected(self, deadline: Deadline) -> Receipt:
        scope = open_scope()
        return Receipt() if scope is None else scope.send_collected(only=self, deadline=deadline)

    def warm_up(self, *, within: float) -> None:
        """Let the transport prepare its first send."""
        if not self.disabled and self._transmits:
            self._transport.warm_up(deadline=Deadline.after(within))

    def stats(self) -> Stats:
        """The books of this process."""
        with self._lock:
            settled = self._delivered + self._handed_off + self._spooled
            return {
                "captured": self._captured,
                "delivered": self._delivered,
                "handed_off": self._handed_off,
                "spooled": self._spooled,
                "retained": self._captured - settled - self._dropped.total(),
                "dropped": dict(self._dropped),
            }

    def _count(self, *, captured: int = 0, dropped: str | None = None) -> None:
        with self._lock:
            self._captured += captured
            if dropped is not None:
                self._dropped[dropped] += 1

    def _settle(self, receipt: Receipt) -> Receipt:
        with self._lock:
            self._delivered += receipt.delivered
            self._handed_off += receipt.handed_off
            self._spooled += receipt.spooled
            if receipt.groups:
                self._dropped.update(receipt.dropped)
        if receipt.groups and self._on_error is not None:
            self._report(receipt, self._on_error)
        return receipt

    def _report(self, receipt: Receipt, on_error: OnError) -> None:
        """Call the user's `on_error` once for each cause."""
        if _in_on_error.get():
            return  # it captured something that failed as well: told once is enough
        by_cause: dict[int, tuple[Exception, list[EncodedEvent]]] = {}
        for group in receipt.groups:
            if group.reason not in _UNTRIED:
                by_cause.setdefault(id(group.error), (group.error, []))[1].extend(group.events)
        token = _in_on_error.set(True)
        try:
            for cause, events in by_cause.values():
                try:
                    on_error(cause, [event.decode() for event in events])
                except Exception as error:
                    logger.error("on_error raised %s", type(error).__name__)
        finally:
            _in_on_error.reset(token)
