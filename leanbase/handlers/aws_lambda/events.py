"""Reads Lambda events: the caller's identity and session, the request, and when the event was created.

Read-only helpers. Unknown or malformed events, and values of an unexpected type, yield nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from ...events.contexts import Found
from ...events.request_headers import (
    Headers,
    forwarded_scheme,
    request_tags,
    url_with_query,
    without_user,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRACE_ROOT = re.compile(r"Root=1-([0-9a-f]{8})-")


def raw(event: object) -> Mapping[str, Any]:
    """Return an event or record as Lambda passes it, unwrapped from a data class of Powertools."""
    event = getattr(event, "raw_event", event)
    return event if isinstance(event, Mapping) else {}


# --- the caller and the request -----------------------------------------------------------------------


def request_parts(event: object) -> dict[str, Any]:
    """Return the entries of an event that describe an HTTP request. The handler may replace them later."""
    event = raw(event)
    return {name: event[name] for name in _PARTS if name in event}


_PARTS = (
    "headers",
    "httpMethod",
    "multiValueHeaders",
    "multiValueQueryStringParameters",
    "path",
    "queryStringParameters",
    "rawPath",
    "rawQueryString",
    "requestContext",
)


def found_in(event: Mapping[str, Any]) -> Found:
    """Return the identity and request tags of an HTTP event; nothing for any other event."""
    headers = Headers.of(event.get("headers"), event.get("multiValueHeaders"))
    tags: dict[str, Any] = {}
    request = _request_line(event)
    if request is not None:
        method, path, url_path, query = request
        url = _url(event, headers, url_path, query)
        ip = source_ip(event, headers)
        tags = request_tags(headers, url=url, method=method, path=path, ip=ip)
    return Found(headers.distinct_id, headers.session_id, tags)


def source_ip(event: object, headers: Headers) -> str | None:
    """Return the caller's IP address.

    The address that the platform reports is preferred, because the caller cannot forge it.
    `X-Forwarded-For` is used if the platform reports none, and for an ALB, which adds the last entry.
    """
    context = _mapping(raw(event).get("requestContext"))
    if "elb" in context:
        return headers.forwarded_for(last=True)
    seen = [_text(_mapping(context.get(part)).get("sourceIp")) for part in ("http", "identity")]
    return next(filter(None, seen), None) or headers.forwarded_for()


def client_ip(headers: Headers, peer: str | None, event: object = None) -> str | None:
    """Return the IP address of the caller of a web application, which may run in Lambda.

    Args:
        headers: The headers of the request.
        peer: The address of the other end of the connection: the last resort.
        event: The Lambda event behind the request, if an adapter passes it on.
    """
    if event is None and "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        context = headers.get("x-amzn-request-context")  # Lambda Web Adapter passes the request context here
        try:
            event = {"requestContext": json.loads(context)} if context else None
        except (ValueError, RecursionError):
            event = None
    return (headers.forwarded_for() if event is None else source_ip(event, headers)) or peer


def _request_line(event: Mapping[str, Any]) -> tuple[str | None, str | None, str | None, str] | None:
    """Return method, path, path in the URL, and query of an HTTP event; `None` for any other event."""
    context = _mapping(event.get("requestContext"))
    http = context.get("http")
    if isinstance(http, Mapping):  # HTTP API with payload 2.0, Function URL
        raw_path = _text(event.get("rawPath"))
        path = _without_stage(raw_path, _text(context.get("stage")))
        # URLs contain the stage only on the API's default domain. A custom domain replaces it.
        url_path = raw_path if ".execute-api." in (_text(context.get("domainName")) or "") else path
        return _text(http.get("method")), path, url_path, _text(event.get("rawQueryString")) or ""
    if "httpMethod" in event:  # REST API, HTTP API with payload 1.0, ALB
        path = _text(event.get("path"))
        # URLs on the default domain of a REST API contain the stage. Only the context has that path.
        return _text(event.get("httpMethod")), path, _text(context.get("path")) or path, _query(event)
    return None


def _without_stage(path: str | None, stage: str | None) -> str | None:
    if path is None or not stage or stage == "$default" or not f"{path}/".startswith(f"/{stage}/"):
        return path
    return path[len(stage) + 1 :] or "/"


def _query(event: Mapping[str, Any]) -> str:
    from urllib.parse import quote_plus

    parameters = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters")
    if not isinstance(parameters, Mapping):
        return ""
    # An ALB passes query parameters encoded, API Gateway decoded.
    encoded = "elb" in _mapping(event.get("requestContext"))
    pairs = [
        (str(name), str(value))
        for name, values in parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return "&".join(f"{n}={v}" if encoded else f"{quote_plus(n)}={quote_plus(v)}" for n, v in pairs)


def _url(event: Mapping[str, Any], headers: Headers, path: str | None, query: str) -> str | None:
    domain = _mapping(event.get("requestContext")).get("domainName")
    host = without_user(headers.get("host") or _text(domain))
    if not host or not path:
        return None
    return url_with_query(f"{forwarded_scheme(headers) or 'https'}://{host}{path}", query)


# --- timestamps, ids and keys ------------------------------------------------------------------------


def event_timestamp(event: object) -> object:
    """Return the event's creation time, which is the same at each retry, or `None` if it carries none."""
    event = raw(event)
    records = event.get("Records") or event.get("records")
    if isinstance(records, Mapping):  # Kafka: by partition
        records = next(iter(records.values()), None)
    if isinstance(records, list) and records and (timestamp := record_timestamp(records[0])) is not None:
        return timestamp
    context = _mapping(event.get("requestContext"))
    milliseconds = context.get("timeEpoch") or context.get("requestTimeEpoch")  # HTTP API, REST API
    if milliseconds is not None:
        return _from_epoch(milliseconds, 1000)
    if _text(event.get("time")) and "detail-type" in event:  # EventBridge
        return event["time"]
    # The trace of an asynchronous invocation spans all its attempts, and its id begins with its start time.
    trace = _TRACE_ROOT.search(os.environ.get("_X_AMZN_TRACE_ID", ""))
    return _from_epoch(int(trace[1], 16), 1) if trace else None


