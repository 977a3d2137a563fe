"""Takes a draft to the outbox in one call: build, run hooks, encode, put."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ref

from . import forking
from .delivery import factory
from .delivery.outbox import Outbox
from .errors import ConfigError, EventTooLargeError, InvalidEventError
from .events.encoding import EncodedEvent, Written, encode, sanitize
from .events.event import Common, Draft, build, checked, runtime_properties
from .interrupts import raise_interrupt
from .settings import BeforeSend, Settings, as_hooks
from .transports.deadline import Deadline
from .transports.memory import MemoryTransport

if TYPE_CHECKING:
    from .error_tracking.describer import ExceptionDescriber
    from .error_tracking.hooks import ExceptionHooks
    from .feature_flags.flags import FeatureFlags

logger = logging.getLogger("leanbase")

_in_hooks_of: ContextVar[tuple[object, ...]] = ContextVar("leanbase_in_before_send", default=())
"""The pipelines whose hooks are running, outermost first."""


SUSPICIOUS_DROPS = 100
"""The number of events after which a warning is logged if the hooks have dropped them all."""

TOP_LEVEL = frozenset({"event", "distinct_id", "uuid", "timestamp", "properties"})


class Pipeline:
    """The configured state of a client: creates events and passes them to the outbox.

    Raises:
        ConfigError: The transport that the settings name cannot be created, or `super_properties` are too
            large.
    """

    __slots__ = (
        "__weakref__",
        "_common",
        "_created",
        "_describer",
        "_dropped_in_a_row",
        "_flags",
        "_has_logged_drop",
        "_has_warned_of_top_level",
        "exception_hooks",
        "hooks",
        "missing",
        "outbox",
        "settings",
        "shows_events",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.exception_hooks: ExceptionHooks | None = None
        self._created = time.time()
        self.shows_events = settings.debug
        self._has_logged_drop = False
        self._dropped_in_a_row: int | None = 0
        self._has_warned_of_top_level = False
        self._describer: ExceptionDescriber | None = None
        self._flags: FeatureFlags | None = None
        runtime_properties()  # cached here, so that the first capture does not read them
        self.missing = factory.missing_settings(settings)
        self.set_hooks(settings.before_send)
        try:
            self._common = Common(
                disable_geoip=settings.disable_geoip,
                is_server=settings.is_server,
                super_properties=sanitize(settings.super_properties or {}),
            )
        except EventTooLargeError as error:
            raise ConfigError(f"super_properties are too large: {error}") from None
        self.outbox = Outbox(
            # With a required setting missing, the client is disabled, and this transport never sends.
            factory.retaining(MemoryTransport(), settings) if self.missing else factory.create(settings),
            owner=ref(self),
            send_seconds=settings.send_deadline,
            flush_at=settings.flush_at,
            flush_interval=settings.flush_interval,
            transmits=settings.send,
            on_error=settings.on_error,
        )
        self.disable(settings.disabled)

    def disable(self, disabled: bool) -> None:
        """Disable or enable the client. It stays disabled while a required setting is missing."""
        self.outbox.disabled = disabled or bool(self.missing)

    def warn_if_unconfigured(self) -> None:
        """Log which settings are missing, if the client is disabled because of them."""
        if self.missing and not self.settings.disabled:
            variables = " and ".join(f"LEANBASE_{name.upper()}" for name in self.missing)
            logger.error("leanbase is disabled: set %s, or %s", " and ".join(self.missing), variables)

    @property
    def describer(self) -> ExceptionDescriber:
        """Return the describer of exceptions. The first call creates it."""
        if self._describer is None:
            from .error_tracking.describer import ExceptionDescriber

            self._describer = ExceptionDescriber(self.settings, self._created)
        return self._describer

    @property
    def flags(self) -> FeatureFlags:
        """Return the evaluator of feature flags. The first call creates it."""
        if self._flags is None:
            with forking.importing:  # two objects would report each flag twice
                from .feature_flags.flags import FeatureFlags

                if self._flags is None:
                    self._flags = FeatureFlags(self.settings)
        return self._flags

    def disconnect_flags(self) -> None:
        """Close the connections for feature flags. Later flag calls open new ones."""
        if self._flags is not None:
            self._flags.disconnect()

    def warm_up_flags(self, timeout: float) -> None:
        """Load flag definitions before the first flag call, if `flag_definitions` is set."""
        if self.settings.flag_definitions is not None and not self.outbox.disabled:
            store = self.flags.store
            if store is not None:
                store.warm_up(Deadline.after(timeout))

    def set_hooks(self, before_send: object) -> None:
        """Set the `before_send` hooks: one function, or a sequence of functions."""
        self.hooks: tuple[BeforeSend, ...] = as_hooks(before_send)

    def capture(self, draft: Draft) -> str | None:
        """Create an event and put it into the outbox. Blocks as `Outbox.put` does.

        Returns:
            The event's uuid, or `None` if a hook, its size or a full buffer dropped the event.

        Raises:
            InvalidEventError: The draft or the result of the hooks is not a valid event, or a hook called
                this.
            ClosedError: The outbox is closed. The error holds the event.
        """
        event = self.encoded(draft)
        if self.shows_events and event is not None:
            self._show(event)
        return event.uuid if event is not None and self.outbox.put(event) else None

    def _show(self, event: EncodedEvent) -> None:
        """Log an event at DEBUG, with its secrets redacted."""
        from .redaction import redacted_value

        shown = event.decode()
        properties = redacted_value(shown["properties"], self.describer.redaction())
        logger.debug("captured %r of %r with %s", shown["event"], shown["distinct_id"], properties)

    def encoded(self, draft: Draft) -> EncodedEvent | None:
        """Return the event as it will be sent, or `None` if a hook or its size dropped it.

        Raises:
            InvalidEventError: As for `capture`.
        """
        settings = self.settings
        try:
            event, written = build(draft, self._common, is_history=settings.historical_migration)
            if self.hooks:
                if self in _in_hooks_of.get():
                    raise InvalidEventError("a before_send hook cannot capture with its own client")
                # Encode and decode first, so that hooks see every string as it will be sent.
                hooked = self._hooked(_encode(event, draft, *written).decode())
                if hooked is None:
                    self.outbox.drop("before_send")
                    self._count_dropped_by_hooks()
                    return None
                self._dropped_in_a_row = None
                event, written = checked(hooked, is_history=settings.historical_migration), ()
            return _encode(event, draft, *written)
        except EventTooLargeError as error:
            logger.warning("event %r is dropped: %s", draft.name, error)
            self.outbox.drop("too_large")
            return None

    def _hooked(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Pass the event through the hooks; return `None` if one of them dropped it or failed (H-5)."""
        name = event["event"]
        result: Any = event
        others = _in_hooks_of.get()
        try:
            _in_hooks_of.set((*others, self))  # inside the `try`: an interrupt may come right after it
            for hook in self.hooks:
                try:
                    result = hook(result)
                except Exception as error:
                    raise_interrupt(error)
                    text = "before_send raised %s%s; event %r is dropped"
                    logger.warning(text, type(error).__name__, _place(error), name)
                    logger.debug("before_send failed here:", exc_info=error)
                    return None
                if result is None:
                    self._say_dropped(name)
                    return None
                if not isinstance(result, dict):
                    kind = type(result).__name__
                    logger.warning("before_send returned %s, not a dict; event %r is dropped", kind, name)
                    return None
        finally:
            _in_hooks_of.set(others)
        final: dict[str, Any] = result
        self._warn_of_top_level(final)
        return final

    def _count_dropped_by_hooks(self) -> None:
        """Warn if a hook has dropped all of the first events: it may have forgotten to return them."""
        if self._dropped_in_a_row is not None:
            self._dropped_in_a_row += 1
            if self._dropped_in_a_row == SUSPICIOUS_DROPS:
                logger.warning(
                    "before_send dropped each of the first %d events; check that it returns the event",
                    SUSPICIOUS_DROPS,
                )

    def _say_dropped(self, name: str) -> None:
        """Log at INFO once, then at DEBUG: a hook may drop most events on purpose (H-4)."""
        level = logging.DEBUG if self._has_logged_drop else logging.INFO
        self._has_logged_drop = True
        logger.log(level, "before_send returned None; event %r is dropped", name)

    def _warn_of_top_level(self, event: dict[str, Any]) -> None:
        """Warn once about keys that a hook added and that are not sent (H-9)."""
        others = [key for key in event if key not in TOP_LEVEL]
        if others and not self._has_warned_of_top_level:
            self._has_warned_of_top_level = True
            logger.warning(
                "before_send added %s at the top level of an event, which is not sent; "
                "put $set and similar keys into event['properties']",
                ", ".join(sorted(map(repr, others))),
            )


def _encode(event: dict[str, Any], draft: Draft, *written: Written) -> EncodedEvent:
    try:
        return encode(event, *written)
    except EventTooLargeError:
        if not draft.is_exception:
            raise
    from .error_tracking.shrink import encode_shrunk

    return encode_shrunk(event)


def _place(error: BaseException) -> str:
    """Return where an exception was raised, as ` at file:line`. Its message may quote a property."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else ""
