"""Evaluates flags for a client: locally by their definitions, and the others by the server."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..delivery.scope import send_deadline
from ..errors import ConfigError
from ..events.encoding import sanitize_dict, sanitize_properties
from .definitions import Definitions, Flag, host_hash
from .evaluator import Identity
from .exposures import Reported
from .operators import UNSUPPORTED, Undecided
from .remote import RemoteFlags
from .snapshot import LOCAL_REASON, Evaluation, Record
from .sources import sources_of
from .store import DefinitionsStore

if TYPE_CHECKING:
    from ..settings import Settings
    from ..transports.deadline import Deadline
    from .snapshot import FeatureFlagEvaluations


logger = logging.getLogger("leanbase")

MAX_STORES = 16

Subject: TypeAlias = tuple[
    str, Mapping[str, str], Mapping[str, Any], Mapping[str, Mapping[str, Any]], "str | None"
]
"""The arguments of `identity_of` from `distinct_id` on."""


def identity_of(
    definitions: Definitions,
    now: float,
    distinct_id: str,
    groups: Mapping[str, str],
    person_properties: Mapping[str, Any],
    group_properties: Mapping[str, Mapping[str, Any]],
    device_id: str | None,
) -> Identity:
    """Return the `Identity` for a local evaluation. The properties may have any type."""
    plain = _plain(person_properties)
    plain.setdefault("distinct_id", distinct_id)
    return Identity(
        definitions,
        distinct_id,
        groups=groups,
        person_properties=plain,
        group_properties={kind: _plain(each) for kind, each in group_properties.items()},
        device_id=device_id,
        now=now,
    )


def _plain(properties: Mapping[str, Any]) -> dict[str, Any]:
    plain = sanitize_properties(dict(properties))
    for name, value in properties.items():
        if type(value) is float and value - value != 0.0 and name in plain:
            plain[name] = value  # NaN or infinity, which must not become null: the server decides
    return plain


class FeatureFlags:
    """Evaluates flags for one client.

    Attributes:
        store: Holds the definitions; `None` if the client has no source of definitions.
        reported: The reads that are already reported.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remote: RemoteFlags | None = RemoteFlags(settings) if settings.host and settings.send else None
        self.store = _store_of(settings)
        self.reported = Reported()
        self._has_checked_host = False

    def evaluate(
        self,
        distinct_id: str,
        groups: Mapping[str, str],
        person_properties: dict[str, Any],
        group_properties: dict[str, dict[str, Any]],
        device_id: str | None,
        *,
        without_geoip: bool,
        keys: Sequence[str] | None = None,
        only_locally: bool = False,
    ) -> Evaluation:
        """Evaluate flags locally, and the others with one request to the server.

        Blocks as `DefinitionsStore.pinned` does, and for the request. Never raises.

        The properties may have any type. With `without_geoip`, the server does not look up the location of
        the sender's IP address. `keys` are the flags; `None` means all. With `only_locally`, no request is
        sent.
        """
        evaluation = Evaluation(distinct_id, groups)
        if keys is not None and not keys:
            return evaluation
        identity = (distinct_id, groups, person_properties, group_properties, device_id)
        definitions = self._evaluate_locally(identity, keys, evaluation)
        is_complete = definitions is not None and not evaluation.unresolved
        if (
            is_complete
            and keys is not None
            and definitions is not None
            and len(evaluation.records) < len(keys)
        ):
            unknown = self.store.unknown if self.store is not None else ()
            is_complete = all(key in definitions or key in unknown for key in keys)
        evaluation.is_complete = is_complete
        if not (is_complete or only_locally or self._settings.flags_only_evaluate_locally):
            self._ask(identity, without_geoip, keys, evaluation, definitions)
            evaluation.is_complete = not evaluation.errors
        return evaluation

    def _evaluate_locally(
        self, subject: Subject, keys: Sequence[str] | None, evaluation: Evaluation
    ) -> Definitions | None:
        if self.store is None:
            return None
        definitions, now, evaluation.is_stale = self.store.pinned()
        if definitions is None:
            return None
        if not self._has_checked_host:
            self._check_host(definitions)
        evaluation.is_minimal_locally = definitions.is_minimal
        evaluation.definitions_etag = definitions.etag
        evaluated_here(identity_of(definitions, now, *subject), keys, evaluation, definitions)
        return definitions

    def _ask(
        self,
        subject: Subject,
        without_geoip: bool,
        keys: Sequence[str] | None,
        evaluation: Evaluation,
        definitions: Definitions | None,
    ) -> None:
        remote = self._remote
        if remote is None:
            return
        deadline = send_deadline(remote.most_seconds)
        found = remote.evaluate(_request_fields(*subject, without_geoip), keys, evaluation, deadline=deadline)
        for key, record in found.items():
            if (keys is None or key in keys) and key not in evaluation.records:
                evaluation.records[key] = record
                evaluation.unresolved.pop(key, None)
        if definitions is not None and keys is not None and not evaluation.errors and self.store is not None:
            self.store.unknown.update(key for key in keys if key not in found and key not in definitions)

    def _check_host(self, definitions: Definitions) -> None:
        self._has_checked_host = True
        host, given = self._settings.host, definitions.host_hash
        if host and given not in (None, host_hash(host)):
            logger.warning("the flag definitions are those of another host than %s; they are used", host)

    def disconnect(self) -> None:
        """Close idle connections."""
        if self._remote is not None:
            self._remote.disconnect()
        if self.store is not None:
            self.store.disconnect()

    def load(self, deadline: Deadline) -> bool:
        """Load definitions now. Return whether any are loaded. Blocks until the deadline at the latest."""
        return self.store is not None and self.store.load(deadline)

    def payload_of(self, key: str, value: bool | str, flags: FeatureFlagEvaluations) -> Any:
        """Return the decoded payload for a value of a flag.

        Without a definition, only the payload for the evaluated value is known.
        """
        definitions = None if self.store is None else self.store.pinned().definitions
        if definitions is not None and key in definitions:
            return Record(key, value, payload=definitions.flag(key).payload(value)).decoded_payload()
        result = flags.get_result(key)
        return result.payload if result is not None and result.get_value() == value else None

    def remote_config(self, key: str) -> Any:
        """Request the decrypted payload of a flag; `None` if there is none."""
        from .remote_config import payload_of

        return payload_of(self._settings, key)