def record_timestamp(record: object) -> object:
    """Return a record's creation time, which is the same at each delivery, or `None` if it carries none."""
    record = raw(record)
    sent = _mapping(record.get("attributes")).get("SentTimestamp")
    if sent is not None:
        return _from_epoch(sent, 1000)
    arrived = _mapping(record.get("kinesis")).get("approximateArrivalTimestamp")
    created = _mapping(record.get("dynamodb")).get("ApproximateCreationDateTime")
    if arrived is not None or created is not None:
        return _from_epoch(created if arrived is None else arrived, 1)
    if "offset" in record and record.get("timestamp") is not None:  # Kafka
        return _from_epoch(record["timestamp"], 1000)
    published = _mapping(record.get("Sns")).get("Timestamp")
    mailed = _mapping(_mapping(record.get("ses")).get("mail")).get("timestamp")
    return _text(published) or _text(mailed) or _text(record.get("eventTime"))  # SNS, SES, S3


def record_id(record: object) -> str | None:
    """Return the id or sequence number of a record of a batch, or `None` if its kind is unknown."""
    record = raw(record)
    return (
        _text(record.get("messageId"))  # SQS
        or _text(_mapping(record.get("kinesis")).get("sequenceNumber"))
        or _text(_mapping(record.get("dynamodb")).get("SequenceNumber"))
        or _text(_mapping(record.get("Sns")).get("MessageId"))
        or _text(_mapping(_mapping(record.get("ses")).get("mail")).get("messageId"))
        or _object_version(record)
        or (
            f"{record['topic']}/{record['partition']}/{record['offset']}" if "offset" in record else None
        )  # Kafka
    )


def _object_version(record: Mapping[str, Any]) -> str | None:
    """Return bucket, key and sequencer, which together identify a change of an S3 object."""
    s3 = _mapping(record.get("s3"))
    bucket, changed = _mapping(s3.get("bucket")), _mapping(s3.get("object"))
    parts = [_text(part) for part in (bucket.get("name"), changed.get("key"), changed.get("sequencer"))]
    return "/".join(filter(None, parts)) if all(parts) else None


def record_key(record: object) -> str:
    """Return a globally unique key of a record: sequence numbers are unique only within a shard."""
    source = raw(record).get("eventSourceARN") or raw(record).get("EventSubscriptionArn")
    return f"{source}/{raw(record).get('eventID')}/{record_id(record)}"


def _from_epoch(value: object, per_second: int) -> object:
    from datetime import datetime, timedelta, timezone

    try:
        seconds = float(value) / per_second  # type: ignore[arg-type]
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    except (TypeError, ValueError, OverflowError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
