"""From a draft to the outbox, in one call: build, hooks, encode, put."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ref

from .delivery import factory
from .delivery.outbox import Outbox
from .errors import ConfigError, EventTooLargeError, InvalidEventError
from .events.encoding import EncodedEvent, encode, sanitize
from .events.event import Draft, build, checked, runtime_properties
from .interrupts import raise_interrupt
from .settings import BeforeSend, Settings, as_hooks
from .transports.memory import MemoryTransport

if TYPE_CHECKING:
    from .error_tracking.describer import ExceptionDescriber
    from .error_tracking.hooks import ExceptionHooks

logger = logging.getLogger("leanbase")

_in_hooks_of: ContextVar[tuple[object, ...]] = ContextVar("leanbase_in_before_send", default=())
"""The pipelines whose hooks are running, one inside the other."""


SUSPICIOUS_DROPS = 100
"""A hook that drops so many events, and has let none pass, is told of."""

TOP_LEVEL = frozenset({"event", "distinct_id", "uuid", "timestamp", "properties"})


class Pipeline:
    """What the settings of a client amount to: it makes events and hands them over to its outbox.

    Raises:
        ConfigError: The transport that the settings name cannot be made.
    """

    __slots__ = (
        "__weakref__",
        "_created",
        "_describer",
        "_has_said_dropped",
        "_has_warned_of_top_level",
        "_hooked_in_vain",
        "exception_hooks",
        "hooks",
        "missing",
        "outbox",
        "settings",
        "shows_events",
        "super_properties",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.exception_hooks: ExceptionHooks | None = None
        self._created = time.time()
        self.shows_events = settings.debug
        self._has_said_dropped = False
        self._hooked_in_vain: int | None = 0
        self._has_warned_of_top_level = False
        self._describer: ExceptionDescriber | None = None
        runtime_properties()  # looked up now, not in the middle of the first capture
        self.missing = factory.missing_settings(settings)
        self.set_hooks(settings.before_send)
        try:
            self.super_properties: dict[str, Any] = sanitize(settings.super_properties or {})
        except EventTooLargeError as error:
            raise ConfigError(f"super_properties are too large: {error}") from None
        self.outbox = Outbox(
            # Without what it needs the client is disabled, and nothing will be sent.
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
        """Turn the kill switch; without a key or host it stays on."""
        self.outbox.disabled = disabled or bool(self.missing)

    def warn_if_unconfigured(self) -> None:
        """Say what is missing, if the client is disabled for it."""
        if self.missing and not self.settings.disabled:
            variables = " and ".join(f"LEANBASE_{name.upper()}" for name in self.missing)
            logger.error("leanbase is disabled: set %s, or %s", " and ".join(self.missing), variables)

    @property
    def describer(self) -> ExceptionDescriber:
        """Describes exceptions; made when the first one is captured."""
        if self._describer is None:
            from .error_tracking.describer import ExceptionDescriber

            self._describer = ExceptionDescriber(self.settings, self._created)
        return self._describer

    def set_hooks(self, before_send: object) -> None:
        """Take the `before_send` hooks, one or several."""
        self.hooks: tuple[BeforeSend, ...] = as_hooks(before_send)

    def capture(self, draft: Draft) -> str | None:
        """Make an event and hand it over. Blocks as `Outbox.put` does.

        Returns:
            The event's uuid; `None` when a hook, its size or a full buffer dropped it.

        Raises:
            InvalidEventError: What the hooks left makes no event.
            ClosedError: The outbox is closed; the error has the event.
        """
        event = self._made(draft)
        if self.shows_events and event is not None:
            self._show(event)
        return event.uuid if event is not None and self.outbox.put(event) else None

    def _show(self, event: EncodedEvent) -> None:
        """Log an event, without the secrets in it."""
        from .redaction import redacted_value

        shown = event.decode()
        properties = redacted_value(shown["properties"], self.describer.redaction())
        logger.debug("captured %r of %r with %s", shown["event"], shown["distinct_id"], properties)

    def _made(self, draft: Draft) -> EncodedEvent | None:
        """The event as it will be sent; `None` when a hook or its size dropped it."""
        settings = self.settings
        try:
            event = build(
                draft,
                disable_geoip=settings.disable_geoip,
                is_server=settings.is_server,
                super_properties=self.super_properties,
                is_history=settings.historical_migration,
            )
            if self.hooks:
                if self in _in_hooks_of.get():
                    raise InvalidEventError("was called inside before_send, which would call it again")
                # Through the encoder, so that hooks see every string as it will be.
                hooked = self._hooked(_encode(event, draft).decode())
                if hooked is None:
                    self.outbox.drop("before_send")
                    self._count_in_vain()
                    return None
                self._hooked_in_vain = None
                event = checked(hooked, is_history=settings.historical_migration)
            return _encode(event, draft)
        except EventTooLargeError as error:
            logger.warning("event %r is dropped: %s", draft.name, error)
            self.outbox.drop("too_large")
            return None

    def _hooked(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Pass the event through the hooks; `None` when one dropped it, or failed (H-5)."""
        name = event["event"]
        result: Any = event
        others = _in_hooks_of.get()
        try:
            _in_hooks_of.set((*others, self))  # inside, as an interrupt may strike right after it
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

    def _count_in_vain(self) -> None:
        """Say it if a hook has let none of the first events pass: it may have forgotten to return them."""
        if self._hooked_in_vain is not None:
            self._hooked_in_vain += 1
            if self._hooked_in_vain == SUSPICIOUS_DROPS:
                logger.warning(
                    "before_send has let none of the first %d events pass; does it return the event?",
                    SUSPICIOUS_DROPS,
                )

    def _say_dropped(self, name: str) -> None:
        """Once at INFO: a hook may drop most events, and should (H-4)."""
        level = logging.DEBUG if self._has_said_dropped else logging.INFO
        self._has_said_dropped = True
        logger.log(level, "before_send returned None; event %r is dropped", name)

    def _warn_of_top_level(self, event: dict[str, Any]) -> None:
        """Say once which keys of a hook are not sent (H-9)."""
        others = [key for key in event if key not in TOP_LEVEL]
        if others and not self._has_warned_of_top_level:
            self._has_warned_of_top_level = True
            logger.warning(
                "before_send added %s at the top level of an event, where it is not sent; "
                "$set and the like belong into event['properties']",
                ", ".join(sorted(map(repr, others))),
            )


def _encode(event: dict[str, Any], draft: Draft) -> EncodedEvent:
    try:
        return encode(event)
    except EventTooLargeError:
        if not draft.is_exception:
            raise
    from .error_tracking.shrink import encode_shrunk

    return encode_shrunk(event)


def _place(error: BaseException) -> str:
    """Where an exception was raised, as ` at file:line`; never its text, which may quote a property."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else ""
