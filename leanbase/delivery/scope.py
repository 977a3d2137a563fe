"""Delivery scopes: they collect what is captured inside them and send it when they close."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from .. import forking
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Protocol

    from ..events.encoding import EncodedEvent

    FlushPolicy = Literal["end", "each"]

    class Sender(Protocol):
        """What a scope hands collected events to: the outbox of the client that captured them."""

        def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline | None) -> Receipt: ...

        def resend(self, events: Sequence[EncodedEvent]) -> Receipt: ...

        def flush(self) -> Receipt: ...

        def join(self) -> None: ...

        def keep(self, events: Sequence[EncodedEvent]) -> Receipt: ...


SCOPE_EVENTS = 100
SCOPE_BYTES = 1024 * 1024


class DeliveryScope:
    """Collects the events captured inside it; `close` sends them, one batch for each client.

    Threads and tasks that carry the context collect into the same scope. When 100 events or 1 MiB
    have gathered they leave at once, in the capture that made it so.

    Args:
        flush: `"end"` collects; `"each"` lets every capture send for itself, also inside an outer
            scope that collects.
        deadline: No send inside may outlast it; `None` leaves each to its client's limit.

    Attributes:
        receipt: What became of the events, complete when the scope is closed.
        finished: Whether it is closed, and everything in it has an outcome.
        deferred: Whether it is closed later than it is left, by somebody else.

    Raises:
        ValueError: `flush` is neither.
    """

    def __init__(self, flush: FlushPolicy = "end", deadline: Deadline | None = None) -> None:
        if flush not in ("end", "each"):
            raise ValueError(f"flush must be 'end' or 'each', not {flush!r}")
        self.deadline = deadline
        self.receipt = Receipt()
        self.finished = False
        self.deferred = False
        self._collects = flush == "end"
        self._generation = forking.watch()
        # Reentrant: a signal handler may flush while this very thread holds it.
        self._lock = threading.RLock()
        self._one_ended = threading.Condition(self._lock)
        self._closed = False
        self._collected: dict[Sender, list[EncodedEvent]] = {}
        self._sending: dict[Sender, list[EncodedEvent]] = {}
        self._events = 0
        self._bytes = 0

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made here, and not in the process that this one was forked from."""
        return self._generation == forking.generation

    def collect(self, sender: Sender, event: EncodedEvent) -> bool:
        """Take the event over, unless the scope is closed, does not collect, or is a parent process's."""
        if not self._collects or not self.is_of_this_process:
            return False
        with self._lock:
            if self._closed:
                return False
            self._collected.setdefault(sender, []).append(event)
            self._events += 1
            self._bytes += len(event)
            full = self._events >= SCOPE_EVENTS or self._bytes >= SCOPE_BYTES
        if full:
            self.send_collected()
        return True

    def send_collected(self, only: Sender | None = None, deadline: Deadline | None = None) -> Receipt:
        """Send what has gathered, in capture order for each client. Blocks up to the deadline.

        Args:
            only: The one client whose events to send; all by default.
            deadline: By when; by default each client's own limit.
        """
        receipt = Receipt()
        if not self.is_of_this_process:
            return receipt
        with self._lock:
            senders = list(self._collected) if only is None else [only]
        for sender in senders:
            receipt += self._send_for(sender, deadline)
        return receipt

    def _send_for(self, sender: Sender, deadline: Deadline | None) -> Receipt:
        with self._lock:
            events = self._collected.pop(sender, [])
            self._events -= len(events)
            self._bytes -= sum(map(len, events))
            self._sending.setdefault(sender, []).extend(events)
        try:
            receipt = sender.send(events, deadline=deadline) if events else Receipt()
            with self._lock:
                self.receipt += receipt
            return receipt
        finally:
            with self._lock:
                sent = set(map(id, events))
                left = self._sending.get(sender, [])
                self._sending[sender] = [event for event in left if id(event) not in sent]
                self._one_ended.notify_all()

    def close(self, *others: Sender) -> Receipt:
        """Send everything; `others`, of which nothing was collected, send what they have retained.

        (Who sends collected events sends retained ones first, so nobody is asked twice.) Later captures
        that still carry this scope go out at once. A fork's child sends nothing: the events are its
        parent's.
        """
        if not self.is_of_this_process:
            return Receipt()
        with self._lock:
            self._closed = True
            idle = [sender for sender in others if sender not in self._collected]
        try:
            try:
                receipt = self.send_collected()
            except BaseException:
                self._give_back()  # an exit or an interrupt: nobody comes to this scope again
                raise
            for sender in others:
                # Also what other threads of a client are sending is to arrive before the process may freeze.
                if sender in idle:
                    receipt += sender.flush()
                else:
                    sender.join()
            with self._lock:
                # What another thread made leave early is to arrive before its invocation ends, too.
                limit = None if self.deadline is None else self.deadline.remaining()
                self._one_ended.wait_for(lambda: not any(self._sending.values()), limit)
        finally:
            self.finished = True
            _unfinished.discard(self)
        return receipt

    def _give_back(self) -> None:
        """Leave what was not tried yet to the next send of each client."""
        with self._lock:
            collected, self._collected = self._collected, {}
        for sender, events in collected.items():
            sender.keep(events)

    def resend_all(self, *others: Sender) -> Receipt:
        """Send all there is, also what is on its way, because this process is about to be killed.

        An event that was on its way may arrive twice, with the same uuid.
        """
        with self._lock:
            self._closed = True
            on_their_way, self._sending = self._sending, {}
            collected = list(self._collected)
        # A later receipt of the same sender speaks also of what an earlier send could not deliver.
        receipts = {sender: sender.resend(events) for sender, events in on_their_way.items() if events}
        receipts |= {sender: self._send_for(sender, None) for sender in collected}
        receipts |= {sender: sender.flush() for sender in others if sender not in collected}
        return sum(receipts.values(), Receipt())


