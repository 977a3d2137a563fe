"""Delivery scopes collect the events captured inside them, and send these events when they close."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from functools import partial
from weakref import ref

from .. import event_loop, forking
from ..transports.deadline import Deadline
from ..transports.receipt import Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Protocol

    from ..events.encoding import EncodedEvent
    from ..transports.deadline import LastChance

    FlushPolicy = Literal["end", "each"]

    class Sender(Protocol):
        """The outbox of a client that captured inside a scope."""

        @property
        def is_buffered(self) -> bool: ...

        @property
        def send_seconds(self) -> float: ...

        def send_collected(
            self, scope: DeliveryScope, deadline: Deadline | None, *, take_over: bool = False
        ) -> Receipt: ...

        def keep_collected(self, scope: DeliveryScope) -> None: ...

        def send_later(self, scope: DeliveryScope, done: Callable[[], object] | None = None) -> None: ...

        def flush(self, *, deadline: Deadline | None, last_chance: LastChance | None) -> Receipt: ...

        def join(self, scope: DeliveryScope | None, deadline: Deadline | None = None) -> None: ...

        def settle(self, deadline: Deadline) -> None: ...


logger = logging.getLogger("leanbase")

FULL_BYTES = 1024 * 1024
"""A scope that has collected this many bytes of one client sends them before it closes."""


class DeliveryScope:
    """Collects the events captured inside it; `close` sends them, one batch for each client.

    Threads and tasks that run in a copy of the `contextvars.Context` collect into the same scope. The capture
    that brings one client to `flush_at` events or 1 MiB sends the events of that client at once. The ledgers
    of the clients hold the events; a scope only knows the clients.

    Args:
        flush: `"end"` collects events. `"each"` sends each event in its own capture, even inside an outer
            scope that collects.
        deadline: The time by which every send inside must end. `None` leaves the limit to each client. The
            scope may then stay open for long, so the first capture after the oldest event has waited
            `flush_interval` seconds also sends.
        last_chance: How the close sends, if the process may end after it; see `Deadline`.
        belongs_to_handler: Whether the scope belongs to a handler, job or task. A request inside such a scope
            inherits its context.

    Attributes:
        receipt: The outcomes of the events captured inside; each event counts once, with its latest outcome.
            Complete once the scope is finished. A later send of retained events does not change it.
        closed: Whether the scope no longer collects events.
        finished: Whether the scope is closed and every event in it has an outcome.
        deferred: Whether other code closes the scope after its `with` block has ended.
        senders: The outboxes of the clients that captured inside.
        latest: The latest event of each outbox, or `None` if no caller needs it: it makes a reference cycle.
        is_async: Whether captures on an event loop leave their sends to a thread.

    Raises:
        ValueError: `flush` is neither `"end"` nor `"each"`.
    """

    is_request = False
    is_async = False
    bypasses_buffers = True
    """Whether the scope also collects the events of clients that have a buffer."""

    def __init__(
        self,
        flush: FlushPolicy = "end",
        deadline: Deadline | None = None,
        last_chance: LastChance | None = None,
        *,
        belongs_to_handler: bool = False,
    ) -> None:
        if flush not in ("end", "each"):
            raise ValueError(f"flush must be 'end' or 'each', not {flush!r}")
        self.deadline = deadline
        self.last_chance = last_chance
        self.receipt = Receipt()
        self.closed = False
        self.finished = False
        self.deferred = False
        self.belongs_to_handler = belongs_to_handler
        self.collects = flush == "end"
        self.senders: dict[Sender, None] = {}
        self.latest: dict[Sender, EncodedEvent] | None = None
        self._activated: ref[activate] | None = None
        self._outer: DeliveryScope | None = None
        self._generation = forking.watch()
        self._recording = threading.RLock()

    @property
    def is_of_this_process(self) -> bool:
        return self._generation == forking.generation

    @property
    def is_open(self) -> bool:
        """Return True if the scope is not closed and does not belong to a parent process."""
        return not self.closed and self._generation == forking.generation

    @property
    def outer(self) -> DeliveryScope | None:
        """The outer scope, if it was open when this scope was entered."""
        return self._outer

    def may_block(self) -> bool:
        """Return True if a capture inside the scope may block this thread for a send."""
        return not (self.is_async and event_loop.is_running())

    @property
    def sends_at_intervals(self) -> bool:
        """Return True if the scope may stay open for long, so that its events cannot wait for the close."""
        return self.deadline is None

    def is_orphan(self) -> bool:
        """Return True if the `with` block ended without closing the scope, and nothing else will close it."""
        activated = self._activated
        return activated is not None and activated() is None and not (self.closed or self.deferred)

    def send(self, *others: Sender, deadline: Deadline | None = None, take_over: bool = False) -> Receipt:
        """Send the collected events, and flush the clients in `others`. Blocks up to the deadline.

        Args:
            others: Clients whose retained events are sent too. A client that collected events in this scope
                is not flushed again: it sends its retained events before the collected events.
            deadline: When this call must have returned. Default: each client's own limit.
            take_over: Also resend events that other threads have in flight for the scope, and wait for all
                other sends in other threads.
        """
        receipt = Receipt()
        if not self.is_of_this_process:
            return receipt
        senders = list(self.senders)
        for sender in senders:
            receipt += sender.send_collected(self, deadline, take_over=take_over)
        for sender in self._of(others):
            if sender not in senders:
                receipt += sender.flush(deadline=deadline, last_chance=self.last_chance)
        if take_over and deadline is not None:
            for sender in {*senders, *others}:
                sender.settle(deadline)
        return receipt

    def close(self, *others: Sender) -> Receipt:
        """Send everything, as `send` does, and wait for the sends of other threads for this scope.

        Blocks up to the deadline of the scope, or of each client if the scope has no deadline. A later
        capture that still carries this scope sends its event at once. A forked child sends nothing, because
        the events belong to its parent.
        """
        if not self.is_of_this_process:
            return Receipt()
        self.closed = True
        try:
            receipt = self.send(*others)
            for sender in list(self.senders):
                # Wait for other threads too: the sandbox may freeze as soon as the invocation ends.
                sender.join(self, self.deadline)
                if sender in others:
                    sender.join(None)
        finally:
            self._finish()
        return receipt

    def _of(self, others: Sequence[Sender]) -> Sequence[Sender]:
        """Return the clients that this scope flushes: those with a buffer only with `bypasses_buffers`."""
        return others if self.bypasses_buffers else [sender for sender in others if not sender.is_buffered]

    def send_later(self, *others: Sender) -> None:
        """Let a background thread send everything soon. Does not block."""
        if self.is_of_this_process:
            for sender in dict.fromkeys((*self.senders, *self._of(others))):
                sender.send_later(self)

    def close_later(self, *others: Sender) -> None:
        """Close the scope, and let a background thread send everything soon. Does not block."""
        if not self.finished and self.is_of_this_process:
            self.closed = True
            try:
                self.send_later(*others)
            finally:
                self._finish()

    async def send_in_thread(self, *others: Sender) -> None:
        """Send everything in a background thread while the event loop continues.

        Without an event loop, send in this thread, which blocks. The wait ends at the deadline of a send,
        but the background thread continues.
        """
        if not event_loop.is_running():
            self.send(*others)
        elif self.is_of_this_process:
            senders = dict.fromkeys((*self.senders, *self._of(others)))
            await event_loop.all_called(
                [partial(sender.send_later, self) for sender in senders],
                timeout=send_deadline(
                    max([sender.send_seconds for sender in senders], default=0)
                ).remaining(),
            )

    async def close_in_thread(self, *others: Sender) -> None:
        """Close the scope; a background thread sends while the event loop continues. See `send_in_thread`."""
        if not event_loop.is_running():
            self.close(*others)
        elif not self.finished and self.is_of_this_process:
            self.closed = True
            try:
                await self.send_in_thread(*others)
            finally:
                self._finish()

    def abandon(self) -> None:
        """Close without sending, after an interrupt. The next send of each client sends the events."""
        self.closed = True
        for sender in list(self.senders):
            sender.keep_collected(self)
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        self.deferred = False
        self._outer = None  # otherwise nested scopes would form an endless chain
        _unfinished.discard(self)

    def record(self, events: Sequence[EncodedEvent], receipt: Receipt) -> None:
        """Record the outcomes of events of this scope. They replace earlier outcomes of the same events."""
        with self._recording:
            while not self.finished:
                before = self.receipt
                after = (before.without(events) if before.groups else before) + receipt.lightened()
                if self.receipt is before:  # else a signal handler has just recorded a send: try again
                    self.receipt = after
                    return


class RequestScope(DeliveryScope):
    """The scope of a request of a web application.

    Args:
        flush: As for `DeliveryScope`.
        deadline: As for `DeliveryScope`.
        is_async: As for `DeliveryScope`.
        is_long: Whether events are also sent before the close, because the request may last, as a WebSocket.
        bypasses_buffers: Whether the scope also collects the events of clients that have a buffer. Otherwise
            the buffer batches these events, and a request needs no send.
        sends_in_thread: Whether a thread sends for every capture inside, so that other requests do not wait.
    """

    is_request = True

    def __init__(
        self,
        flush: FlushPolicy,
        deadline: Deadline | None,
        *,
        is_async: bool,
        is_long: bool,
        bypasses_buffers: bool,
        sends_in_thread: bool,
    ) -> None:
        super().__init__(flush, deadline)
        self.is_async = is_async
        self.bypasses_buffers = bypasses_buffers
        self._is_long = is_long
        self._sends_in_thread = sends_in_thread

    def may_block(self) -> bool:
        return not self._sends_in_thread and super().may_block()

    @property
    def sends_at_intervals(self) -> bool:
        return self._is_long


_open_scope: ContextVar[DeliveryScope | None] = ContextVar("leanbase_delivery", default=None)
_unfinished: set[DeliveryScope] = set()


def unfinished_scopes() -> list[DeliveryScope]:
    """Return the scopes of this process that were entered, in any thread or task, and are not finished."""
    return [scope for scope in tuple(_unfinished) if scope.is_of_this_process]


def open_scope() -> DeliveryScope | None:
    """Return the delivery scope that this thread or task carries, open or closed, or `None`."""
    scope = _open_scope.get()
    while scope is not None and scope.is_orphan():
        # An interrupt came at the first instruction of the end of the `with` block, so `close` never runs.
        outer = scope._outer
        scope.abandon()
        _open_scope.set(outer)
        scope = outer
    return scope


class activate:  # noqa: N801 - used like a function
    """Make `scope` the open scope inside the `with` block. The caller closes the scope."""

    __slots__ = ("__weakref__", "_is_first", "_scope", "_token")

    def __init__(self, scope: DeliveryScope) -> None:
        self._scope = scope
        self._is_first = False
        self._token: Token[DeliveryScope | None] | None = None

    def __enter__(self) -> DeliveryScope:
        outer = _open_scope.get()
        try:
            self._token = _open_scope.set(self._scope)
            self._is_first = not self._scope.finished and self._scope not in _unfinished
            if self._is_first:
                if outer is not None and not outer.closed:
                    self._scope._outer = outer
                self._scope._activated = ref(self)
                _unfinished.add(self._scope)
            return self._scope
        except BaseException:  # an interrupt: `__exit__` will not be called
            _open_scope.set(outer)
            _unfinished.discard(self._scope)
            raise

    def __exit__(self, *exc_info: Any) -> None:
        if self._is_first and not self._scope.deferred:
            _unfinished.discard(self._scope)
        if self._token is not None:
            try:
                _open_scope.reset(self._token)
            except ValueError:
                pass  # some frameworks clean up in another `contextvars.Context`, which never had the scope


def warn_of_other_thread() -> None:
    """Warn once if this is not the main thread, and captures outside the handler or job that is open."""
    global _has_warned_of_thread
    if _has_warned_of_thread or threading.current_thread() is threading.main_thread():
        return
    if any(scope.belongs_to_handler and scope.is_open for scope in unfinished_scopes()):
        _has_warned_of_thread = True
        logger.warning(
            "a thread captured an event outside the context of the handler or job: it has no tags and no "
            "identity, and is sent by itself; start threads with contextvars.copy_context().run"
        )


_has_warned_of_thread = False


class _Initialisation:
    """One time limit for all sends of an initialising process, counted from the first send."""

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
    """Limit the total time of all sends while the process initialises, counted from the first send.

    For platforms that limit the time until the first request. The first False of `is_on` removes the limit.
    """
    global _initialisation
    _initialisation = _Initialisation(seconds, is_on)


def send_deadline(limit: float, last_chance: LastChance | None = None) -> Deadline:
    """Return the deadline of a send that starts now: the earlier of `limit` seconds and the open scope's.

    In a thread that carries no scope, the earliest deadline of all open scopes applies, because an invocation
    may wait for the thread. A finished scope has no effect.
    """
    deadline = Deadline.after(limit, last_chance)
    scope = open_scope()
    if scope is not None and not scope.finished and scope.is_of_this_process:
        deadline = deadline.earlier(scope.deadline)
    else:
        for other in unfinished_scopes():
            deadline = deadline.earlier(other.deadline)
    initialisation = _initialisation  # read once: another thread may reset it at any time
    return deadline if initialisation is None else deadline.earlier(initialisation.deadline())
