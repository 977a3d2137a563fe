"""The client: its public methods, and the path that every captured event takes.

Each event method describes its event in a `Draft` and passes it to `_emit`. The outbox decides when the
event is sent, and records its outcome.
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
from .flag_calls import FlagCalls
from .guard import event_call
from .messages import log_internal_error
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
    from .feature_flags import FeatureFlagEvaluations
    from .pipeline import Pipeline
    from .settings import FlagDefinitions, OnError, Settings, Transport
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
    """Show type checkers and editors the parameters of `Settings` for `__init__`.

    `options` is a function because the settings are imported only when a client is created.
    """
    return lambda init: init


class _Signature:
    """The signature of `Leanbase`: every option with its type and default. Built when it is read."""

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
    """A read-only attribute that returns an option. `__getattr__` would slow down every attribute access."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, client: Leanbase | None, owner: type) -> Any:
        return self if client is None else getattr(client._current().settings, self._name)

    def __set__(self, client: Leanbase, value: object) -> None:
        name = self._name
        raise AttributeError(f"{name} cannot be set on a client: create another client with {name}=")


@cache
def define_options() -> None:
    """Add every option to `Leanbase` as an attribute. Not done at import, which must be fast."""
    from .settings import option_names

    for name in option_names():
        if not hasattr(Leanbase, name):
            setattr(Leanbase, name, _Option(name))