def _request_fields(
    distinct_id: str,
    groups: Mapping[str, str],
    person_properties: Mapping[str, Any],
    group_properties: Mapping[str, Mapping[str, Any]],
    device_id: str | None,
    without_geoip: bool,
) -> dict[str, Any]:
    """Return the fields of a request about an identity."""
    of_groups = sanitize_dict(dict(group_properties))
    for kind, key in groups.items():
        of_groups[kind] = {"$group_key": key, **(of_groups.get(kind) or {})}
    return {
        "distinct_id": distinct_id,
        "groups": dict(groups),
        "person_properties": sanitize_dict(dict(person_properties)),
        "group_properties": of_groups,
        "geoip_disable": without_geoip,
        "device_id": device_id,
    }


def evaluated_here(
    identity: Identity, keys: Sequence[str] | None, evaluation: Evaluation, definitions: Definitions
) -> None:
    """Evaluate flags locally, and add the outcomes to `evaluation`."""
    for key in definitions if keys is None else keys:
        if key not in definitions:
            continue
        flag = definitions.flag(key)
        try:
            value = identity.decide(flag)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            value = UNSUPPORTED  # an unforeseen definition must not affect other flags
        if isinstance(value, Undecided):
            evaluation.unresolved[key] = value.reason
        else:
            record = flag.results.get(value)
            if record is None:
                record = flag.results[value] = _record(flag, value)
            evaluation.records[key] = record


def _record(flag: Flag, value: bool | str) -> Record:
    return Record(
        flag.key,
        value,
        payload=flag.payload(value),
        is_local=True,
        id=flag.id,
        version=flag.version,
        reason=LOCAL_REASON,
        has_experiment=flag.has_experiment,
        is_switched_off=not flag.is_active,
    )


_stores: dict[tuple[Any, ...], DefinitionsStore] = {}


def _store_of(settings: Settings) -> DefinitionsStore | None:
    """Return the store of these settings. It outlives its clients, which may be closed after each request."""
    named = settings.flag_definitions
    if (named is None and not settings.secret_key) or settings.disabled:
        return None
    key = (
        settings.host,
        settings.api_key,
        settings.secret_key,
        str(named) if isinstance(named, (str, type(None))) else tuple(map(_source_name, _as_sequence(named))),
        settings.flags_ttl,
        settings.flags_max_age,
    )
    found = _stores.get(key)
    if found is None:
        try:
            sources = sources_of(settings)
        except ConfigError as error:
            logger.error("%s; flags are evaluated by the server", error)
            return None
        if len(_stores) >= MAX_STORES:
            _stores.clear()
        made = DefinitionsStore(sources, ttl=settings.flags_ttl, max_age=settings.flags_max_age)
        found = _stores.setdefault(key, made)
    return found


def forget_stores() -> None:
    """Forget all definitions, as in a new process. For the Lambda simulator."""
    for store in list(_stores.values()):
        store.disconnect()
    _stores.clear()


def _as_sequence(named: Any) -> Sequence[Any]:
    return named if isinstance(named, (list, tuple)) else (named,)


def _source_name(source: Any) -> Any:
    return source if isinstance(source, str) else id(source)
