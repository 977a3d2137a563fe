"""Reads the log lines of a Lambda function, from a CloudWatch Logs subscription.

Tagged lines carry events. The platform's own lines may report a failure that no code inside the function
could capture: it becomes an `$exception` event. All other lines are skipped.
"""

from __future__ import annotations

import json
import logging
import os
import re
from base64 import b64decode
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.data_classes.cloud_watch_logs_event import (
    CloudWatchLogsDecodedData,
    CloudWatchLogsEvent,
)

from ..errors import NotDeliveredError
from ..events.encoding import EncodedEvent, encode, sanitize
from ..events.event import Common, Draft, build
from ..handlers.aws_lambda.failures import PERSONLESS_EVENTS, failure_uuid, request_properties
from ..transports import handoff
from .platform_failures import Failure, failure, report_without_status, started

if TYPE_CHECKING:
    from ..settings import Settings
    from .dispatch import Delivery

logger = logging.getLogger("leanbase")

MAX_LOG_BYTES = 64 * 1024 * 1024
SOURCE = "aws_lambda.platform"
SOURCE_INSIDE = "aws_lambda.runtime"
"""The source of events that the function itself captures for a failed import, result or response."""

PREFIX = "/aws/lambda/"
TAGGED = re.compile(r'\{"leanbase":\s*\d')
"""Matches the start of a batch of events."""

_STREAM = re.compile(r"\d{4}/\d\d/\d\d/([^\[]*)\[([^\]]+)\]")


def matches(event: dict[str, Any]) -> bool:
    """Return True if the event is from a CloudWatch Logs subscription."""
    return isinstance(event.get("awslogs"), dict)


def relay(event: dict[str, Any], delivery: Delivery, settings: Settings) -> None:
    """Deliver the events that the lines carry or report.

    Raises:
        NotDeliveredError: A line was not delivered. Lambda then invokes the relay again with the same lines.
    """
    data = _decoded(event)
    if data.message_type != "DATA_MESSAGE":
        return
    stream = _Stream(data, settings)
    for each in data.log_events:
        stream.read(each.get_id, each.timestamp, each.message)
    failures = {**stream.failures, **delivery.deliver(stream.records)}
    if failures:
        for error in failures.values():
            logger.error("a line of log group %s could not be delivered: %s", data.log_group, error)
        raise NotDeliveredError(
            f"{len(failures)} line(s) of log group {data.log_group} could not be delivered"
        )


def _decoded(event: dict[str, Any]) -> CloudWatchLogsDecodedData:
    # Powertools' own decompression is not used: it has no size limit.
    text = handoff.gunzip(b64decode(CloudWatchLogsEvent(event).raw_logs_data), MAX_LOG_BYTES)
    return CloudWatchLogsDecodedData(json.loads(text))


