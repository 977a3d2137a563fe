"""The default client, whose methods are the functions of the module `leanbase`."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from contextvars import Context, copy_context
from functools import cache, partial

from .client import Leanbase, define_options
from .errors import ConfigError
from .events.event import pinned
from .forking import reset_in_child
from .guard import event_call
from .interrupts import acquired
from .transports._repeated import RepeatedLog
from .transports.receipt import Receipt, no_stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .delivery.outbox import Outbox
    from .events.event import Draft
    from .pipeline import Pipeline
    from .transports.receipt import Stats

logger = logging.getLogger("leanbase")

_LIVE = ("disabled", "debug", "before_send")
"""Options that the next call reads from the module. The others are read when the client is configured."""

END_SECONDS = 2.0
"""Maximum seconds that a capture waits for another thread's shutdown of the same transport instance."""


class DefaultClient(Leanbase):
    """A client that is configured when it is first used, and again after each shutdown.

    Its settings are the attributes of the module `leanbase`. It never raises. If a setting can never work,
    it logs the error and stays disabled until the next shutdown.
    """

    def __init__(self) -> None:
        self._reset_after_fork()
        self._latest: Pipeline | None = None
        self._ending: Pipeline | None = None
        self._ended: Stats | None = None
        self._seen: dict[str, Any] = {}
        self._refusals = RepeatedLog()
        self._explicitly_opted_out: bool | None = None
        self._opted_out = False
        self._debug = False
        self._has_warned = False

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._end_lock = threading.RLock()
        self._creating_thread: int | None = None  # id of the thread that configures the client
        self._queued_calls: deque[tuple[Context, Callable[[], object]]] = deque()
        self._ended = None

    def note_set(self, name: str) -> None:
        """Warn once if an option was set on the module too late: it takes effect after a shutdown."""
        latest = self._latest
        # A client that lacks required settings reads them at its next call, so that is not too late.
        if latest is not None and not latest.missing and name not in _LIVE and not name.startswith("_"):
            from .settings import option_names

            if name in option_names():
                _warn_of_late_option(name)

    def setup(self) -> Leanbase:
        """Configure the default client now, and return it: always the same object. Never raises."""
        self._current()
        return self

    def shutdown(self, timeout: float | None = None) -> Receipt:
        """Send all pending events, close the client, and forget its settings. The next call reads them again.

        It may be called any number of times, for example after every request.

        Args:
            timeout: The maximum number of seconds. `None` means `send_deadline`.

        Returns:
            A receipt for the events that were pending. Events that could not be delivered are dropped and
            reported to `on_error`. Blocks until the send has finished. Never raises.
        """
        # Cleared first: a capture in another thread then creates a new outbox and never finds a closed one.
        with self._lock:
            pipeline, self._latest = self._latest or self._ending, None
        if pipeline is None:
            return Receipt()
        with self._end_lock:
            try:
                self._ending = pipeline  # so that the shutdown of a signal handler finds it
                return self._close(pipeline, timeout, "brief")  # not "full": another client may follow
            finally:
                self._ending = None
                self._ended = pipeline.outbox.stats()

    def _warm_up(self, timeout: float = 1.0) -> None:
        """Prepare the first send, unless required settings are missing: the first call reads them again."""
        if self._is_configured():
            super()._warm_up(timeout)

    def disconnect(self, timeout: float | None = 5.0) -> Receipt:
        """Send all pending events and close idle connections, if the client was used.

        See `Leanbase.disconnect`.
        """
        return Receipt() if self._latest is None else super().disconnect(timeout)

    def _is_configured(self) -> bool:
        if self._latest is not None:
            return True
        from .delivery.factory import missing_settings
        from .settings import Settings

        try:
            return not missing_settings(Settings.resolve({}))
        except ConfigError:
            return False

    def _sigterm_grace(self) -> float | None:
        return None if self._latest is None else super()._sigterm_grace()

    def _outboxes(self) -> list[Outbox]:
        return [] if self._latest is None else super()._outboxes()

    def _current(self) -> Pipeline:
        attributes = vars(sys.modules[__package__])
        pipeline = self._latest
        if pipeline is not None and pipeline.missing and _all_set(attributes, pipeline.missing):
            self.shutdown()  # it was used before its settings were set; now they are
            pipeline = None
        if pipeline is None:
            if self._is_being_made():
                return _PipelineStub(self._queued_calls)  # type: ignore[return-value]  # it has what callers use
            reset_in_child(self)
            with self._lock:
                pipeline = self._make()
            while self._queued_calls:
                try:
                    context, call = self._queued_calls.popleft()
                except IndexError:
                    break  # another thread took it
                context.run(call)
        for name in _LIVE:
            if attributes.get(name) is not self._seen.get(name):
                self._follow(pipeline, name, attributes.get(name))
        return pipeline

    def _make(self) -> Pipeline:
        try:
            self._creating_thread = (
                threading.get_ident()
            )  # from here on, a signal handler queues its captures
            pipeline = self._latest
            if pipeline is None:
                pipeline = self._configure()
                self._install_hooks(pipeline)
                # If another thread's shutdown still owns the transport, the next call tries again.
                if self._ending is None or not pipeline.missing:
                    self._latest = pipeline
            return pipeline
        finally:
            self._creating_thread = None

    def _configure(self) -> Pipeline:
        from .pipeline import Pipeline  # imported lazily to keep `import leanbase` fast
        from .settings import Settings

        define_options()
        attributes = vars(sys.modules[__package__])
        self._seen = {name: attributes.get(name) for name in _LIVE}
        try:
            try:
                pipeline = Pipeline(Settings.resolve({}))
            except ConfigError:
                if self._ending is None:
                    raise
                # If the transport is an instance, another thread's shutdown may still own it.
                if acquired(self._end_lock, END_SECONDS):
                    with self._end_lock:
                        self._end_lock.release()
                pipeline = Pipeline(Settings.resolve({}))
        except Exception as error:
            text = str(error) if isinstance(error, ConfigError) else type(error).__name__
            logger.error("leanbase is disabled: %s", text)
            pipeline = Pipeline(Settings(disabled=True, transport="memory"))
            # Keeps the client disabled, even if `leanbase.disabled` is set to False: it has no transport.
            pipeline.missing = ["settings that can work"]
        if not self._has_warned:
            pipeline.warn_if_unconfigured()
            self._has_warned = bool(pipeline.missing)
        settings = pipeline.settings
        chosen = self._explicitly_opted_out
        self._opted_out = settings.opted_out if chosen is None else chosen
        if settings.debug != self._debug:
            self._set_debug(settings.debug)
        return pipeline

    # --- for a signal handler that interrupts its own thread while it creates the client, in mid-import

    def _is_being_made(self) -> bool:
        return self._creating_thread is not None and self._creating_thread == threading.get_ident()

    def _emit(self, draft: Draft) -> str | None:
        return self._later(draft, super()._emit) if self._is_being_made() else super()._emit(draft)

    def _emit_exception(self, exception: object, draft: Draft, *metadata: Any, **details: Any) -> str | None:
        emit = super()._emit_exception
        if self._is_being_made():
            return self._later(draft, lambda draft: emit(exception, draft, *metadata, **details))
        return emit(exception, draft, *metadata, **details)

    def _later(self, draft: Draft, emit: Callable[[Draft], str | None]) -> str:
        """Queue a draft until the client is created, and return the uuid of its event."""
        uuid = pinned(draft)
        self._queued_calls.append((copy_context(), partial(self._capture_early, emit, draft)))
        return uuid

    @event_call
    def _capture_early(self, emit: Callable[[Draft], str | None], draft: Draft) -> str | None:
        return emit(draft)

    def stats(self) -> Stats:
        if self._latest is None and self._ended is not None:
            return self._ended
        return super().stats()

    stats.__doc__ = f"""{Leanbase.stats.__doc__}
        After `leanbase.shutdown()` it returns the counts of the client that was shut down, until the next
        one is created.
        """

    def opt_out(self) -> None:
        """Stop capturing, also after a shutdown. Events captured earlier are still delivered."""
        self._opted_out = self._explicitly_opted_out = True

    def opt_in(self) -> None:
        """Start capturing again after `opt_out`."""
        self._opted_out = self._explicitly_opted_out = False

    def _follow(self, pipeline: Pipeline, name: str, value: Any) -> None:
        self._seen[name] = value
        if name == "disabled":
            pipeline.disable(bool(value))
        elif name == "debug":
            self._set_debug(bool(value))
            pipeline.shows_events = bool(value)
        else:
            pipeline.set_hooks(value)


@cache
def _warn_of_late_option(name: str) -> None:
    logger.warning(
        "leanbase.%s was set after the default client was created, and has no effect: set it before the "
        "first call, or call leanbase.shutdown() first",
        name,
    )


def _all_set(attributes: dict[str, Any], names: list[str]) -> bool:
    return all(isinstance(value := attributes.get(name), str) and value.strip() for name in names)


class _PipelineStub:
    """Replaces the pipeline and the outbox while the default client is being created."""

    disabled = closed = False
    missing = hooks = ()

    def __init__(self, queued_calls: deque[tuple[Context, Callable[[], object]]]) -> None:
        self._queued_calls = queued_calls
        self.outbox = self.settings = self
        self.host = self.flags = None

    def drop(self, reason: str) -> None:
        self._queued_calls.append((copy_context(), partial(default_client._drop, reason)))

    def stats(self) -> Stats:
        return no_stats()

    def flush(self, **_: object) -> Receipt:
        return Receipt()

    def disable(self, disabled: bool) -> None:
        logger.warning(
            "leanbase.disabled cannot change while a signal handler interrupts the creation of the client"
        )

    set_hooks = disable


default_client = DefaultClient()
