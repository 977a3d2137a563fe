"""The feature flag methods of a client. The first call imports the package `feature_flags`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial, wraps

from .events import contexts, idempotency
from .events.event import Draft
from .events.proxies import resolved
from .interrupts import raise_interrupt
from .messages import log_internal_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Concatenate, ParamSpec, TypeVar

    from .feature_flags import FeatureFlagEvaluations, FeatureFlagResult
    from .feature_flags.exposures import Exposure
    from .feature_flags.flags import FeatureFlags
    from .feature_flags.snapshot import Evaluation, FlagValue, Record
    from .pipeline import Pipeline

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T", bound="FlagCalls")

logger = logging.getLogger("leanbase")

_override: Any = None


def override_flags(flags: Any) -> None:
    """Make every client evaluate flags with this object. `None` restores their own. For tests."""
    global _override
    _override = flags


PROPERTIES = "properties_for_flags"
"""Key of the properties that a context has for all evaluations: of the person, and of groups by type."""

_NO_PROPERTIES: tuple[dict[str, Any], dict[str, dict[str, Any]]] = ({}, {})


def _flag_call(
    default: Callable[[], Any],
) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[T, P], R]]:
    """Turn every failure of a flag call into a log record and a default (G-1)."""

    def decorate(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
        @wraps(method)
        def call(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except RecursionError:
                pass  # the application's own recursion has left no room for the call
            except Exception as error:
                raise_interrupt(error)
                if isinstance(error, TypeError):
                    _check_arguments(method, self, args, kwargs)
                log_internal_error(f"{method.__name__}()", error)
            result: R = default()
            return result

        return call

    return decorate


def _check_arguments(method: Callable[..., Any], self: object, args: Any, kwargs: Any) -> None:
    from inspect import signature

    try:
        signature(method).bind(self, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{method.__name__}() {error}") from None


def _nothing() -> FeatureFlagEvaluations:
    from .feature_flags import FeatureFlagEvaluations
    from .feature_flags.snapshot import Evaluation

    return FeatureFlagEvaluations(Evaluation(None, {}))


class FlagCalls:
    """The feature flag methods of `Leanbase`."""

    def _current(self) -> Pipeline:
        raise NotImplementedError

    def _emit_flag_event(self, draft: Draft) -> str | None:
        raise NotImplementedError

    @_flag_call(_nothing)
    def evaluate_flags(
        self,
        distinct_id: object = None,
        *,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        disable_geoip: bool | None = None,
        flag_keys: Sequence[str] | None = None,
        device_id: object = None,
    ) -> FeatureFlagEvaluations:
        """Evaluate flags once, and return their values for one person.

        The client evaluates a flag itself if its definition is loaded and decides the value. It asks the
        server about all other flags, in at most one request. All evaluations inside one handler, job or
        request use the same definitions.

        Args:
            distinct_id: The person's id. Default: the id of the context. Without either, the result is empty.
            groups: The groups of the person, such as `{"company": "acme"}`.
            person_properties: Properties of the person for the flags' conditions. They win over the
                properties that the server has.
            group_properties: The same for groups, by type: `{"company": {"plan": "pro"}}`.
            only_evaluate_locally: `True` never asks the server.
            disable_geoip: As for `capture`.
            flag_keys: The flags to evaluate. Default: all.
            device_id: The device id, for flags that are rolled out by device. Default: the device id of the
                context.

        Returns:
            The values. A flag that could not be evaluated has no value, and reads as its default.

        Blocks for the request, if there is one: at most `flags_timeout` seconds for each attempt, and not
        beyond the deadline of the handler. It also waits, at most 1 s, for missing or old definitions. After
        a failure it does not wait for them again for 30 s. Raises only a TypeError, if the arguments do not
        fit the signature.

        Examples:
            >>> import leanbase
            >>> flags = leanbase.evaluate_flags("user_1", person_properties={"plan": "pro"})
            >>> flags.is_enabled("checkout")
            False
        """
        return self._evaluation(
            distinct_id,
            groups,
            person_properties,
            group_properties,
            disable_geoip,
            device_id,
            keys=flag_keys,
            only_locally=only_evaluate_locally,
        ).snapshot(self._report)

    @_flag_call(lambda: None)
    def get_feature_flag_result(
        self,
        key: str,
        distinct_id: object = None,
        *,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        send_feature_flag_events: bool = True,
        disable_geoip: bool | None = None,
        device_id: object = None,
    ) -> FeatureFlagResult | None:
        """Evaluate one flag, and return its value and payload; `None` if it has no value.

        The server may give two calls different values; `evaluate_flags` gives consistent values. Captures
        the event `$feature_flag_called`, unless `send_feature_flag_events` is `False`. The other arguments
        are those of `evaluate_flags`. This method blocks and raises as `evaluate_flags` does.
        """
        flags = self._one(
            key, distinct_id, groups, person_properties, group_properties, disable_geoip, device_id,
            only_evaluate_locally,
        )  # fmt: skip
        flags.get_flag(key, send_feature_flag_events=send_feature_flag_events)
        return flags.get_result(key)

    @_flag_call(lambda: None)
    def get_feature_flag(
        self,
        key: str,
        distinct_id: object = None,
        *,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        send_feature_flag_events: bool = True,
        disable_geoip: bool | None = None,
        device_id: object = None,
    ) -> FlagValue | None:
        """Evaluate one flag, and return its variant, `True` or `False`; `None` if it has no value.

        See `get_feature_flag_result`, and prefer `evaluate_flags` for more than one read.
        """
        flags = self._one(
            key, distinct_id, groups, person_properties, group_properties, disable_geoip, device_id,
            only_evaluate_locally,
        )  # fmt: skip
        return flags.get_flag(key, send_feature_flag_events=send_feature_flag_events)

    def feature_enabled(
        self,
        key: str,
        distinct_id: object = None,
        *,
        default_value: bool | None = None,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        send_feature_flag_events: bool = True,
        disable_geoip: bool | None = None,
        device_id: object = None,
    ) -> bool | None:
        """Evaluate one flag, and return whether it is on; `default_value` if it has no value.

        See `get_feature_flag_result`, and prefer `evaluate_flags` for more than one read.
        """
        value = self.get_feature_flag(
            key,
            distinct_id,
            groups=groups,
            person_properties=person_properties,
            group_properties=group_properties,
            only_evaluate_locally=only_evaluate_locally,
            send_feature_flag_events=send_feature_flag_events,
            disable_geoip=disable_geoip,
            device_id=device_id,
        )
        return default_value if value is None else value is not False

    is_feature_enabled = feature_enabled

    @_flag_call(lambda: None)
    def get_feature_flag_payload(
        self,
        key: str,
        distinct_id: object = None,
        *,
        match_value: FlagValue | None = None,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        send_feature_flag_events: bool = False,
        disable_geoip: bool | None = None,
        device_id: object = None,
    ) -> Any:
        """Evaluate one flag, and return its decoded payload, or `None`.

        With `match_value`, return the payload of that value instead, where the definitions are loaded. See
        `get_feature_flag_result`, and prefer `evaluate_flags` for more than one read.
        """
        flags = self._one(
            key, distinct_id, groups, person_properties, group_properties, disable_geoip, device_id,
            only_evaluate_locally,
        )  # fmt: skip
        if send_feature_flag_events:
            flags.get_flag(key)
        if match_value is not None and flags.get_flag(key, send_feature_flag_events=False) is not None:
            return self._flags().payload_of(key, match_value, flags)
        return flags.get_flag_payload(key)

    @_flag_call(dict)
    def get_all_flags(
        self,
        distinct_id: object = None,
        *,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        disable_geoip: bool | None = None,
        flag_keys_to_evaluate: Sequence[str] | None = None,
        device_id: object = None,
    ) -> dict[str, FlagValue]:
        """Evaluate flags, and return their values by key. Captures no event.

        See `evaluate_flags`, also for the arguments.
        """
        return self._evaluation(
            distinct_id, groups, person_properties, group_properties, disable_geoip, device_id,
            keys=flag_keys_to_evaluate, only_locally=only_evaluate_locally,
        ).values()  # fmt: skip

    @_flag_call(lambda: {"featureFlags": {}, "featureFlagPayloads": {}})
    def get_all_flags_and_payloads(
        self,
        distinct_id: object = None,
        *,
        groups: Mapping[str, Any] | None = None,
        person_properties: Mapping[str, Any] | None = None,
        group_properties: Mapping[str, Mapping[str, Any]] | None = None,
        only_evaluate_locally: bool = False,
        disable_geoip: bool | None = None,
        flag_keys_to_evaluate: Sequence[str] | None = None,
        device_id: object = None,
    ) -> dict[str, dict[str, Any]]:
        """Evaluate flags, and return `featureFlags` and `featureFlagPayloads`, each by key.

        Payloads are JSON strings. Captures no event. See `evaluate_flags`, also for the arguments.
        """
        evaluation = self._evaluation(
            distinct_id, groups, person_properties, group_properties, disable_geoip, device_id,
            keys=flag_keys_to_evaluate, only_locally=only_evaluate_locally,
        )  # fmt: skip
        payloads = {
            key: text
            for key, record in evaluation.records.items()
            if record.value is not None and (text := record.payload_text()) is not None
        }
        return {"featureFlags": evaluation.values(), "featureFlagPayloads": payloads}

    @_flag_call(lambda: None)
    def get_remote_config_payload(self, key: str) -> Any:
        """Ask the server for the decrypted payload of a flag. Needs `secret_key`.

        Returns:
            The decoded payload, or `None`. Blocks at most `flags_timeout` seconds. Never raises.
        """
        return None if self._is_off() else self._flags().remote_config(str(resolved(key)))

    @_flag_call(lambda: False)
    def load_feature_flags(self) -> bool:
        """Load the flag definitions now, even while requests for them are paused after failures.

        Returns:
            Whether definitions are loaded. Blocks at most 10 s. Never raises.
        """
        if self._is_off():
            return False
        from .delivery.scope import send_deadline

        return self._flags().load(send_deadline(10.0))

    @_flag_call(lambda: None)
    def feature_flag_definitions(self) -> list[Mapping[str, Any]] | None:
        """Return the loaded flag definitions, in the format of the server, or `None`. Does not block."""
        store = None if self._is_off() else self._flags().store
        return None if store is None or store.current is None else store.current.raw_flags()

    # --- properties for later evaluations -----------------------------------------------------------------

    @_flag_call(lambda: None)
    def set_person_properties_for_flags(self, properties: Mapping[str, Any]) -> None:
        """Add properties of the person to every later evaluation in this context.

        Outside a context, adds them to every evaluation of this client. Properties that are passed to a call
        win. Never blocks, never raises.
        """
        person, groups = self._stored_properties()
        self._store_properties({**person, **_mapping(properties, "properties")}, groups)

    @_flag_call(lambda: None)
    def set_group_properties_for_flags(
        self, group_type: str, group_key: object, properties: Any = None
    ) -> None:
        """Add properties of a group to every later evaluation in this context.

        Args:
            group_type: The type of the group.
            group_key: The key of the group, or the properties if there is no third argument.
            properties: The properties.

        See `set_person_properties_for_flags`.
        """
        given = group_key if properties is None else properties
        person, groups = self._stored_properties()
        before = groups.get(group_type, {})
        if properties is not None and group_key is not None:
            key = str(resolved(group_key))
            before = {**(before if before.get("$group_key") == key else {}), "$group_key": key}
        of_type = {**before, **_mapping(given, "properties")}
        self._store_properties(person, {**groups, group_type: of_type})

    @_flag_call(lambda: None)
    def reset_person_properties_for_flags(self) -> None:
        """Forget the properties of `set_person_properties_for_flags`. Never blocks, never raises."""
        self._store_properties({}, self._stored_properties()[1])

    @_flag_call(lambda: None)
    def reset_group_properties_for_flags(self) -> None:
        """Forget the properties of `set_group_properties_for_flags`. Never blocks, never raises."""
        self._store_properties(self._stored_properties()[0], {})

    def _stored_properties(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        found: Any = contexts.override(PROPERTIES)
        if found is None:
            found = vars(self).get("_properties_for_flags", _NO_PROPERTIES)
        return found[0], found[1]

    def _store_properties(self, person: dict[str, Any], groups: dict[str, dict[str, Any]]) -> None:
        if not contexts.set_override(PROPERTIES, (person, groups)):
            vars(self)["_properties_for_flags"] = person, groups

    # --- what the calls have in common --------------------------------------------------------------------

    def _flags(self) -> FeatureFlags:
        return self._current().flags if _override is None else _override

    def _has_fresh_flags(self) -> bool:
        """Return True if flags can be evaluated locally without waiting for definitions."""
        store = self._flags().store
        return _override is not None or (store is not None and store.is_fresh())

    def _is_off(self) -> bool:
        pipeline = self._current()
        settings = pipeline.settings
        return pipeline.outbox.disabled or not (_override or (settings.host and settings.send))

    def _one(
        self,
        key: str,
        distinct_id: object,
        groups: Mapping[str, Any] | None,
        person_properties: Mapping[str, Any] | None,
        group_properties: Mapping[str, Mapping[str, Any]] | None,
        disable_geoip: bool | None,
        device_id: object,
        only_locally: bool,
    ) -> FeatureFlagEvaluations:
        return self._evaluation(
            distinct_id, groups, person_properties, group_properties, disable_geoip, device_id,
            keys=[str(resolved(key))], only_locally=only_locally,
        ).snapshot(self._report)  # fmt: skip

    def _evaluation(
        self,
        distinct_id: object,
        groups: Mapping[str, Any] | None,
        person_properties: Mapping[str, Any] | None,
        group_properties: Mapping[str, Mapping[str, Any]] | None,
        disable_geoip: bool | None,
        device_id: object,
        *,
        keys: Sequence[str] | None,
        only_locally: bool,
    ) -> Evaluation:
        person = contexts.coerce_id(distinct_id)
        person = contexts.get_context_distinct_id() if person is None else person
        pipeline = self._current()
        if person is None or self._is_off():
            from .feature_flags.snapshot import Evaluation

            return Evaluation(None, {})
        stored, stored_of_groups = self._stored_properties()
        device = None if device_id is None else contexts.coerce_id(device_id)
        without_geoip = None if disable_geoip is None else resolved(disable_geoip)
        if not isinstance(without_geoip, bool):
            without_geoip = pipeline.settings.disable_geoip
        groups_of_person = {} if groups is None else _groups(groups)
        return (pipeline.flags if _override is None else _override).evaluate(
            person,
            groups_of_person,
            {**stored, **_mapping(person_properties, "person_properties")},
            _of_groups(stored_of_groups, _mapping(group_properties, "group_properties"), groups_of_person),
            contexts.get_context_device_id() if device is None else device,
            without_geoip=without_geoip,
            keys=None if keys is None else list(dict.fromkeys([keys] if isinstance(keys, str) else keys)),
            only_locally=only_locally is True,
        )

    # --- reports --------------------------------------------------------------------------------------

    def _flags_of_event(
        self, flags: object, send_feature_flags: object, draft: Draft
    ) -> dict[str, Any] | None:
        """Return the flag properties of an event, or `None`."""
        from .feature_flags import FeatureFlagEvaluations

        if flags is not None:
            if send_feature_flags:
                _warn_once("send_feature_flags is ignored beside flags")
            if isinstance(flags, FeatureFlagEvaluations):
                return flags.event_properties()
            kind = type(flags).__name__
            logger.warning("flags must be the result of evaluate_flags(), not %s; it is ignored", kind)
            return None
        _warn_once(
            "send_feature_flags evaluates the flags once more for each event: "
            "call evaluate_flags() once, and pass its result as flags="
        )
        options = resolved(send_feature_flags)
        options = options if isinstance(options, Mapping) else {}
        groups: Any = draft.groups
        evaluation = self._evaluation(
            draft.distinct_id,
            groups,
            options.get("person_properties"),
            options.get("group_properties"),
            draft.disable_geoip,
            None,
            keys=options.get("flag_keys_filter"),
            only_locally=options.get("only_evaluate_locally") is True,
        )
        return evaluation.snapshot().event_properties()

    def _report(self, evaluation: Evaluation, key: str, record: Record | None) -> None:
        """Report a read of a flag, unless it was reported before. Never raises."""
        if evaluation.distinct_id is None:
            return
        try:
            from .feature_flags.exposures import exposures_of

            reported = self._flags().reported
            for exposure in exposures_of(evaluation, key, record):
                reported.once(exposure.key, partial(self._captured, evaluation, exposure))
        except Exception as error:
            raise_interrupt(error)
            log_internal_error("the report of a feature flag", error)

    def _captured(self, evaluation: Evaluation, exposure: Exposure) -> bool:
        """Capture one event, and return True if it counts as reported: sent, or dropped by `before_send`."""
        built = False

        def finalize(properties: dict[str, Any]) -> None:
            nonlocal built
            built = True
            exposure.finalize(properties)

        work = idempotency.current()
        uuid = None if work is None else work.uuid_of(f"{exposure.name}/{exposure.key.hex()}")
        draft = Draft(
            exposure.name,
            {**exposure.properties, **exposure.fixed},
            evaluation.distinct_id,
            None,
            uuid,
            None,
            groups=evaluation.groups or None,
            with_runtime=True,
            finalize=finalize,
        )
        return self._emit_flag_event(draft) is not None or (built and bool(self._current().hooks))


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _mapping(given: object, argument: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if type(given) is dict:
        return given
    given = resolved(given)
    if isinstance(given, Mapping):
        return given
    logger.warning("%s must be a mapping, not %s; it is ignored", argument, type(given).__name__)
    return {}


def _of_groups(
    stored: Mapping[str, Any], given: Mapping[str, Any], groups: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the properties of groups by type, without properties that were stored for another group."""
    if not stored and not given:
        return {}
    fitting = {
        kind: each
        for kind, each in stored.items()
        if "$group_key" not in each or each["$group_key"] == groups.get(kind)
    }
    return {
        str(kind): {**fitting.get(kind, {}), **_mapping(given.get(kind), "group_properties")}
        for kind in {**fitting, **given}
    }


def _groups(given: object) -> dict[str, str]:
    found = {str(kind): contexts.coerce_id(key) for kind, key in _mapping(given, "groups").items()}
    return {kind: key for kind, key in found.items() if key is not None}