class _Stream:
    """Reads the lines of one log stream, in order.

    Attributes:
        records: The events to deliver, by the id of their line.
        failures: The errors of tagged lines that could not be read, by the id of the line.
    """

    def __init__(self, data: CloudWatchLogsDecodedData, settings: Settings) -> None:
        self.records: dict[str, list[EncodedEvent]] = {}
        self.failures: dict[str, Exception] = {}
        self._settings = settings
        self._name = (data.owner, data.log_group, data.log_stream)
        self._tags = _tags(data)
        self._current: str | None = None
        self._captured: list[tuple[str | None, EncodedEvent]] = []
        self._inside: list[tuple[str | None, str | None]] = []
        self._reported: set[str] = set()
        self._unconfirmed: dict[str, Failure] = {}

    def read(self, id: str, timestamp: int, line: str) -> None:
        """Read one line. `id` is the same at each delivery. `timestamp` is milliseconds since the epoch."""
        tagged = TAGGED.search(line)
        if tagged is not None:
            self._take(id, line, tagged.start())  # output without a newline may precede it
            return
        record = _json_object(line)
        if record is not None and type(record.get("leanbase")) is int:
            self._take(id, line, 0)
            return
        self._current = started(line, record) or self._current
        found = failure(line, record)
        if found is not None and not found.is_report:
            self._unconfirmed[found.request_id or id] = found
            return
        if found is None and (request_id := report_without_status(line, record)) is not None:
            found = self._unconfirmed.get(request_id)
        # Several lines may report one failure. The report counts: Lambda writes one for every invocation.
        if found is not None and (key := found.request_id or id) not in self._reported:
            self._reported.add(key)
            uuid = failure_uuid(*self._name, key)
            if not self._is_captured(found, uuid):
                self.records[id] = [self._exception(found, uuid, timestamp)]

    def _is_captured(self, found: Failure, uuid: str) -> bool:
        """Return True if these lines carry the function's own event about this failure.

        Each event matches one report. An event without a request id is about an import. Lambda repeats a
        failed initialisation inside the next request, so that request's report is also about the import.
        """
        if any(event.uuid == uuid for _, event in self._captured):
            return True
        for inside in self._inside:
            current, request_id = inside
            about = request_id or (current if found.request_id is not None else None)
            if about == found.request_id:
                self._inside.remove(inside)
                return True
        return False

    def _take(self, id: str, line: str, position: int) -> None:
        try:
            self.records[id] = handoff.decode(line, position)
            for event in self.records[id]:
                self._captured.append((self._current, event))
                if SOURCE_INSIDE.encode() in event.body:
                    properties = event.decode()["properties"]
                    if properties.get("$exception_source") == SOURCE_INSIDE:
                        self._inside.append((self._current, properties.get("faas.invocation_id")))
        except handoff.UnreadableError as error:
            if position == 0:
                # Use a new exception: the frames of the old one would keep the line in memory.
                self.failures[id] = handoff.UnreadableError(str(error))
            else:  # the application may have printed this string itself
                logger.warning("part of a log line looks like events but cannot be read: %s", error)

    def _exception(self, found: Failure, uuid: str, timestamp: int) -> EncodedEvent:
        """Return the event about a failure. `uuid` is the same at each delivery of the line."""
        identity = self._identity(found.request_id) if found.request_id else None
        distinct_id, known = identity or (uuid, {"$process_person_profile": False})
        item = {
            "type": found.type,
            "value": found.text,
            "mechanism": {"type": "task", "handled": False, "synthetic": True, "exception_id": 0},
        }
        properties = {
            **self._tags,
            **({"faas.invocation_id": found.request_id} if found.request_id else {}),
            **known,
            "$exception_list": [item],
            "$exception_type": found.type,
            "$exception_message": found.text,
            "$exception_level": "fatal",
            "$exception_source": SOURCE,
        }
        moment = datetime.fromtimestamp(timestamp / 1000, timezone.utc)
        settings = self._settings
        common = Common(
            disable_geoip=settings.disable_geoip,
            is_server=settings.is_server,
            super_properties=sanitize(settings.super_properties or {}),
        )
        event, written = build(Draft("$exception", properties, distinct_id, moment, uuid, None), common)
        return encode(event, *written)

    def _identity(self, request_id: str) -> tuple[str, dict[str, Any]] | None:
        """Return the distinct id and known properties of a request, from its last event before this line."""
        for current, event in reversed(self._captured):
            if current != request_id and request_id.encode() not in event.body:
                continue
            captured = event.decode()
            if captured["event"] in PERSONLESS_EVENTS:
                continue
            properties = captured["properties"]
            if properties.get("faas.invocation_id", current) == request_id:
                return captured["distinct_id"], request_properties(captured)
        return None


def _tags(data: CloudWatchLogsDecodedData) -> dict[str, str]:
    """Return tags about the function, from the names of the log group and the log stream."""
    tags = {"cloud.provider": "aws"}
    if region := os.environ.get("AWS_REGION"):
        tags["cloud.region"] = region
    name = data.log_group.removeprefix(PREFIX) if data.log_group.startswith(PREFIX) else ""
    if match := _STREAM.match(data.log_stream):
        # Functions may share a custom log group. Its stream names then contain the function's name.
        name = name or match[1]
        tags["faas.version"] = match[2]
    if name:
        tags["faas.name"] = name
    return tags


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
