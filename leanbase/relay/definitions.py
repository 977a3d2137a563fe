"""Publishes flag definitions: loads them from the server on a schedule, and writes changes to a store."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..feature_flags import Definitions, SourceError
from ..feature_flags.sources import sources_of
from ..feature_flags.sources.api import ApiSource
from ..feature_flags.sources.dynamodb import DynamoDbSource
from ..feature_flags.sources.s3 import S3Source
from ..settings import Settings
from ..transports.deadline import Deadline

logger = logging.getLogger("leanbase")

_latest: Definitions | None = None
_stores: dict[str, S3Source | DynamoDbSource] = {}


def matches(event: Mapping[str, Any]) -> bool:
    """Return True if a Lambda event is from a schedule: an EventBridge rule or EventBridge Scheduler."""
    return event.get("detail-type") == "Scheduled Event" or event.get("source") == "aws.scheduler"


def publish(settings: Settings, deadline: Deadline) -> dict[str, Any]:
    """Load definitions from the server, and write them to `flag_definitions` if they have changed.

    Blocks until the deadline at the latest.

    Returns:
        The number of `flags`, and whether they were `written`.

    Raises:
        ConfigError: A setting is missing, or `flag_definitions` is not one place in S3 or DynamoDB.
        SourceError: The server or the store failed. The schedule then invokes the relay again.
    """
    global _latest
    store = _store(settings)
    try:
        api = ApiSource.from_settings(settings)
    except SourceError as error:
        raise ConfigError(f"the publisher: {error}") from None
    known = _latest
    if known is None:
        try:
            known = store.load(None, deadline=deadline)
        except SourceError as error:
            logger.info("%r has no definitions yet: %s", store, error)
    try:
        found = api.load(known, deadline=deadline)
    finally:
        api.close()
    if found is None and known is not None:
        _latest = known
        return {"flags": len(known), "written": False}
    if found is None:
        raise SourceError("the server has no definitions")
    text = json.dumps(found.bundle(settings.host), ensure_ascii=False, separators=(",", ":"))
    _latest = None  # if the write fails, the next run reads the store again
    store.publish(text.encode(), deadline=deadline)
    _latest = found
    logger.info("published %d flags to %r", len(found), store)
    return {"flags": len(found), "written": True}


def _store(settings: Settings) -> S3Source | DynamoDbSource:
    name = str(settings.flag_definitions)
    store = _stores.get(name)
    if store is None:
        sources = sources_of(settings)
        if len(sources) != 1 or not isinstance(sources[0], (S3Source, DynamoDbSource)):
            raise ConfigError(
                "the publisher needs LEANBASE_FLAG_DEFINITIONS with one place to write to: s3://bucket/key "
                "or dynamodb://table/key"
            )
        store = _stores[name] = sources[0]
    return store