_open_scope: ContextVar[DeliveryScope | None] = ContextVar("leanbase_delivery", default=None)
_unfinished: set[DeliveryScope] = set()


def unfinished_scopes() -> list[DeliveryScope]:
    """All scopes of this process that were entered, in any thread or task, and are not closed yet."""
    return [scope for scope in tuple(_unfinished) if scope.is_of_this_process]


def open_scope() -> DeliveryScope | None:
    """The delivery scope that this thread or task carries, closed or not, or `None`."""
    return _open_scope.get()


class activate:  # noqa: N801 - used like a function
    """Make `scope` the open one inside the `with`; closing it stays with the caller."""

    __slots__ = ("_is_first", "_scope", "_token")

    def __init__(self, scope: DeliveryScope) -> None:
        self._scope = scope

    def __enter__(self) -> DeliveryScope:
        self._token = _open_scope.set(self._scope)
        self._is_first = not self._scope.finished and self._scope not in _unfinished
        if self._is_first:
            _unfinished.add(self._scope)
        return self._scope

    def __exit__(self, *exc_info: Any) -> None:
        if self._is_first and not self._scope.deferred:
            _unfinished.discard(self._scope)
        try:
            _open_scope.reset(self._token)
        except ValueError:
            pass  # left in another context, as the clean-up of some frameworks is; this one never had it


class _Initialisation:
    """A time limit for all sends of a process that is only just starting, from the first of them on."""

    def __init__(self, seconds: float, is_on: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._is_on = is_on
        self._deadline: Deadline | None = None

    def deadline(self) -> Deadline | None:
        global _initialisation
        if not self._is_on():
            _initialisation = None
            return None
        if self._deadline is None:
            self._deadline = Deadline.after(self._seconds)
        return self._deadline


_initialisation: _Initialisation | None = None


def limit_initialisation(seconds: float, is_on: Callable[[], bool]) -> None:
    """Let all sends together take no more than this while the process initialises.

    For platforms that give a process only so long until its first request.

    Args:
        seconds: From the first send on.
        is_on: Whether it still initialises. When it does not, there is no limit any more.
    """
    global _initialisation
    _initialisation = _Initialisation(seconds, is_on)


def send_deadline(limit: float) -> Deadline:
    """The deadline of a send that starts now: `limit` seconds, or the open scope's when earlier.

    In a thread that carries no scope it is the earliest of all open scopes: an invocation that waits
    for the thread must not be made to time out by it. A scope that is finished limits nothing any more.
    """
    deadline = Deadline.after(limit)
    scope = open_scope()
    if scope is not None and not scope.finished and scope.is_of_this_process:
        deadline = deadline.earlier(scope.deadline)
    else:
        for other in unfinished_scopes():
            deadline = deadline.earlier(other.deadline)
    initialisation = _initialisation  # which another thread may find to be over just now
    return deadline if initialisation is None else deadline.earlier(initialisation.deadline())
