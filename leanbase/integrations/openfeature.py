"""OpenFeature: a provider for feature flags. Install `leanbase[openfeature]`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

from ..client import Leanbase
from ..default import default_client
from ..delivery.scope import DeliveryScope, open_scope
from ..events import contexts
from ..feature_flags import FeatureFlagEvaluations

logger = logging.getLogger("leanbase")

T = TypeVar("T")

NAME = "Leanbase"
MAX_KEPT = 100
"""Evaluations that are cached for one scope: a job may evaluate flags for many persons."""

RESERVED = frozenset({"groups", "group_properties"})
"""Attributes of an evaluation context that are not properties of the person."""


class _MismatchError(Exception):
    """A flag has a value of another type."""


class LeanbaseProvider(AbstractProvider):
    """Resolves flags for the person and the properties of an evaluation context.

    The targeting key is the person's distinct id. Without a key, the identity of the Leanbase context counts.
    The attributes are properties of the person, except `groups` and `group_properties`, which are arguments
    of `evaluate_flags`. The type of the call decides what it returns:

    * boolean: whether the flag is on.
    * string: the variant.
    * integer or float: the variant, converted to a number.
    * object: the payload.

    If the flag is off, all calls but the boolean return the default.

    All calls for one evaluation context inside one handler, job or request share one evaluation, with at most
    one request. They block for this request; the `async` calls do not block the event loop.

    Args:
        client: Evaluates the flags. Default: the default client.

    Examples:
        ```python
        from openfeature import api
        from leanbase.integrations.openfeature import LeanbaseProvider

        api.set_provider(LeanbaseProvider())
        api.get_client().get_boolean_value("checkout", False, EvaluationContext("user_1"))
        ```
    """

    def __init__(self, client: Leanbase | None = None) -> None:
        super().__init__()
        self._client = client or default_client
        self._kept: WeakKeyDictionary[DeliveryScope, dict[str, FeatureFlagEvaluations]] = WeakKeyDictionary()
        self._state = ""
        self._etag: str | None = None

    def get_metadata(self) -> Metadata:
        return Metadata(name=NAME)

    def shutdown(self) -> None:
        """Send pending events. The client stays open, because other code may use it. Blocks for the send."""
        self._client.flush()

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Capture an event with the details' attributes as properties, and their value as `value`."""
        details = tracking_event_details
        properties = dict(details.attributes or {}) if details is not None else {}
        if details is not None and details.value is not None:
            properties["value"] = details.value
        attributes = evaluation_context.attributes if evaluation_context is not None else {}
        groups: Any = attributes.get("groups")
        self._client.capture(
            tracking_event_name,
            distinct_id=evaluation_context.targeting_key if evaluation_context is not None else None,
            properties=properties,
            groups=groups,
        )

    # --- the ten calls of the interface -------------------------------------------------------------------

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._resolved(flag_key, default_value, evaluation_context, _as_boolean)

    async def resolve_boolean_details_async(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return await self._resolved_async(flag_key, default_value, evaluation_context, _as_boolean)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolved(flag_key, default_value, evaluation_context, _as_string)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return await self._resolved_async(flag_key, default_value, evaluation_context, _as_string)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolved(flag_key, default_value, evaluation_context, _as_integer)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return await self._resolved_async(flag_key, default_value, evaluation_context, _as_integer)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._resolved(flag_key, default_value, evaluation_context, _as_float)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return await self._resolved_async(flag_key, default_value, evaluation_context, _as_float)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[Any] | Mapping[str, Any],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[Any] | Mapping[str, Any]]:
        return self._resolved(flag_key, default_value, evaluation_context, _as_object)

    async def resolve_object_details_async(
        self,
        flag_key: str,
        default_value: Sequence[Any] | Mapping[str, Any],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[Any] | Mapping[str, Any]]:
        return await self._resolved_async(flag_key, default_value, evaluation_context, _as_object)

    # --- what they have in common ---------------------------------------------------------------------------

    def _resolved(
        self, key: str, default: T, context: EvaluationContext | None, read: Callable[[Any], T]
    ) -> FlagResolutionDetails[T]:
        flags, is_kept = self._kept_flags(context), True
        if flags is None:
            flags, is_kept = self._evaluated(context), False
        return self._details(key, default, context, read, flags, is_kept)

    async def _resolved_async(
        self, key: str, default: T, context: EvaluationContext | None, read: Callable[[Any], T]
    ) -> FlagResolutionDetails[T]:
        flags = self._kept_flags(context)
        if flags is None:
            # A thread is needed only for a request, or to load definitions.
            flags = self._evaluated(context, only_locally=True) if self._client._has_fresh_flags() else None
            if flags is None or not flags.is_complete:
                flags = await asyncio.to_thread(self._evaluated, context)
            return self._details(key, default, context, read, flags, False)
        return self._details(key, default, context, read, flags, True)

    def _kept_flags(self, context: EvaluationContext | None) -> FeatureFlagEvaluations | None:
        scope = open_scope()
        if scope is None or not scope.is_open:
            return None
        return self._kept.get(scope, {}).get(_key(context))

    def _evaluated(
        self, context: EvaluationContext | None, *, only_locally: bool = False
    ) -> FeatureFlagEvaluations:
        attributes: dict[str, Any] = dict(context.attributes) if context is not None else {}
        flags = self._client.evaluate_flags(
            context.targeting_key if context is not None else None,
            groups=attributes.get("groups"),
            group_properties=attributes.get("group_properties"),
            person_properties={name: value for name, value in attributes.items() if name not in RESERVED},
            only_evaluate_locally=only_locally,
        )
        if only_locally and not flags.is_complete:
            return flags  # the caller asks the server next
        scope = open_scope()
        if scope is not None and scope.is_open:
            kept = self._kept.setdefault(scope, {})
            while len(kept) >= MAX_KEPT:
                kept.pop(next(iter(kept)), None)
            kept[_key(context)] = flags
        self._emit_changes(flags)
        return flags

    def _emit_changes(self, flags: FeatureFlagEvaluations) -> None:
        """Emit a provider event if the provider's state or the definitions have changed."""
        if not flags.is_about_somebody:
            return
        state = "error" if flags.error else "stale" if flags.is_stale else "ready"
        if state != self._state:
            before, self._state = self._state, state
            if state == "error":
                self.emit_provider_error(ProviderEventDetails(message=flags.error))
            elif state == "stale":
                self.emit_provider_stale(ProviderEventDetails())
            elif before:
                self.emit_provider_ready(ProviderEventDetails())
        etag = flags.definitions_etag
        if etag is not None and etag != self._etag:
            before_etag, self._etag = self._etag, etag
            if before_etag is not None:
                self.emit_provider_configuration_changed(ProviderEventDetails())

    def _details(
        self,
        key: str,
        default: T,
        context: EvaluationContext | None,
        read: Callable[[Any], T],
        flags: FeatureFlagEvaluations,
        is_kept: bool,
    ) -> FlagResolutionDetails[T]:
        if (context is None or not context.targeting_key) and contexts.get_context_distinct_id() is None:
            text = "the evaluation context has no targeting key, and nobody is identified"
            return _failed(default, ErrorCode.TARGETING_KEY_MISSING, text)
        value = flags.get_flag(key)
        result = flags.get_result(key)
        if value is None or result is None:
            if flags.error is not None:
                code = ErrorCode.GENERAL if len(flags.keys) else ErrorCode.PROVIDER_NOT_READY
                return _failed(default, code, flags.error)
            if key in flags.unresolved_flags:
                reason = flags.unresolved_flags[key].value
                return _failed(default, ErrorCode.GENERAL, f"it could not be evaluated here: {reason}")
            return _failed(default, ErrorCode.FLAG_NOT_FOUND, f"there is no flag {key!r}")
        metadata: dict[str, bool | int | float | str] = {}
        if result.version is not None:
            metadata["version"] = result.version
        if result.reason is not None:
            metadata["reason"] = result.reason
        reason_of_value = _reason(flags, key, value, is_kept)
        if value is False and read is not _as_boolean:
            return FlagResolutionDetails(default, reason=reason_of_value, flag_metadata=metadata)
        try:
            found = read(result)
        except _MismatchError as error:
            return _failed(default, ErrorCode.TYPE_MISMATCH, str(error))
        return FlagResolutionDetails(
            found, reason=reason_of_value, variant=result.variant, flag_metadata=metadata
        )


