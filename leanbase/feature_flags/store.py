"""Holds the current definitions.

There is no background thread. A read checks the age of the definitions. If they are old, one caller loads
new ones, and the others use the old ones. All reads inside one delivery scope use the same definitions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from .. import forking
from ..delivery.scope import DeliveryScope, open_scope, send_deadline
from ..interrupts import raise_interrupt
from ..transports._repeated import RepeatedLog
from ..transports.deadline import Deadline, Stopwatch
from ..transports.receipt import Receipt
from .breaker import FAIR_SECONDS, PAUSE_SECONDS, SHORT_PAUSE_SECONDS, Breaker
from .definitions import Definitions
from .sources.base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ..transports.deadline import LastChance

logger = logging.getLogger("leanbase")

WAIT_SECONDS = 1.0
"""Maximum seconds that a caller waits for definitions, or a third of its scope's time if that is less."""

LONGEST_LOAD_SECONDS = 60.0
"""Maximum seconds of a load. If the lock is held for longer, an interrupt has ended its holder."""


class Pinned(NamedTuple):
    """The definitions and the time that one evaluation uses.

    Attributes:
        definitions: The definitions, or `None`.
        now: The time to which relative dates refer, in seconds since the epoch.
        is_stale: Whether the definitions are older than `flags_ttl`.
    """

    definitions: Definitions | None
    now: float
    is_stale: bool


class DefinitionsStore:
    """Holds the definitions of one client.

    Args:
        sources: The sources: the newest of the local ones, and the first of the others, are used.
        ttl: Seconds after which definitions are loaded again.
        max_age: Seconds after which a read first waits for a load.
    """

    def __init__(self, sources: Sequence[DefinitionsSource], *, ttl: float, max_age: float) -> None:
        self._local = [source for source in sources if source.is_local]
        self._remote = [source for source in sources if not source.is_local]
        self._ttl = ttl
        self._max_age = max(ttl, max_age)
        self._current: Definitions | None = None
        self._checked: Stopwatch | None = None
        self._age_at_check = 0.0
        self._breaker = Breaker()
        self._repeated = RepeatedLog()
        self.unknown: set[str] = set()
        self._reset_after_fork()
        forking.reset_in_child(self)

    def _reset_after_fork(self) -> None:
        self._loading = threading.Lock()
        self._asked: Stopwatch | None = None
        self._pins: WeakKeyDictionary[DeliveryScope, Pinned] = WeakKeyDictionary()
        self._at_close = _LoadAfterScope(self)

    # --- reading -----------------------------------------------------------------------------------------

    def pinned(self) -> Pinned:
        """Return the definitions for a local evaluation.

        Loads them if they are missing or older than `ttl`, which blocks at most `WAIT_SECONDS`. Never raises.
        """
        scope = _outermost_scope()
        found = None if scope is None else self._pins.get(scope)
        if found is None:
            age = self._checked_age(scope)
            found = Pinned(self._current, time.time(), age is not None and age >= self._ttl)
            if scope is not None and found.definitions is not None:
                found = self._pins.setdefault(scope, found)
        return found

    @property
    def current(self) -> Definitions | None:
        """The loaded definitions of any age, or `None`."""
        return self._current

    def age(self) -> float | None:
        """Return the seconds since the definitions were last confirmed; `None` if none are loaded."""
        checked = self._checked
        if checked is None or self._current is None:
            return None
        return self._age_at_check + checked.seconds()

    def is_fresh(self) -> bool:
        """Return True if a read does not need a load."""
        age = self.age()
        return age is not None and age < self._ttl

    def _checked_age(self, scope: DeliveryScope | None) -> float | None:
        """Load the definitions if necessary, and return their age in seconds."""
        age = self.age()
        if age is not None and age < self._ttl:
            return age
        if age is None:
            self._load_local()
            age = self.age()
        if age is None or age >= self._max_age:
            self._refresh(_short_deadline(), waits=True)
        elif age >= self._ttl:
            if scope is not None and scope.deadline is not None and not scope.is_request:
                scope.senders.setdefault(self._at_close, None)  # load after the invocation's events are sent
            else:
                self._refresh(_short_deadline(), waits=False)
        return self.age()

    # --- loading -----------------------------------------------------------------------------------------

    def warm_up(self, deadline: Deadline) -> None:
        """Load definitions before the first flag is read, within the deadline. Never raises."""
        if self._current is None:
            self._load_local()
        age = self.age()
        if (age is None or age >= self._max_age) and self._remote and not deadline.expired:
            self._refresh(deadline, waits=True)

    def disconnect(self) -> None:
        """Close the sources' idle connections."""
        for source in (*self._local, *self._remote):
            try:
                source.close()
            except Exception as error:
                raise_interrupt(error)
                logger.debug("a source of flag definitions could not be closed", exc_info=error)

    def load(self, deadline: Deadline) -> bool:
        """Load definitions now, even while requests are paused. Return whether any are loaded."""
        before = self._checked
        with _acquired(self._lock_of_loads(), deadline.remaining()) as is_acquired:
            if is_acquired and self._checked is before:  # else another load has ended meanwhile
                self._ask(deadline)
        return self._current is not None

    def revalidate(self, deadline: Deadline) -> None:
        """Load definitions if they are old, no other load is in flight, and requests are not paused."""
        age = self.age()
        if age is None or age >= self._ttl:
            self._refresh(deadline, waits=False)

    def _refresh(self, deadline: Deadline, *, waits: bool) -> None:
        if self._breaker.is_open or deadline.expired:
            return
        before = self._checked
        with _acquired(self._lock_of_loads(), deadline.remaining() if waits else 0.0) as is_acquired:
            if is_acquired and self._checked is before and not self._breaker.is_open:
                self._ask(deadline)

    def _lock_of_loads(self) -> threading.Lock:
        """Return the lock of the load. Replaces a lock that an interrupted load still holds."""
        asked = self._asked
        if asked is not None and self._loading.locked() and asked.seconds() > LONGEST_LOAD_SECONDS:
            self._loading, self._asked = threading.Lock(), None
        return self._loading

    def _ask(self, deadline: Deadline) -> None:
        """Load from the first source, and from the others only if nothing is loaded."""
        self._asked = Stopwatch()
        sources, has_time = self._remote or self._local, deadline.remaining() >= FAIR_SECONDS
        for source in sources:
            try:
                found = source.load(self._current, deadline=deadline)
                if found is None and self._current is None:
                    raise SourceError("the source returned no definitions")
            except Exception as error:
                raise_interrupt(error)
                self._failed(source, error, seconds=PAUSE_SECONDS if has_time else SHORT_PAUSE_SECONDS)
                if self._current is not None or getattr(error, "is_final", False):
                    return
            else:
                newest = found or self._current
                age = time.time() - newest.fetched_at if newest is not None and source.is_dated else 0.0
                self._take(found, max(0.0, age))
                self._breaker.succeeded()
                return

    def _load_local(self) -> None:
        """Load the newest of the files that were deployed with the program."""
        found: list[Definitions] = []
        for source in self._local:
            try:
                loaded = source.load(None, deadline=Deadline.after(WAIT_SECONDS))
                found += [] if loaded is None else [loaded]
            except Exception as error:
                raise_interrupt(error)
                self._failed(source, error, seconds=0.0 if self._remote else PAUSE_SECONDS)
        if found:
            newest = max(found, key=lambda each: each.fetched_at)
            age = max(0.0, time.time() - newest.fetched_at)
            self._take(newest, age if self._remote else 0.0)

    def _take(self, found: Definitions | None, age: float) -> None:
        if found is not None:
            self._current = found
        self.unknown.clear()
        self._age_at_check, self._checked = age, Stopwatch()

    def _failed(self, source: DefinitionsSource, error: Exception, *, seconds: float = PAUSE_SECONDS) -> None:
        is_final = isinstance(error, SourceError) and error.is_final
        if is_final:
            self._current = None
            self._checked = None
            self._pins = WeakKeyDictionary()
        if seconds:
            self._breaker.failed(at_once=True, seconds=self._max_age if is_final else seconds)
        what = str(error) if isinstance(error, SourceError) else type(error).__name__
        use = "the loaded definitions are used" if self._current is not None else "none are loaded"
        level = logging.ERROR if is_final else logging.WARNING
        text = f"for flag definitions to {source!r} failed: {what}; {use}"
        self._repeated.log(level, (repr(source), is_final), 1, text, "request(s)")
        logger.debug("loading flag definitions failed here:", exc_info=error)