class Leanbase(FlagCalls):
    """A synchronous, thread-safe client for one project.

    Outside a delivery scope, `capture` and the other event methods return when their event has an outcome,
    after `send_deadline` seconds at the latest. Inside a delivery scope (a decorated handler or job, or
    `delivery_scope`), they return at once, and the client sends the events together when the scope closes.
    With `sync_mode=False` they return at once everywhere, and a thread sends.

    Event methods raise only one exception: a TypeError if the arguments do not fit the signature.
    `leanbase.settings.Settings` lists the options. Used in a `with` statement, a client shuts down at the
    end of the block.

    Raises:
        ConfigError: An option can never work, such as a host that is not a URL. A missing key or host does
            not raise: the client is disabled and logs an error once.
        TypeError: A keyword is not an option.

    Examples:
        >>> from leanbase.transports import MemoryTransport
        >>> client = Leanbase("phc_key", transport=MemoryTransport())
        >>> uuid = client.capture("order created", distinct_id="user_1", properties={"total": 42})
        >>> client.stats()["delivered"]
        1
    """

    __signature__ = _Signature()

    if TYPE_CHECKING:
        # The options, for type checkers and editors. A test compares them with `Settings`.
        api_key: str | None
        host: str | None
        project_api_key: str | None
        transport: str | Transport
        fallback: str | Transport | None
        queue_url: str | None
        spool_directory: str | None
        spool_fsync: bool
        spool_max_bytes: int
        sigterm_grace: float | None
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
        secret_key: str | None
        flag_definitions: FlagDefinitions | None
        flags_ttl: float
        flags_max_age: float
        flags_timeout: float
        flags_max_retries: int
        flags_only_evaluate_locally: bool
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
        from .pipeline import Pipeline  # imported lazily to keep `import leanbase` fast
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
        """Raise AttributeError for a name that does not exist: setting it would have no effect."""
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{name} cannot be set on a client: there is no such option")
        super().__setattr__(name, value)

    def __copy__(self: T) -> T:
        return self  # a client owns threads, connections and a ledger, so it cannot be duplicated

    def __deepcopy__(self: T, memo: object) -> T:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: it holds connections and locks. "
            "Create one in the other process, from the same settings"
        )

    def _current(self) -> Pipeline:
        return self._pipeline

    def _admits(self) -> bool:
        """Return True if the client accepts events. After a shutdown, drop the event and log it."""
        outbox = self._current().outbox
        if outbox.disabled or self._opted_out:
            return False
        if outbox.closed and outbox is self._current().outbox:
            self._refuse()
            return False
        return True

    def _emit(self, draft: Draft) -> str | None:
        """Build the event and put it into the outbox. `event_call` turns exceptions into logged drops."""
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
            # Another thread shut the default client down, and it already has a new outbox.
            try:
                return event.uuid if pipeline.outbox.put(event) else None
            except ClosedError:
                continue

    @event_call
    def _emit_flag_event(self, draft: Draft) -> str | None:
        return self._emit(draft)

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
        flags: FeatureFlagEvaluations | None = None,
        send_feature_flags: bool | Mapping[str, Any] | None = None,
    ) -> str | None:
        """Capture an event. A page view is the event `"$pageview"` with the property `$current_url`.

        Args:
            event: The event's name. It must not be blank.
            distinct_id: The user's id: a string, number or UUID. Default: the id of the context. Without
                either, the event is sent without a person profile.
            properties: The event's properties. Values may have any type: a value without a JSON equivalent
                becomes a readable string. The properties are copied before this method returns.
            timestamp: When the event happened: a `datetime`, an ISO 8601 string, or seconds or milliseconds
                since the epoch. Default: now. A timestamp without an offset is read as UTC. If it lies in
                the last five seconds of local time, as from `datetime.now()`, it is read as local time.
            uuid: The event's id: a `UUID` or its string. Default: a new UUIDv7, or a derived UUIDv5 in an
                idempotent handler.
            groups: The groups that the event belongs to, such as `{"company": "acme"}`.
            disable_geoip: `True` tells the server not to look up the location of the sender's address.
                Default: the client's option.
            flags: The result of `evaluate_flags`. Its values become properties of the event.
            send_feature_flags: Evaluates the flags again for this event, as in similar SDKs. Prefer `flags`.

        Returns:
            The event's uuid, exactly as sent. `None` if the client is disabled, opted out or shut down. Also
            `None` if the event is invalid or too large, a hook dropped it, or a full buffer has no room. For
            later outcomes see `stats()` and `on_error`.

        Blocks until the event has an outcome, at most `send_deadline` seconds. Inside a delivery scope it
        returns at once, unless it sends because the scope is full (see `delivery_scope`). Raises only a
        TypeError, if the arguments do not fit the signature.

        Examples:
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
        if flags is not None or send_feature_flags:
            draft.flags = self._flags_of_event(flags, send_feature_flags, draft)
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
        """Set properties of a person, and replace earlier values.

        Args:
            distinct_id: The person's id. Default: the id of the context. Without either, nothing is sent and
                a warning is logged.
            properties: The properties to set. They must not be empty.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.

        Returns:
            The event's uuid, or `None` if the event was not admitted. Blocks like `capture`.
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
        """Set properties of a person that have no value yet. Arguments and result are those of `set`."""
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
            raise InvalidEventError("distinct_id is missing: pass it, or set it with identify_context()")
        properties = resolved(properties)
        if not isinstance(properties, Mapping) or not properties:
            raise InvalidEventError("properties must be a non-empty mapping")
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
        """Identify a person, and optionally set properties. Does not change the active context.

        Args:
            distinct_id: The person's id. The id of the context is not used as a default.
            properties: Properties to set. They replace earlier values.
            set_once: Properties to set if they have no value yet.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.

        Returns:
            The event's uuid, or `None` if the event was not admitted. Blocks like `capture`.
        """
        person = contexts.coerce_id(distinct_id)
        if person is None:
            raise InvalidEventError("distinct_id is missing")
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
        """Link an earlier id to the id of a person.

        Args:
            previous_id: The id to link, for example an anonymous one.
            distinct_id: The id of the person. Default: the id of the context. Without either, nothing is
                sent and a warning is logged.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.

        Returns:
            The event's uuid, or `None` if the event was not admitted. Blocks like `capture`.
        """
        previous = contexts.coerce_id(previous_id)
        if previous is None:
            raise InvalidEventError("previous_id is missing")
        new = _explicit_or_context(distinct_id)
        if new is None:
            raise InvalidEventError("distinct_id is missing: pass it, or set it with identify_context()")
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
        """Set properties of a group. To add an event to a group, pass `groups=` to `capture`.

        Args:
            group_type: The type of the group, such as `"company"`.
            group_key: The key of the group, such as `"acme"`. `0` is a valid key.
            properties: Properties of the group.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            disable_geoip: As for `capture`.
            distinct_id: The id of the user who caused the change. Default: the id of the context, or an id
                made from type and key.

        Returns:
            The event's uuid, or `None` if the event was not admitted. Blocks like `capture`.
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
        flags: FeatureFlagEvaluations | None = None,
        send_feature_flags: bool | Mapping[str, Any] | None = None,
    ) -> str | None:
        """Capture an exception with its chain, its stack frames and the source around them.

        Args:
            exception: The exception. Default: the exception that the current `except` block handles. Also
                accepted: the result of `sys.exc_info()`, an exception class, a message, a
                `traceback.TracebackException`, and a mapping or object with a message or a traceback as a
                string. Any other object is captured as its `str()`.
            distinct_id: As for `capture`.
            properties: As for `capture`. Properties that describe the exception itself are left out.
            timestamp: As for `capture`.
            uuid: As for `capture`.
            groups: As for `capture`.
            disable_geoip: As for `capture`.
            level: `"fatal"`, `"error"`, `"warning"`, `"log"`, `"info"`, `"debug"`, or a level number of the
                module `logging`. Default: `"error"`.
            fingerprint: Events with the same fingerprint belong to the same issue. Default: the server
                groups the events.
            flags: As for `capture`.
            send_feature_flags: As for `capture`.

        Returns:
            The event's uuid. `None` if the event was not admitted, or if this client has already captured
            this exception object in the same outermost context. Blocks like `capture`.

        Examples:
            >>> import leanbase
            >>> try:
            ...     1 / 0
            ... except ZeroDivisionError as error:
            ...     uuid = leanbase.capture_exception(error, distinct_id="user_1")
        """
        from .error_tracking.metadata import BY_HAND, Metadata, normalized_level

        if level is not None and normalized_level(level) is None:
            logger.warning(
                "level must be a name such as 'error' or a number of the logging module; 'error' is used"
            )
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
        if flags is not None or send_feature_flags:
            draft.flags = self._flags_of_event(flags, send_feature_flags, draft)
        return self._emit_exception(exception, draft, Metadata(level), BY_HAND, fingerprint=fingerprint)

    def report_exception(
        self,
        exception: object,
        *metadata: Metadata,
        properties: Mapping[str, Any] | None = None,
        stack: Sequence[Call] | None = None,
        distinct_id: object = None,
        uuid: object = None,
    ) -> str | None:
        """Capture an exception at a boundary. For integrations.

        Args:
            exception: As for `capture_exception`.
            metadata: How the exception was captured, the most specific first.
            properties: As for `capture`.
            stack: The stack to show if the exception has none. Default: the caller's stack.
            distinct_id: As for `capture`.
            uuid: As for `capture`.

        Returns:
            As for `capture_exception`. Also `None` if the default client lacks settings. Blocks like
            `capture`. Never raises.
        """
        if not self._is_configured():
            return None
        return self._report_exception(
            exception, *metadata, properties=properties, stack=stack, distinct_id=distinct_id, uuid=uuid
        )

    @event_call
    def _report_exception(
        self,
        exception: object,
        *metadata: Metadata,
        properties: object,
        stack: Sequence[Call] | None,
        distinct_id: object,
        uuid: object,
    ) -> str | None:
        person = _explicit_or_context(distinct_id)
        draft = Draft("$exception", properties, person, None, uuid, None, with_runtime=True)
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

    # --- contexts: the functions of `events/contexts.py`, as methods -------------------------------

    def new_context(
        self, fresh: bool = False, capture_exceptions: bool | None = None, client: Leanbase | None = None
    ) -> contexts.new_context:
        """Open a context. Tags and identity that are set inside it end with it.

        An `Exception` that leaves the context is captured with the tags and identity of the context, and
        then propagates unchanged. Outer contexts do not capture it again.

        Args:
            fresh: `True` starts with an empty context. By default, values that are not set inside the
                context are inherited from the outer context.
            capture_exceptions: `False` captures no exceptions. By default they are captured.
            client: The client that captures exceptions. Default: this client.

        Returns:
            A context manager for a plain `with`, also in `async def` code. Never raises. Leaving it blocks
            like `capture` if an exception is captured; otherwise it does not block.

        Examples:
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
        """Run a function in a context of its own. This is the decorator form of `new_context`.

        Works with plain, `async`, generator and async generator functions. A generator's context is active
        while its body runs, and hidden from the code that consumes its items. Place this decorator
        innermost, next to `def`.

        Args:
            fresh: As for `new_context`.
            capture_exceptions: As for `new_context`.
            client: As for `new_context`.

        Examples:
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
        return (client or self)._on_context_exception

    def _on_context_exception(self, error: BaseException | None) -> None:
        self._capture_escaping(error, "CONTEXT")

    def _capture_escaping(
        self, error: BaseException | None, boundary: str, properties: Mapping[str, Any] | None = None
    ) -> None:
        """Capture an `Exception` that leaves a boundary, named as in `leanbase.error_tracking.metadata`.

        Other exceptions, such as `SystemExit`, are not captured.
        """
        if issubclass(type(error), Exception):
            from .error_tracking import metadata

            self.report_exception(error, getattr(metadata, boundary), properties=properties)

    def _is_configured(self) -> bool:
        """Return True if exceptions may be captured automatically. The default client needs settings."""
        return True

    def _sigterm_grace(self) -> float | None:
        """Return the option `sigterm_grace`: the seconds from SIGTERM to SIGKILL, or `None` if not set."""
        return self._current().settings.sigterm_grace

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
        """Collect the events captured inside the `with` block and send them together when it ends.

        The scope collects the events of every client, in every thread and task that carries the context.
        The capture that brings a client to `flush_at` events or 1 MiB sends that client's events at once. So
        does the first capture after the oldest event has waited `flush_interval` seconds. In `async def` code
        use `async with`: a thread sends while the event loop continues.

        Args:
            client: The client whose retained events are sent as well. Default: this client.
            flush: `"end"` collects. `"each"` makes every capture send its own event.

        Returns:
            A context manager for `with` and `async with`. It yields a `DeliveryScope`, whose `receipt` has
            the outcomes of the events after the block.

        Leaving the block sends the events, even if the body raised. Plain `with` blocks for the send, at
        most `send_deadline` seconds for each client.

        Raises:
            ValueError: `flush` is neither `"end"` nor `"each"`.

        Examples:
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
        """Return the outboxes whose retained events are sent when a scope of this client closes."""
        return [self._current().outbox]

    def _close_scope(self, scope: DeliveryScope) -> Receipt:
        """Send the events of a delivery scope and the retained events of this client. Never raises."""
        try:
            return scope.close(*self._outboxes())
        except Exception as error:
            log_internal_error("delivery_scope()", error)
            scope.abandon()
            return Receipt.unknown(error)

    def _close_scope_later(self, scope: DeliveryScope) -> None:
        """Close a delivery scope and let a thread send. Does not block. Never raises."""
        try:
            scope.close_later(*self._outboxes())
        except Exception as error:
            log_internal_error("delivery_scope()", error)
            scope.abandon()

    async def _close_scope_in_thread(self, scope: DeliveryScope) -> None:
        """Close a delivery scope while a thread sends and the event loop continues. Never raises."""
        try:
            await scope.close_in_thread(*self._outboxes())
        except Exception as error:
            log_internal_error("delivery_scope()", error)
            scope.abandon()

    def _send_scope(self, scope: DeliveryScope, deadline: Deadline) -> Receipt:
        """Send all events of a delivery scope and of this client, because the process is about to be killed.

        Resends events that other threads have in flight for the scope.
        """
        try:
            return scope.send(*self._outboxes(), deadline=deadline, take_over=True)
        except Exception as error:
            log_internal_error("delivery_scope()", error)
            return Receipt.unknown(error)

    def flush(self, timeout: float | None = 10.0) -> Receipt:
        """Send all pending events: collected in the open delivery scope, buffered, or retained.

        Args:
            timeout: The maximum number of seconds. `None` sets no limit: the call returns after the last
                retry.

        Returns:
            A receipt, which is true if every event was passed on. Blocks until the send has finished. Never
            raises.
        """
        try:
            seconds = _seconds(timeout, NO_TIME_LIMIT_SECONDS)
            return self._current().outbox.flush(timeout=seconds, last_chance="brief")
        except Exception as error:
            log_internal_error("flush()", error)
            return Receipt.unknown(error)

    def shutdown(self, timeout: float | None = None) -> Receipt:
        """Send all pending events, then close the client for good. Later captures return `None`.

        The module's function `leanbase.shutdown()` is different: it resets the default client, and the next
        call configures it again. A program may call it at the end of every request.

        Args:
            timeout: The maximum number of seconds. `None` means `send_deadline`.

        Returns:
            A receipt for the events that were pending. Events that could not be delivered are dropped and
            reported to `on_error`. Blocks until the send has finished. Never raises. A second call does
            nothing.
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
            log_internal_error("shutdown()", error)
            return Receipt.unknown(error)
        finally:
            pipeline.disconnect_flags()

    def _warm_up(self, timeout: float = 1.0) -> None:
        """Import the HTTP stack and open a connection now, so that the first send is faster.

        Also load flag definitions, if `flag_definitions` says where they are.

        Args:
            timeout: The maximum number of seconds. `0` only imports. Failures are not reported: the first
                send reports them.
        """
        try:
            pipeline = self._current()
            pipeline.outbox.warm_up(timeout=timeout)
            pipeline.warm_up_flags(timeout)
        except Exception as error:
            log_internal_error("warm_up()", error)

    def disconnect(self, timeout: float | None = 5.0) -> Receipt:
        """Send all pending events and close idle connections. The next send opens new ones.

        Use it when the process must hold no open connections, for example around a SnapStart snapshot.

        Args:
            timeout: The maximum number of seconds. `None` means `send_deadline`.

        Returns:
            A receipt, which is true if every event was passed on. Blocks until the send has finished. Never
            raises.
        """
        try:
            pipeline = self._current()
            pipeline.disconnect_flags()
            return pipeline.outbox.disconnect(timeout=_seconds(timeout, pipeline.settings.send_deadline))
        except Exception as error:
            log_internal_error("disconnect()", error)
            return Receipt.unknown(error)

    def stats(self) -> Stats:
        """Return how many events this client captured in this process, and how many had each outcome.

        At any moment `captured` is the sum of `delivered`, `handed_off`, `spooled`, `retained` and all
        values of `dropped`. See `leanbase.transports.receipt.Stats`. Does not block.
        """
        return self._current().outbox.stats()

    # --- switches ----------------------------------------------------------------------------------

    @property
    def disabled(self) -> bool:
        """Whether the client is disabled: it captures and sends nothing. Writable.

        Always true while a required setting is missing, such as the API key or the host.
        """
        return self._current().outbox.disabled

    @disabled.setter
    def disabled(self, value: bool) -> None:
        self._current().disable(bool(value))

    @property
    def before_send(self) -> object:
        """The hooks called with each event before it is sent, as in the option of this name. Writable."""
        return self._current().hooks

    @before_send.setter
    def before_send(self, value: object) -> None:
        self._current().set_hooks(value)

    @property
    def debug(self) -> bool:
        """Whether the logger `leanbase` logs at DEBUG. Writable."""
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
            handler.addFilter(_no_other_handler)
            handler.setFormatter(logging.Formatter("[leanbase] %(levelname)s %(message)s"))
            logger.addHandler(handler)

    def opt_out(self) -> None:
        """Stop capturing, in all threads. Events captured earlier are still delivered."""
        self._opted_out = True

    def opt_in(self) -> None:
        """Start capturing again after `opt_out`."""
        self._opted_out = False

    def is_opted_out(self) -> bool:
        """Return True if the client captures nothing: it is opted out or disabled."""
        return self._opted_out or self.disabled


Client = Leanbase


class _ClientScope:
    """A delivery scope, and the client whose retained events are sent when it closes."""

    def __init__(self, client: Leanbase, scope: DeliveryScope) -> None:
        self.scope = scope
        self._client = client
        self._activated = activate(scope)

    def __enter__(self) -> DeliveryScope:
        try:
            return self._activated.__enter__()
        except BaseException:  # an interrupt: Python calls no `__exit__` if `__enter__` raised
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


def _no_other_handler(_: logging.LogRecord) -> bool:
    """Return False once the program has configured logging, which then prints each record itself."""
    return not (logger.propagate and logging.getLogger().handlers)


def _explicit_or_context(distinct_id: object) -> str | None:
    explicit = contexts.coerce_id(distinct_id)
    return contexts.get_context_distinct_id() if explicit is None else explicit


def _mapping_or_none(properties: object) -> Mapping[str, Any] | None:
    properties = resolved(properties)
    if properties is None or isinstance(properties, Mapping):
        return properties
    logger.warning("properties must be a mapping, not %s; it is ignored", type(properties).__name__)
    return None


def _group_part(value: object, argument: str) -> str | int:
    value = resolved(value)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
        return value
    text = contexts.coerce_id(value)
    if text is None:
        raise InvalidEventError(f"{argument} is missing")
    return text


def _seconds(timeout: float | None, default: float) -> float:
    if timeout is None or not isinstance(timeout, (int, float)) or timeout != timeout:
        return default
    return min(max(0.0, timeout), NO_TIME_LIMIT_SECONDS)