def _reason(flags: FeatureFlagEvaluations, key: str, value: bool | str, is_kept: bool) -> Reason:
    if flags.is_stale:
        return Reason.STALE
    if is_kept and not flags.is_local(key):
        return Reason.CACHED
    if value is False:
        return Reason.DISABLED if flags.is_switched_off(key) else Reason.DEFAULT
    return Reason.SPLIT if isinstance(value, str) else Reason.TARGETING_MATCH


def _failed(default: T, code: ErrorCode, text: str) -> FlagResolutionDetails[T]:
    return FlagResolutionDetails(default, error_code=code, error_message=text, reason=Reason.ERROR)


def _key(context: EvaluationContext | None) -> str:
    if context is None:
        return repr((None, contexts.get_context_distinct_id()))
    who = context.targeting_key or contexts.get_context_distinct_id()
    return repr((who, sorted(context.attributes.items(), key=lambda item: item[0])))


def _as_boolean(result: Any) -> bool:
    return bool(result.enabled)


def _as_string(result: Any) -> str:
    if result.variant is None:
        raise _MismatchError("the flag has no variants, so it is no string")
    return str(result.variant)


def _as_integer(result: Any) -> int:
    try:
        return int(_as_string(result))
    except ValueError:
        raise _MismatchError("the variant is no whole number") from None


def _as_float(result: Any) -> float:
    try:
        return float(_as_string(result))
    except ValueError:
        raise _MismatchError("the variant is no number") from None


def _as_object(result: Any) -> Any:
    if not isinstance(result.payload, (dict, list)):
        raise _MismatchError("the flag has no payload that is an object or a list")
    return result.payload
