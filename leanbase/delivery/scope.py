"""Delivery scopes: they collect what is captured inside them and send it when they close."""

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
        """What collects for a scope and sends: the outbox of a client that captured inside it."""

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
"""So much of one client is sent before the scope closes."""


class DeliveryScope:
    """Collects the events captured inside it; `close` sends them, one batch for each client.

    Threads and tasks that carry the context collect into the same scope. When `flush_at` events or 1 MiB of
    one client have gathered they leave at once, in the capture that made it so. (They are pending in the
    ledgers of their clients; a scope knows only which clients these are.)

    Args:
        flush: `"end"` collects; `"each"` lets every capture send for itself, also inside an outer
            scope that collects.
        deadline: No send inside may outlast it; `None` leaves each to its client's limit. A scope without a
            deadline may be a long one: there events leave with the first capture after the oldest of them
            has waited `flush_interval`, too.
        last_chance: Whether its close is one, because the process may end after it; see `Deadline`.
        is_handlers: Whether it is that of a handler, job or task, whose context a request inside shares.

    Attributes:
        receipt: What became of the events captured inside, each once with its last outcome. Complete when
            the scope is closed; what becomes of retained events later is not in it.
        closed: Whether it collects no more.
        finished: Whether it is closed, and everything in it has an outcome.
        deferred: Whether it is closed later than it is left, by somebody else.
        senders: Whose events it has.
        is_async: Whether a thread sends what is captured in it on an event loop.

    Raises:
        ValueError: `flush` is neither.
    """

    is_request = False
    is_async = False
    past_buffers = True
    """Whether the events of clients with a buffer are collected as well."""

    def __init__(
        self,
        flush: FlushPolicy = "end",
        deadline: Deadline | None = None,
        last_chance: LastChance | None = None,
        *,
        is_handlers: bool = False,
    ) -> None:
        if flush not in ("end", "each"):
            raise ValueError(f"flush must be 'end' or 'each', not {flush!r}")
        self.deadline = deadline
        self.last_chance = last_chance
        self.receipt = Receipt()
        self.closed = False
        self.finished = False
        self.deferred = False
        self.is_handlers = is_handlers
        self.collects = flush == "end"
        self.senders: dict[Sender, None] = {}
        self._activated: ref[activate] | None = None
        self._outer: DeliveryScope | None = None
        self._generation = forking.watch()
        self._recording = threading.RLock()

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made here, and not in the process that this one was forked from."""
        return self._generation == forking.generation

    @property
    def is_open(self) -> bool:
        """Whether events are captured in it: it is not closed, nor a parent process's."""
        return not self.closed and self._generation == forking.generation

    def may_block(self) -> bool:
        """Whether a capture inside it may wait for a send here."""
        return not (self.is_async and event_loop.is_running())

    @property
    def sends_at_intervals(self) -> bool:
        """Whether it may be open for long, so that its events do not wait for its close."""
        return self.deadline is None

    def is_orphan(self) -> bool:
        """Whether the `with` block that was to close it is gone."""
        activated = self._activated
        return activated is not None and activated() is None and not (self.closed or self.deferred)

    def send(self, *others: Sender, deadline: Deadline | None = None, take_over: bool = False) -> Receipt:
        """Send everything: what was collected, and what `others` have retained. Blocks up to the deadline.

        Args:
            others: Clients that collected nothing in this scope; they flush. (A client that sends collected
                events sends its retained ones first.)
            deadline: When the caller must have its thread back. Default: each client's own limit.
            take_over: Also send again what other threads have in flight for the scope, and wait for what they
                have in flight outside of it.
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
        """Send everything, as `send`, and wait for what other threads send for this scope.

        Later captures that still carry this scope go out at once. A fork's child sends nothing: the events
        are its parent's.
        """
        if not self.is_of_this_process:
            return Receipt()
        self.closed = True
        try:
            receipt = self.send(*others)
            for sender in list(self.senders):
                # The sandbox may freeze as soon as the invocation ends.
                sender.join(self, self.deadline)
                if sender in others:
                    sender.join(None)
        finally:
            self._finish()
        return receipt

    def _of(self, others: Sequence[Sender]) -> Sequence[Sender]:
        """Those that do not have a buffer, which sends for itself."""
        return others if self.past_buffers else [sender for sender in others if not sender.is_buffered]

    def send_later(self, *others: Sender) -> None:
        """Let a thread send everything, soon. Does not block."""
        if self.is_of_this_process:
            for sender in {**self.senders, **dict.fromkeys(self._of(others))}:
                sender.send_later(self)

    def close_later(self, *others: Sender) -> None:
        """Close, and let a thread send everything, soon. Does not block."""
        if not self.finished and self.is_of_this_process:
            self.closed = True
            try:
                self.send_later(*others)
            finally:
                self._finish()

    async def send_in_thread(self, *others: Sender) -> None:
        """Send everything as `send` does, while the event loop goes on; where there is none, it blocks.

        If it takes longer than the deadline of a send, the rest is left to the thread.
        """
        if not event_loop.is_running():
            self.send(*others)
        elif self.is_of_this_process:
            senders = {**self.senders, **dict.fromkeys(self._of(others))}
            await event_loop.all_called(
                [partial(sender.send_later, self) for sender in senders],
                timeout=send_deadline(
                    max([sender.send_seconds for sender in senders], default=0)
                ).remaining(),
            )

    async def close_in_thread(self, *others: Sender) -> None:
        """Close as `close` does, while the event loop goes on."""
        if not event_loop.is_running():
            self.close(*others)
        elif not self.finished and self.is_of_this_process:
            self.closed = True
            try:
                await self.send_in_thread(*others)
            finally:
                self._finish()

    def abandon(self) -> None:
        """Leave what was collected to the next send of each client: an interrupt has ended the close."""
        self.closed = True
        for sender in list(self.senders):
            sender.keep_collected(self)
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        self.deferred = False
        self._outer = None  # or scopes opened in contexts of earlier ones would be an endless chain
        _unfinished.discard(self)

    def record(self, events: Sequence[EncodedEvent], receipt: Receipt) -> None:
        """Take down what became of events of this scope, in place of what became of them before."""
        with self._recording:
            while not self.finished:
                before = self.receipt
                after = (before.without(events) if before.groups else before) + receipt.lightened()
                if self.receipt is before:  # else a signal handler has sent something just now
                    self.receipt = after
                    return


class RequestScope(DeliveryScope):
    """The scope of a request of a web application.

    Args:
        flush: As for `DeliveryScope`.
        deadline: As for `DeliveryScope`.
        is_async: As for `DeliveryScope`.
        is_long: Whether its events do not wait for its close, as in a WebSocket's.
        past_buffers: Whether the events of clients with a buffer are collected as well. Elsewhere the buffer
            does the batching, and a request costs no send.
        leaves_sends: Whether a thread sends what is captured in it anywhere, as other requests wait.
    """

    is_request = True

    def __init__(
        self,
        flush: FlushPolicy,
        deadline: Deadline | None,
        *,
        is_async: bool,
        is_long: bool,
        past_buffers: bool,
        leaves_sends: bool,
    ) -> None:
        super().__init__(flush, deadline)
        self.is_async = is_async
        self.past_buffers = past_buffers
        self._is_long = is_long
        self._leaves_sends = leaves_sends

    def may_block(self) -> bool:
        """Whether a capture inside it may wait for a send here."""
        return not self._leaves_sends and super().may_block()

    @property
    def sends_at_intervals(self) -> bool:
        """Whether it may be open for long, so that its events do not wait for its close."""
        return self._is_long


_open_scope: ContextVar[DeliveryScope | None] = ContextVar("leanbase_delivery", default=None)
_unfinished: set[DeliveryScope] = set()


def unfinished_scopes() -> list[DeliveryScope]:
    """All scopes of this process that were entered, in any thread or task, and are not closed yet."""
    return [scope for scope in tuple(_unfinished) if scope.is_of_this_process]


def open_scope() -> DeliveryScope | None:
    """The delivery scope that this thread or task carries, closed or not, or `None`."""
    scope = _open_scope.get()
    while scope is not None and scope.is_orphan():
        # An interrupt at the first instruction of the `with` block's end: nobody will close it.
        outer = scope._outer
        scope.abandon()
        _open_scope.set(outer)
        scope = outer
    return scope


class activate:  # noqa: N801 - used like a function
    """Make `scope` the open one inside the `with`; closing it stays with the caller."""

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
        except BaseException:  # an interrupt: nobody will leave what was not entered
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
                pass  # left in another context, as the clean-up of some frameworks is; this one never had it


def warn_of_other_thread() -> None:
    """Say once that a thread captures outside of the handler or job that the main thread is inside of."""
    global _has_warned_of_thread
    if _has_warned_of_thread or threading.current_thread() is threading.main_thread():
        return
    if any(scope.is_handlers and scope.is_open for scope in unfinished_scopes()):
        _has_warned_of_thread = True
        logger.warning(
            "a thread captures without the context of the handler or job: its events lack the tags and the "
            "identity, and each is sent by itself; start threads with contextvars.copy_context().run"
        )


_has_warned_of_thread = False


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
        is_on: Whether it still initialises. Once it returns false, the limit is gone.
    """
    global _initialisation
    _initialisation = _Initialisation(seconds, is_on)


def send_deadline(limit: float, last_chance: LastChance | None = None) -> Deadline:
    """The deadline of a send that starts now: `limit` seconds, or the open scope's when earlier.

    In a thread that carries no scope it is the earliest of all open scopes: an invocation that waits
    for the thread must not be made to time out by it. A scope that is finished limits nothing any more.
    """
    deadline = Deadline.after(limit, last_chance)
    scope = open_scope()
    if scope is not None and not scope.finished and scope.is_of_this_process:
        deadline = deadline.earlier(scope.deadline)
    else:
        for other in unfinished_scopes():
            deadline = deadline.earlier(other.deadline)
    initialisation = _initialisation  # which another thread may find to be over just now
    return deadline if initialisation is None else deadline.earlier(initialisation.deadline())