class _LoadAfterScope:
    """Loads definitions after a delivery scope has sent its events.

    It has the methods of a client: the scope joins all clients after all of them have sent.
    """

    is_buffered = False
    send_seconds = WAIT_SECONDS

    def __init__(self, store: DefinitionsStore) -> None:
        self._store = store

    def send_collected(
        self, scope: DeliveryScope, deadline: Deadline | None, *, take_over: bool = False
    ) -> Receipt:
        return Receipt()

    def join(self, scope: DeliveryScope | None, deadline: Deadline | None = None) -> None:
        limit = Deadline.after(WAIT_SECONDS)
        self._store.revalidate(limit if deadline is None else limit.earlier(deadline))

    def keep_collected(self, scope: DeliveryScope) -> None: ...

    def send_later(self, scope: DeliveryScope, done: Callable[[], object] | None = None) -> None:
        if done is not None:
            done()

    def flush(self, *, deadline: Deadline | None, last_chance: LastChance | None) -> Receipt:
        return Receipt()

    def settle(self, deadline: Deadline) -> None: ...


def _outermost_scope() -> DeliveryScope | None:
    """Return the outermost open scope of this thread or task."""
    scope, found = open_scope(), None
    while scope is not None:
        if scope.is_open:
            found = scope
        scope = scope.outer
    return found


def _short_deadline() -> Deadline:
    """Return the deadline of a wait for definitions: at most a third of the scope's time."""
    left = send_deadline(3 * WAIT_SECONDS).remaining()
    return Deadline.after(left / 3)


class _acquired:  # noqa: N801 - used like a function
    """Acquire a lock for the block, if it is free in time. Yields whether it is held."""

    def __init__(self, lock: threading.Lock, seconds: float) -> None:
        self._lock = lock
        self._seconds = seconds
        self._is_held = False

    def __enter__(self) -> bool:
        self._is_held = (
            self._lock.acquire(timeout=self._seconds) if self._seconds else self._lock.acquire(False)
        )
        return self._is_held

    def __exit__(self, *exc_info: object) -> None:
        if self._is_held:
            self._lock.release()
