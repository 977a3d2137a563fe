"""The client: what can be captured, and what every capture goes through.

Each event-producing method says what its event is and passes it to `_emit`; when it leaves and what
becomes of it is the outbox's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from .delivery.scope import DeliveryScope, activate
from .errors import ClosedError, InvalidEventError
from .events import contexts
from .events.context_decorator import scoped
from .events.event import Draft, checked_name
from .events.proxies import resolved
from .guard import event_call, log_internal
from .transports._repeated import RepeatedLog
from .transports.receipt import Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Concatenate, ParamSpec, TypeVar, overload

    from .delivery.outbox import Outbox
    from .delivery.scope import FlushPolicy
    from .error_tracking.frames import Call
    from .error_tracking.metadata import Metadata
    from .events.contexts import OnException
    from .pipeline import Pipeline
    from .settings import OnError, Settings, Transport
    from .transports.deadline import Deadline, LastChance
    from .transports.receipt import Stats

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T", bound="Leanbase")

logger = logging.getLogger("leanbase")

NO_TIME_LIMIT_SECONDS = 86_400.0


def _takes(
    options: Callable[[], Callable[P, Settings]],  # noqa: ARG001 - read by type checkers
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give `__init__` the parameters of `Settings`, which names each option once.

    For type checkers and editors; `options` is a function because the settings are imported only when
    a client is made.
    """
    return lambda init: init


class _Signature:
    """The signature of `Leanbase`: every option, with its type and default. Made when it is looked at."""

    def __get__(self, instance: object, owner: type) -> Any:
        from dataclasses import fields
        from inspect import Parameter, Signature

        from .settings import Settings

        return Signature(
            [
                Parameter(
                    option.name,
                    Parameter.KEYWORD_ONLY if option.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
                    default=option.default,
                    annotation=option.type,
                )
                for option in fields(Settings)
            ]
        )


class _Option:
    """An option of a client, which can be read and not set.

    Not a `__getattr__` of the class: that would slow every attribute down.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, client: Leanbase | None, owner: type) -> Any:
        return self if client is None else getattr(client._current().settings, self._name)

    def __set__(self, client: Leanbase, value: object) -> None:
        name = self._name
        raise AttributeError(f"{name} cannot be set on a client: make another client with {name}=")


@cache
def define_options() -> None:
    """Let clients have their options as attributes. Not when this is imported, which must be fast."""
    from .settings import option_names

    for name in option_names():
        if not hasattr(Leanbase, name):
            setattr(Leanbase, name, _Option(name))


class Leanbase:
    """A client for one project. Synchronous, thread-safe, and without state of its own.

    Outside a delivery scope, `capture` and its siblings return when their event has an outcome, after
    `send_deadline` seconds at the latest. Inside one (a decorated handler or job, or
    `delivery_scope`), they return at once and the events leave together when the scope closes.
    None of them ever raises, but for the TypeError of a call that does not fit its signature. The
    options are those of `leanbase.settings.Settings`. Used with `with`, a client shuts down at the end.

    Raises:
        ConfigError: An option that can never work, such as a host that is no URL. A missing key or
            host does not raise: the client is disabled and logs an error once.

    Example:
        >>> from leanbase.transports import MemoryTransport
        >>> client = Leanbase("phc_key", transport=MemoryTransport())
        >>> uuid = client.capture("order created", distinct_id="user_1", properties={"total": 42})
        >>> client.stats()["delivered"]
        1
    """

    __signature__ = _Signature()

    if TYPE_CHECKING:
        # The options, for checkers and editors; a test compares them with `Settings`.
        api_key: str | None
        host: str | None
        project_api_key: str | None
        transport: str | Transport
        fallback: str | Transport | None
        queue_url: str | None
        spool_directory: str | None
        spool_fsync: bool
        spool_max_bytes: int
        send: bool
        sync_mode: bool
        flush_at: int
        flush_interval: float
        max_queue_size: int
        max_queue_bytes: int
        max_retries: int
        timeout: float
        send_deadline: float
        gzip: bool | None
        on_error: OnError | None
        super_properties: Mapping[str, Any] | None
        historical_migration: bool
        is_server: bool
        disable_geoip: bool
        opted_out: bool
        enable_exception_autocapture: bool
        enable_unraisable_exception_autocapture: bool
        enable_exception_autocapture_rate_limiting: bool
        exception_autocapture_bucket_size: int
        exception_autocapture_refill_rate: int
        exception_autocapture_refill_interval_seconds: float
        log_captured_exceptions: bool
        project_root: str | None
        in_app_modules: Sequence[str] | None
        capture_exception_code_variables: bool
        code_variables_mask_patterns: Sequence[str] | None
        code_variables_ignore_patterns: Sequence[str] | None
        code_variables_mask_url_credentials: bool
        code_variables_detect_secrets: bool

    @_takes(lambda: Settings)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from .pipeline import Pipeline  # with all that only a used client needs
        from .settings import Settings

        if len(args) > 2:
            raise TypeError("Leanbase() takes api_key and host by position, everything else by keyword")
        define_options()
        keywords = dict(zip(("api_key", "host"), args, strict=False), **kwargs)
        settings = Settings.resolve(keywords)
        self._pipeline = Pipeline(settings)
        self._pipeline.warn_if_unconfigured()
        self._install_hooks(self._pipeline)
        self._refusals = RepeatedLog()
        self._opted_out = settings.opted_out
        self._debug = False
        if settings.debug:
            self._set_debug(True)

    def __repr__(self) -> str:
        host = self._current().settings.host
        return f"<{type(self).__name__} to {host or 'no host'}{', disabled' if self.disabled else ''}>"

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what would have no effect: an option that does not exist."""
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{name} cannot be set on a client: there is no such option")
        super().__setattr__(name, value)

    def __copy__(self: T) -> T:
        return self  # a client has threads, connections and books: there is only one of it

    def __deepcopy__(self: T, memo: object) -> T:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: it has connections and locks. "
            "Make one in the other process, from the same settings"
        )

    def _current(self) -> Pipeline:
        return self._pipeline

    def _admits(self) -> bool:
        """The first step of every event-producing call: is there any point in going on?"""
        outbox = self._current().outbox
        if outbox.disabled or self._opted_out:
            return False
        if outbox.closed and outbox is self._current().outbox:
            self._refuse()
            return False
        return True

    def _emit(self, draft: Draft) -> str | None:
        """Make the event and hand it over. Raises what `event_call` turns into a logged drop."""
        pipeline = self._current()
        try:
            return pipeline.capture(draft)
        except ClosedError as error:
            event: Any = error.event
        while True:
            closed, pipeline = pipeline, self._current()
            if pipeline is closed:
                self._refuse()
                return None
            # The default client was shut down by another thread, and has a new outbox already.
            try:
                return event.uuid if pipeline.outbox.put(event) else None
            except ClosedError:
                continue

    def _refuse(self) -> None:
        self._refusals.log(logging.WARNING, "shutdown", 1, "not sent: the client was shut down")
        self._drop("shutdown")

    def _drop(self, reason: str) -> None:
        self._current().outbox.drop(reason)

    # --- events ------------------------------------------------------------------------------------

    @event_call
    def capture(
        self,
        event: str,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: object = None,
        uuid: object = None,
        groups: Mapping[str, Any] | None = None,
        disable_geoip: bool | None = None,
    ) -> str | None:
        """Capture an event. A page view is the event `"$pageview"` with `$current_url`.

        Args:
            event: The event's name, not blank.
            distinct_id: Who did it: text, a number or a UUID. Without one the context's is used; with
                none there either, the event is sent but makes no person profile.
            properties: What is to be known about it. Any values: those without a JSON form become a
                useful text. They are copied at once.
            timestamp: When it happened: a `datetime` or an ISO 8601 date-time text. Default: now.
                Without an offset it is UTC, except for what `datetime.now()` has just made.
            uuid: The event's id, a `UUID` or its text. Default: a new UUIDv7.
            groups: The groups it belongs to, `{"company": "acme"}`.
            disable_geoip: Whether the server must not look up where the sender's address is.
                Default: the client's option.

        Returns:
            The event's uuid, exactly as sent; `None` when the event was not admitted: the client is
            disabled, the arguments make no event, a hook dropped it, it is too large. What the server
            made of it is in `stats()` and goes to `on_error`.

        Blocks until the event has an outcome, at most `send_deadline` seconds; not at all inside a
        delivery scope. Never raises.

        Example:
            >>> import leanbase
            >>> leanbase.capture("order created", distinct_id="user_1", properties={"total": 42})
        """
        name = checked_name(event)
        draft = Draft(
            name,
            properties,
            _explicit_or_context(distinct_id),
            timestamp,
            uuid,
            disable_geoip,
            groups=groups,
            with_runtime=True,
        )
        return self._emit(draft)

    @event_call
    def set(
        self,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: object = None,
        uuid: object = None,
        disable_geoip: bool | None = None,
    ) -> str | None:
        """Set properties of a person, replacing what they had.

        Args:
            distinct_id: The person. Default: the context's; with none, nothing is sent.
            properties: The properties to set, not empty.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.

        Returns:
            The uuid of the event, or `None` when nothing was sent. Blocks like `capture`.
        """
        return self._set_person("$set", distinct_id, properties, timestamp, uuid, disable_geoip)

    @event_call
    def set_once(
        self,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: object = None,
        uuid: object = None,
        disable_geoip: bool | None = None,
    ) -> str | None:
        """Set properties of a person that are not set yet; otherwise like `set`."""
        return self._set_person("$set_once", distinct_id, properties, timestamp, uuid, disable_geoip)

    def _set_person(
        self,
        key: str,
        distinct_id: object,
        properties: object,
        timestamp: object,
        uuid: object,
        disable_geoip: bool | None,
    ) -> str | None:
        person = _explicit_or_context(distinct_id)
        if person is None:
            raise InvalidEventError("needs a distinct_id, given or from the context")
        properties = resolved(properties)
        if not isinstance(properties, Mapping) or not properties:
            raise InvalidEventError("needs properties, a mapping that is not empty")
        draft = Draft(key, {key: properties}, person, timestamp, uuid, disable_geoip)
        return self._emit(draft)

    @event_call
    def identify(
        self,
        distinct_id: object,
        properties: Mapping[str, Any] | None = None,
        *,
        set_once: Mapping[str, Any] | None = None,
        timestamp: object = None,
        uuid: object = None,
        disable_geoip: bool | None = None,
    ) -> str | None:
        """Make a person known, with properties. Changes nothing about the active context.

        Args:
            distinct_id: The person; the context's id does not stand in for it.
            properties: Properties to set, replacing earlier ones.
            set_once: Properties to set where they are not set yet.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.

        Returns:
            The uuid of the event, or `None` when nothing was sent. Blocks like `capture`.
        """
        person = contexts.coerce_id(distinct_id)
        if person is None:
            raise InvalidEventError("needs a distinct_id")
        given = {"$set": _mapping_or_none(properties), "$set_once": _mapping_or_none(set_once)}
        draft = Draft(
            "$identify",
            {key: value for key, value in given.items() if value},
            person,
            timestamp,
            uuid,
            disable_geoip,
        )
        return self._emit(draft)

    @event_call
    def alias(
        self,
        previous_id: object,
        distinct_id: object = None,
        timestamp: object = None,
        uuid: object = None,
        disable_geoip: bool | None = None,
    ) -> str | None:
        """Link an id that was used before to the id of a person.

        Args:
            previous_id: The id to link, for example an anonymous one.
            distinct_id: The id to link it to. Default: the context's.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.

        Returns:
            The uuid of the event, or `None` when nothing was sent. Blocks like `capture`.
        """
        previous = contexts.coerce_id(previous_id)
        if previous is None:
            raise InvalidEventError("needs a previous_id")
        new = _explicit_or_context(distinct_id)
        if new is None:
            raise InvalidEventError("needs a distinct_id, given or from the context")
        draft = Draft(
            "$create_alias",
            {"distinct_id": previous, "alias": new},
            previous,
            timestamp,
            uuid,
            disable_geoip,
            with_tags=False,
        )
        return self._emit(draft)

    @event_call
    def group_identify(
        self,
        group_type: object,
        group_key: object,
        properties: Mapping[str, Any] | None = None,
        timestamp: object = None,
        uuid: object = None,
        disable_geoip: bool | None = None,
        distinct_id: object = None,
    ) -> str | None:
        """Set properties of a group. Later events join it by `groups=` on their own `capture`.

        Args:
            group_type: The kind of group, `"company"`.
            group_key: Which one, `"acme"`; `0` is a key like any other.
            properties: Properties of the group.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.
            distinct_id: Whose doing it is. Default: the context's, else one made of type and key.

        Returns:
            The uuid of the event, or `None` when nothing was sent. Blocks like `capture`.
        """
        kind, key = _group_part(group_type, "group_type"), _group_part(group_key, "group_key")
        group = {"$group_type": kind, "$group_key": key, "$group_set": _mapping_or_none(properties) or {}}
        draft = Draft(
            "$groupidentify",
            group,
            _explicit_or_context(distinct_id) or f"${kind}_{key}",
            timestamp,
            uuid,
            disable_geoip,
            with_tags=False,
        )
        return self._emit(draft)

    @event_call
    def capture_exception(
        self,
        exception: object = None,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: object = None,
        uuid: object = None,
        groups: Mapping[str, Any] | None = None,
        disable_geoip: bool | None = None,
        level: str | int | None = None,
        fingerprint: str | None = None,
    ) -> str | None:
        """Capture an exception, with its chain, its frames and the source around them.

        Args:
            exception: The exception; in an `except` block the one that is handled is the default. Also
                taken: what `sys.exc_info()` returns, a class, a message, a `traceback.TracebackException`,
                a mapping or object with a message or the text of a traceback, anything else by its text.
            distinct_id: As for `capture`.
            properties: As for `capture`; those that describe the exception itself are left out.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            groups: As for `capture`.
            disable_geoip: As for `capture`.
            level: `"fatal"`, `"error"`, `"warning"`, `"log"`, `"info"`, `"debug"`, or a number of the
                module `logging`. Default: `"error"`.
            fingerprint: Events with the same one are the same issue. Default: the server decides.

        Returns:
            The event's uuid, or `None` when nothing was sent: also when this client has captured that
            very exception before, in whatever place. Blocks like `capture`.

        Example:
            >>> import leanbase
            >>> try:
            ...     1 / 0
            ... except ZeroDivisionError as error:
            ...     uuid = leanbase.capture_exception(error, distinct_id="user_1")
        """
        from .error_tracking.metadata import BY_HAND, Metadata, normalized_level

        if level is not None and normalized_level(level) is None:
            logger.warning("level must be one such as 'error' or 'warning'; it is not, and 'error' is used")
        draft = Draft(
            "$exception",
            properties,
            _explicit_or_context(distinct_id),
            timestamp,
            uuid,
            disable_geoip,
            groups=groups,
            with_runtime=True,
        )
        return self._emit_exception(exception, draft, Metadata(level), BY_HAND, fingerprint=fingerprint)

    def report_exception(
        self,
        exception: object,
        *metadata: Metadata,
        properties: Mapping[str, Any] | None = None,
        stack: Sequence[Call] | None = None,
    ) -> str | None:
        """Capture an exception at a boundary; for integrations.

        Args:
            exception: As for `capture_exception`.
            metadata: What is known about how it got there, the most specific first.
            properties: As for `capture`.
            stack: What to show for something without a stack. Default: the caller's.

        Returns:
            As `capture_exception`; also `None` for a default client without settings, which stays as it
            is. Blocks like `capture`. Never raises.
        """
        if not self._is_configured():
            return None
        return self._report_exception(exception, *metadata, properties=properties, stack=stack)

    @event_call
    def _report_exception(
        self, exception: object, *metadata: Metadata, properties: object, stack: Sequence[Call] | None
    ) -> str | None:
        person = contexts.get_context_distinct_id()
        draft = Draft("$exception", properties, person, None, None, None, with_runtime=True)
        return self._emit_exception(exception, draft, *metadata, stack=stack)

    def _emit_exception(
        self,
        exception: object,
        draft: Draft,
        *metadata: Metadata,
        fingerprint: object = None,
        stack: Sequence[Call] | None = None,
    ) -> str | None:
        from .error_tracking.capture import ExceptionCapture

        capture: ExceptionCapture = vars(self).setdefault("_exceptions", ExceptionCapture())
        return capture.capture(
            exception,
            draft,
            *metadata,
            describer=self._current().describer,
            emit=self._emit,
            fingerprint=fingerprint,
            stack=stack,
        )

    # --- contexts: the functions of `events/contexts.py`, so that a client is all one needs ---------

    def new_context(
        self, fresh: bool = False, capture_exceptions: bool | None = None, client: Leanbase | None = None
    ) -> contexts.new_context:
        """Open a context: what is set inside it ends with it.

        An `Exception` that leaves the context is captured with the context's tags and identity, and goes
        on its way unchanged. Contexts around it do not capture it again.

        Args:
            fresh: `True` starts empty; by default everything that is not set here is inherited from
                the context around it.
            capture_exceptions: `False` captures none.
            client: Which client captures them. Default: this one.

        Returns:
            A context manager. Works in `async def` code with the plain `with`. Never raises; leaving it
            blocks only while an exception is captured, like `capture`.

        Example:
            >>> import leanbase
            >>> with leanbase.new_context():
            ...     leanbase.tag("plan", "pro")
            ...     leanbase.get_tags()
            {'plan': 'pro'}
        """
        return contexts.new_context(fresh, self._on_exception(capture_exceptions, client))

    if TYPE_CHECKING:

        @overload
        def scoped(self, fresh: Callable[P, R], /) -> Callable[P, R]: ...
        @overload
        def scoped(
            self,
            fresh: bool = False,
            capture_exceptions: bool | None = None,
            client: Leanbase | None = None,
        ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def scoped(
        self, fresh: Any = False, capture_exceptions: bool | None = None, client: Leanbase | None = None
    ) -> Any:
        """Run a function in a context of its own; the decorator form of `new_context`.

        For plain, `async`, generator and async generator functions. A generator's context is active
        while its body runs and hidden from whoever consumes its items. Put it innermost, next to `def`.

        Args:
            fresh: As for `new_context`.
            capture_exceptions: As for `new_context`.
            client: As for `new_context`.

        Example:
            >>> import leanbase
            >>> @leanbase.scoped()
            ... def handle(order):
            ...     leanbase.tag("order", order)
            ...     return leanbase.get_tags()
            >>> handle("o-1"), leanbase.get_tags()
            ({'order': 'o-1'}, {})
        """
        on_exception = self._on_exception(capture_exceptions, client)
        if callable(fresh):  # used without parentheses
            return scoped(fresh, False, on_exception)
        return lambda function: scoped(function, bool(fresh), on_exception)

    def _on_exception(self, capture_exceptions: bool | None, client: Leanbase | None) -> OnException | None:
        if capture_exceptions is not None and not capture_exceptions:
            return None
        if client is not None and not isinstance(client, Leanbase):
            logger.warning("client must be a Leanbase, not %s; it is ignored", type(client).__name__)
            client = None
        return (client or self)._leaves_context

    def _leaves_context(self, error: BaseException | None) -> None:
        self._capture_escaping(error, "CONTEXT")

    def _capture_escaping(
        self, error: BaseException | None, boundary: str, properties: Mapping[str, Any] | None = None
    ) -> None:
        """Capture an exception that leaves a boundary; those that only end a program are let through.

        Args:
            error: What leaves, if anything.
            boundary: The boundary's name in `leanbase.error_tracking.metadata`.
            properties: What the boundary knows besides.
        """
        if issubclass(type(error), Exception):
            from .error_tracking import metadata

            self.report_exception(error, getattr(metadata, boundary), properties=properties)

    def _is_configured(self) -> bool:
        """Whether there is a client to capture what nobody asked to have captured."""
        return True

    def _install_hooks(self, pipeline: Pipeline) -> None:
        if pipeline.settings.enable_exception_autocapture and not pipeline.missing:
            from .error_tracking import hooks

            pipeline.exception_hooks = hooks.install(self, pipeline.settings)

    tag = staticmethod(contexts.tag)
    get_tags = staticmethod(contexts.get_tags)
    identify_context = staticmethod(contexts.identify_context)
    set_context_session = staticmethod(contexts.set_context_session)
    set_context_device_id = staticmethod(contexts.set_context_device_id)
    set_capture_exception_code_variables_context = staticmethod(
        contexts.set_capture_exception_code_variables_context
    )
    set_code_variables_mask_patterns_context = staticmethod(contexts.set_code_variables_mask_patterns_context)
    set_code_variables_ignore_patterns_context = staticmethod(
        contexts.set_code_variables_ignore_patterns_context
    )
    set_code_variables_mask_url_credentials_context = staticmethod(
        contexts.set_code_variables_mask_url_credentials_context
    )
    set_code_variables_detect_secrets_context = staticmethod(
        contexts.set_code_variables_detect_secrets_context
    )
    get_distinct_id = staticmethod(contexts.get_context_distinct_id)
    get_context_distinct_id = staticmethod(contexts.get_context_distinct_id)
    get_context_session_id = staticmethod(contexts.get_context_session_id)
    get_context_device_id = staticmethod(contexts.get_context_device_id)

    # --- delivery ----------------------------------------------------------------------------------

    def delivery_scope(self, client: Leanbase | None = None, flush: FlushPolicy = "end") -> _ClientScope:
        """Collect the events captured inside the `with` and send them together when it ends.

        Events of any client are collected, in every thread and task that carries the context; what has
        gathered leaves earlier when it is `flush_at` events or 1 MiB, or has waited `flush_interval`. In
        `async def` code use `async with`: a thread sends, and the event loop goes on meanwhile.

        Args:
            client: Also send what this client has retained. Default: this client.
            flush: `"end"`, or `"each"` to let every capture send for itself.

        Returns:
            A context manager, also an asynchronous one, that gives a `DeliveryScope`, whose `receipt` says
            afterwards what became of the events. Leaving it takes as long as the send, at most
            `send_deadline` seconds, also when the body raised.

        Raises:
            ValueError: `flush` is neither.

        Example:
            >>> import leanbase
            >>> with leanbase.delivery_scope():
            ...     for order in range(3):
            ...         leanbase.capture("order created", distinct_id=order)
        """
        return _ClientScope(client or self, DeliveryScope(flush))

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    def _outboxes(self) -> list[Outbox]:
        """Whose retained events leave with a scope of this client."""
        return [self._current().outbox]

    def _close_scope(self, scope: DeliveryScope) -> Receipt:
        """Send what a delivery scope collected, and what this client has retained. Never raises."""
        try:
            return scope.close(*self._outboxes())
        except Exception as error:
            log_internal("delivery_scope", error)
            scope.abandon()
            return Receipt()

    def _close_scope_later(self, scope: DeliveryScope) -> None:
        """Let a thread do what `_close_scope` does. Does not block. Never raises."""
        try:
            scope.close_later(*self._outboxes())
        except Exception as error:
            log_internal("delivery_scope", error)
            scope.abandon()

    async def _close_scope_in_thread(self, scope: DeliveryScope) -> None:
        """Do what `_close_scope` does while the event loop goes on. Never raises."""
        try:
            await scope.close_in_thread(*self._outboxes())
        except Exception as error:
            log_internal("delivery_scope", error)
            scope.abandon()

    def _send_scope(self, scope: DeliveryScope, deadline: Deadline) -> Receipt:
        """Send everything that a delivery scope and this client have: the process is about to be killed.

        What other threads have in flight for the scope is sent again.
        """
        try:
            return scope.send(*self._outboxes(), deadline=deadline, take_over=True)
        except Exception as error:
            log_internal("delivery_scope", error)
            return Receipt()

    def flush(self, timeout: float | None = 10.0) -> Receipt:
        """Send everything that waits: collected in the open scope, or retained after a failure.

        Args:
            timeout: Most seconds to take; `None` for no limit but that of the retries.

        Returns:
            A receipt, true when everything was passed on. Blocks until then. Never raises.
        """
        try:
            seconds = _seconds(timeout, NO_TIME_LIMIT_SECONDS)
            return self._current().outbox.flush(timeout=seconds, last_chance="brief")
        except Exception as error:
            log_internal("flush", error)
            return Receipt()

    def shutdown(self, timeout: float | None = None) -> Receipt:
        """Send everything that waits, then close for good: later captures return `None`.

        On the module, `leanbase.shutdown()` forgets the default client instead, and the next call
        makes a new one; it can end every request.

        Args:
            timeout: Most seconds to take; `None` for `send_deadline`.

        Returns:
            A receipt of what was still waiting; what could not be delivered is dropped and reported
            to `on_error`. Blocks until then. Never raises; a second call does nothing.
        """
        return self._close(self._current(), timeout, "full")

    def _close(self, pipeline: Pipeline, timeout: float | None, last_chance: LastChance) -> Receipt:
        if pipeline.outbox.closed and not pipeline.outbox.has_pending():
            return Receipt()
        if pipeline.exception_hooks is not None:
            pipeline.exception_hooks.uninstall()
        try:
            limit = pipeline.settings.send_deadline
            return pipeline.outbox.close(timeout=_seconds(timeout, limit), last_chance=last_chance)
        except Exception as error:
            log_internal("shutdown", error)
            return Receipt()

    def _warm_up(self, timeout: float = 1.0) -> None:
        """Do now what the first send would do first: import the HTTP stack, open a connection.

        Args:
            timeout: Most seconds to take; `0` only imports. Failures are left to the first send.
        """
        try:
            self._current().outbox.warm_up(timeout=timeout)
        except Exception as error:
            log_internal("warm_up", error)

    def disconnect(self, timeout: float = 5.0) -> Receipt:
        """Send everything that is pending and close idle connections; the next send opens new ones.

        Use it when the process must hold no open connections, for example around a SnapStart snapshot.

        Args:
            timeout: Most seconds to take.

        Returns:
            A receipt, true when everything was passed on. Blocks until then. Never raises.
        """
        try:
            return self._current().outbox.disconnect(timeout=timeout)
        except Exception as error:
            log_internal("disconnect", error)
            return Receipt()

    def stats(self) -> Stats:
        """Return what became of the events captured by this process, see `leanbase.transports.receipt.Stats`.

        At any moment `captured` is the sum of `delivered`, `handed_off`, `spooled`, `retained` and
        all of `dropped`. Does not block.
        """
        return self._current().outbox.stats()

    # --- switches ----------------------------------------------------------------------------------

    @property
    def disabled(self) -> bool:
        """The kill switch, writable: no events, no requests. Also true without a key or host."""
        return self._current().outbox.disabled

    @disabled.setter
    def disabled(self, value: bool) -> None:
        self._current().disable(bool(value))

    @property
    def before_send(self) -> object:
        """The hook or hooks that see each event last, writable; see the option of the same name."""
        return self._current().hooks

    @before_send.setter
    def before_send(self, value: object) -> None:
        self._current().set_hooks(value)

    @property
    def debug(self) -> bool:
        """Whether the logger `leanbase` is at DEBUG, writable."""
        return self._debug

    @debug.setter
    def debug(self, value: bool) -> None:
        self._set_debug(bool(value))
        self._current().shows_events = bool(value)

    def _set_debug(self, value: bool) -> None:
        self._debug = value
        logger.setLevel(logging.DEBUG if value else logging.WARNING)
        if value and not logger.hasHandlers():
            handler = logging.StreamHandler()
            handler.addFilter(_is_said_by_nobody_else)
            handler.setFormatter(logging.Formatter("[leanbase] %(levelname)s %(message)s"))
            logger.addHandler(handler)

    def opt_out(self) -> None:
        """Capture nothing from now on, in all threads; what was captured before is delivered."""
        self._opted_out = True

    def opt_in(self) -> None:
        """Undo `opt_out`."""
        self._opted_out = False

    def is_opted_out(self) -> bool:
        """Return whether nothing is captured: opted out, or disabled."""
        return self._opted_out or self.disabled


Client = Leanbase


class _ClientScope:
    """A delivery scope with the client whose retained events leave when it closes."""

    def __init__(self, client: Leanbase, scope: DeliveryScope) -> None:
        self.scope = scope
        self._client = client
        self._activated = activate(scope)

    def __enter__(self) -> DeliveryScope:
        try:
            return self._activated.__enter__()
        except BaseException:  # an interrupt: nobody will leave what was not entered
            self._activated.__exit__()
            raise

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._client._close_scope(self.scope)
        except BaseException:
            self.scope.abandon()
            raise
        finally:
            self._activated.__exit__()

    async def __aenter__(self) -> DeliveryScope:
        self.scope.is_async = True
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._client._close_scope_in_thread(self.scope)
        except BaseException:
            self.scope.abandon()
            raise
        finally:
            self._activated.__exit__()


def _is_said_by_nobody_else(_: logging.LogRecord) -> bool:
    """Whether the program has not configured logging since, so that it would print each line as well."""
    return not (logger.propagate and logging.getLogger().handlers)


def _explicit_or_context(distinct_id: object) -> str | None:
    explicit = contexts.coerce_id(distinct_id)
    return contexts.get_context_distinct_id() if explicit is None else explicit


def _mapping_or_none(properties: object) -> Mapping[str, Any] | None:
    properties = resolved(properties)
    if properties is None or isinstance(properties, Mapping):
        return properties
    logger.warning("properties must be a mapping, not %s; left out", type(properties).__name__)
    return None


def _group_part(value: object, argument: str) -> str | int:
    value = resolved(value)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
        return value
    text = contexts.coerce_id(value)
    if text is None:
        raise InvalidEventError(f"needs a {argument}")
    return text


def _seconds(timeout: float | None, default: float) -> float:
    if timeout is None or not isinstance(timeout, (int, float)) or timeout != timeout:
        return default
    return min(max(0.0, timeout), NO_TIME_LIMIT_SECONDS)
