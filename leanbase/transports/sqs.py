"""Hand-off to an SQS queue, which the relay reads: `SendMessageBatch` without boto3."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._version import __version__
from ..errors import UNAVAILABLE, ConfigError, DroppedError, RejectedError, TransportError
from ..events.encoding import EncodedEvent
from . import handoff
from ._aws.credentials import CredentialsSource
from ._aws.sigv4 import signed
from ._http.sender import HttpSender
from ._repeated import RepeatedLog
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt

if TYPE_CHECKING:
    from ..settings import Settings
    from ._aws.sigv4 import Credentials
    from ._http.connection import Response

logger = logging.getLogger("leanbase")

MAX_BYTES = 1024 * 1024
"""The maximum size of one message, and of all messages of a request, without the JSON around them."""

MAX_ENTRIES = 10
COMPRESS_FROM_BYTES = 1024
HEADERS = {
    "Content-Type": "application/x-amz-json-1.0",
    "User-Agent": f"leanbase-python/{__version__}",
    "X-Amz-Target": "AmazonSQS.SendMessageBatch",
}
TOO_LONG = "BatchRequestTooLong"
EMPTY_BATCH = "EmptyBatchRequest"
REFUSED = "refused"
FAULTS_OF_A_MESSAGE = frozenset({"InvalidMessageContents", "InvalidParameterValue"})
THROTTLED = frozenset({"RequestThrottled", "Throttling", "KmsThrottled", "TooManyRequests"})

# SQS accepts only the characters of XML 1.0. JSON leaves only these two of the others unescaped.
_NONCHARACTERS = ((b"\xef\xbf\xbe", rb"\ufffe"), (b"\xef\xbf\xbf", rb"\uffff"))
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d+")
_THAN_BYTES = re.compile(r"(?:shorter|longer) than (\d+) bytes")
_CREDENTIALS = "the credentials were rejected"
_EXPLAINED = {
    "AccessDenied": "may not send to this queue; it needs sqs:SendMessage, and kms:GenerateDataKey "
    "if the queue is encrypted with a key of yours",
    "ExpiredToken": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidSecurity": _CREDENTIALS,
    "InvalidSignature": _CREDENTIALS + "; or the clock of this machine is wrong",
    "QueueDoesNotExist": "there is no such queue; is queue_url right, and of this region?",
    "SignatureDoesNotMatch": _CREDENTIALS + "; or the clock of this machine is wrong",
    "UnrecognizedClient": _CREDENTIALS,
}


class SqsTransport(BaseTransport):
    """Hands events to an SQS queue over kept-alive connections, without boto3.

    Events are packed into messages and messages into requests, within the limits of SQS. `leanbase.relay`
    takes them from the queue and delivers them. A FIFO queue gets the events of one `distinct_id` in order.

    Requests are signed with the credentials of the environment (as in Lambda), which are read again for every
    request. If it has none, botocore finds the credentials, if it is installed (`leanbase[aws]`).

    Its only state is its connections and its circuit breaker. The caller retains events that the queue did
    not accept, even if the permission to send is missing.

    Args:
        queue_url: The URL of the queue. If it does not contain the region, `AWS_REGION` must be set. Requests
            go to the host of the URL, or to `AWS_ENDPOINT_URL_SQS` or `AWS_ENDPOINT_URL` if one is set.
        timeout: The maximum number of seconds for one attempt, including the time to connect.
        max_retries: The maximum number of attempts after the first, for one request.
        historical_migration: Whether to mark the events as a historical import.

    Raises:
        ConfigError: The URL is not the URL of a queue, or there is no region.
        MissingDependencyError: The environment has no credentials, and botocore is not installed.

    Examples:
        >>> import os
        >>> os.environ |= {"AWS_ACCESS_KEY_ID": "an id", "AWS_SECRET_ACCESS_KEY": "a secret"}
        >>> transport = SqsTransport("https://sqs.eu-west-1.amazonaws.com/123456789012/events")
    """

    requires = ("queue_url",)

    @classmethod
    def from_settings(cls, settings: Settings) -> SqsTransport:
        """Create a transport with the client's queue and limits."""
        return cls(
            settings.queue_url or "",
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            historical_migration=settings.historical_migration,
        )

    def __init__(
        self,
        queue_url: str,
        *,
        timeout: float = 10.0,
        max_retries: int = 3,
        historical_migration: bool = False,
    ) -> None:
        self._more = handoff.HISTORICAL if historical_migration else b""
        self._queue_url = queue_url.strip()
        self._endpoint, self._name, self._region = _parsed(self._queue_url)
        self._is_fifo = self._name.endswith(".fifo")
        self._credentials = CredentialsSource("transport='sqs'")
        self._max_message_bytes = MAX_BYTES
        self._max_request_bytes = MAX_BYTES
        self._repeated = RepeatedLog()
        self._sender = HttpSender(self._endpoint, timeout=timeout, max_retries=max_retries)

    def __repr__(self) -> str:
        return f"SqsTransport({self._queue_url!r})"

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Hand off the events in as few requests as the limits allow.

        Blocks until the deadline at the latest.
        """
        work = _Work(events, by_distinct_id=self._is_fifo)
        try:
            while work.groups:
                self._sender.send_with_retries(lambda limit: self._send_batch(work, limit), deadline)
        except RejectedError as error:
            # Retain the events: permissions or the queue can be repaired, and there may be a fallback.
            what = f"not handed off yet: queue {self._name}: {error}"
            self._repeated.log(logging.ERROR, error.status, len(work), what)
            return work.receipt + work.retained(TransportError(str(error), reason=REFUSED))
        except TransportError as error:
            what = f"not handed off yet: queue {self._name}: {error}"
            if error.reason == UNAVAILABLE and error.mends_soon:
                logger.warning("%d event(s) %s", len(work), what)
            elif error.reason == UNAVAILABLE:
                self._repeated.log(logging.WARNING, str(error), len(work), what)
            return work.receipt + work.retained(error)
        return work.receipt

    def warm_up(self, *, deadline: Deadline) -> None:
        """Find the credentials, import urllib3 and open a connection."""
        try:
            self._credentials.current(deadline)
        except TransportError as error:
            logger.debug("loading credentials ahead of the first send failed: %s", error)
        self._sender.warm_up(self._endpoint, deadline=deadline)

    def credentials(self, deadline: Deadline) -> str:
        """Find the credentials, and return in words where they are.

        Raises:
            TransportError: There are no credentials, or they could not be read in time.
        """
        self._credentials.current(deadline)
        return self._credentials.place

    def check(self, deadline: Deadline) -> None:
        """Check that the queue accepts messages, by sending an empty batch, which it rejects as empty.

        Raises:
            TransportError: The queue does not exist, does not permit sending, or does not respond.
        """
        credentials = self._credentials.current(deadline)
        response = self._posted(_request(self._queue_url, ()), credentials, deadline)
        if response.status != 200 and _failure(response.body)[0] != EMPTY_BATCH:
            self._read_failure(response, ())

    def close(self, *, deadline: Deadline) -> Receipt:
        """End the waits between retries and close idle connections. Does not block."""
        self._sender.close(deadline)
        return Receipt()

    def _send_batch(self, work: _Work, limit: Deadline) -> None:
        """Send one request with the first of the events that are left.

        Raises:
            RejectedError: The queue rejected the whole request permanently.
            TransportError: The queue did not accept all messages; `work` holds the other events.
        """
        batch = self._batch(work)
        if not batch:
            return
        credentials = self._credentials.current(limit)
        response = self._posted(_request(self._queue_url, batch), credentials, limit)
        logger.debug("%d message(s) to the queue %s: %d", len(batch), self._name, response.status)
        self._read(response, batch, work)

    def _posted(self, body: bytes, credentials: Credentials, deadline: Deadline) -> Response:
        headers = signed(
            self._endpoint, body, HEADERS, credentials=credentials, region=self._region, service="sqs"
        )
        return self._sender.post(self._endpoint, body, headers, deadline=deadline)

    def _batch(self, work: _Work) -> list[_Message]:
        """Return the messages that fit into one request. Drop events that can never fit."""
        batch: list[_Message] = []
        size = 0
        for message in self._messages(work):
            if len(message.body) > self._max_message_bytes:
                error = DroppedError(
                    "too_large", f"an event of {len(message.events[0])} bytes does not fit into a message"
                )
                logger.error("1 event dropped: queue %s: %s", self._name, error)
                work.dropped(message, error)
                continue
            size += len(message.body)
            if size > self._max_request_bytes or len(batch) == MAX_ENTRIES:
                break
            batch.append(message)
        return batch

    def _messages(self, work: _Work) -> Iterator[_Message]:
        for group, events in list(work.groups.items()):
            for run in handoff.split_by_size(events, self._max_message_bytes - len(self._more)):
                yield from self._fitting(run, group)

    def _fitting(self, events: Sequence[EncodedEvent], group: str) -> Iterator[_Message]:
        """Yield one message, or several if one would be too large. One event may still be too large."""
        body = handoff.encode(events, self._more)
        for character, escaped in _NONCHARACTERS:
            body = body.replace(character, escaped)
        if len(body) >= COMPRESS_FROM_BYTES:
            body = min(body, handoff.encode_gzip(events, self._more), key=len)
        if len(body) > self._max_message_bytes and len(events) > 1:
            middle = len(events) // 2
            yield from self._fitting(events[:middle], group)
            yield from self._fitting(events[middle:], group)
        else:
            yield _Message(body, events, group)

    def _read(self, response: Response, batch: Sequence[_Message], work: _Work) -> None:
        if response.status != 200:
            return self._read_failure(response, batch)
        taken, failed = _results(response.body)
        others: set[str] = set()
        for number, message in enumerate(batch):
            code, text = failed.get(str(number), ("", ""))
            if str(number) in taken:
                work.handed_off(message)
            elif _is_too_long(code, text):
                self._max_message_bytes = _smaller(text, len(message.body))
            elif code in FAULTS_OF_A_MESSAGE:
                logger.error("%d event(s) dropped: queue %s: %s", len(message.events), self._name, code)
                work.dropped(message, RejectedError(f"the queue rejected the message: {code}"))
            else:
                others.add(code or "no reason given")
        if others:
            raise TransportError(f"messages were not accepted: {', '.join(sorted(others))}")

    def _read_failure(self, response: Response, batch: Sequence[_Message]) -> None:
        code, text = _failure(response.body)
        if _is_too_long(code, text):
            if code == TOO_LONG:
                self._max_request_bytes = _smaller(text, sum(len(message.body) for message in batch))
                self._max_message_bytes = min(self._max_message_bytes, self._max_request_bytes)
            else:
                self._max_message_bytes = _smaller(text, max(len(message.body) for message in batch))
            logger.debug("the queue %s needs smaller messages from now on: %s", self._name, text)
            return
        if response.status >= 500 or response.status == 429 or code in THROTTLED:
            raise TransportError(f"it responded with {response.status} {code}".rstrip())
        # DEBUG only: the message of AWS names the account and the role.
        logger.debug("the queue %s responded with %d: %s", self._name, response.status, text[:1000])
        explained = f": {_EXPLAINED[code]}" if code in _EXPLAINED else ""
        raise RejectedError(
            f"it responded with {response.status} {code}".rstrip() + explained, status=response.status
        )


class _Message:
    """One message: its body, its events, and its group in a FIFO queue, else `""`."""

    __slots__ = ("body", "events", "group")

    def __init__(self, body: bytes, events: Sequence[EncodedEvent], group: str) -> None:
        self.body = body
        self.events = events
        self.group = group

    def entry(self, number: int) -> bytes:
        """Return the message as a JSON entry of a request."""
        entry = {"Id": str(number), "MessageBody": self.body.decode()}
        if self.group:
            entry["MessageGroupId"] = self.group
            entry["MessageDeduplicationId"] = _digest("".join(event.uuid for event in self.events))
        return json.dumps(entry, ensure_ascii=False).encode()


class _Work:
    """The events of one send: the remaining events, in groups, and a receipt for all others."""

    def __init__(self, events: Sequence[EncodedEvent], *, by_distinct_id: bool) -> None:
        self.receipt = Receipt()
        self.groups: dict[str, list[EncodedEvent]] = {}
        self._left = {id(event): event for event in events}
        for event in events:
            group = _digest(str(event.decode().get("distinct_id"))) if by_distinct_id else ""
            self.groups.setdefault(group, []).append(event)

    def __len__(self) -> int:
        return len(self._left)

    def handed_off(self, message: _Message) -> None:
        self.receipt += Receipt(handed_off=len(message.events))
        self._take_out(message)

    def dropped(self, message: _Message, error: DroppedError | RejectedError) -> None:
        self.receipt += Receipt.dropping(message.events, error.reason, error)
        self._take_out(message)

    def retained(self, error: TransportError) -> Receipt:
        """Return a receipt that retains the remaining events, in their original order."""
        return Receipt.retaining(list(self._left.values()), error.reason, error)

    def _take_out(self, message: _Message) -> None:
        for event in message.events:
            del self._left[id(event)]
        rest = [event for event in self.groups[message.group] if id(event) in self._left]
        if rest:
            self.groups[message.group] = rest
        else:
            del self.groups[message.group]


def _digest(text: str) -> str:
    """Return a hash that is a valid SQS id and does not reveal the string."""
    return hashlib.sha256(text.encode()).hexdigest()


def _request(queue_url: str, batch: Sequence[_Message]) -> bytes:
    entries = b",".join(message.entry(number) for number, message in enumerate(batch))
    return b"".join((b'{"QueueUrl":', json.dumps(queue_url).encode(), b',"Entries":[', entries, b"]}"))


def _results(body: bytes) -> tuple[set[str], dict[str, tuple[str, str]]]:
    """Return the ids of the accepted messages, and the error code and text of each of the others."""
    response = _json_object(body)
    taken = {str(entry.get("Id")) for entry in _objects(response.get("Successful"))}
    failed = {
        str(entry.get("Id")): (_code(entry.get("Code")), str(entry.get("Message") or ""))
        for entry in _objects(response.get("Failed"))
    }
    return taken, failed


def _failure(body: bytes) -> tuple[str, str]:
    """Return the code and the text of an error response."""
    response = _json_object(body)
    return _code(response.get("__type")), str(response.get("message") or response.get("Message") or "")


def _code(value: object) -> str:
    """Return an error code without the prefixes and suffixes of the AWS protocols."""
    name = str(value or "").rpartition("#")[2]
    return name.removeprefix("AWS.SimpleQueueService.").removesuffix("Exception")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        response = json.loads(body)
    except ValueError:
        return {}
    return response if isinstance(response, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _is_too_long(code: str, text: str) -> bool:
    return code == TOO_LONG or _THAN_BYTES.search(text) is not None


def _smaller(text: str, size: int) -> int:
    """Return the limit that the error text names, or half the size that was too long."""
    found = _THAN_BYTES.search(text)
    limit = int(found[1]) if found else 0
    return limit if 0 < limit < size else size // 2


def _parsed(queue_url: str) -> tuple[str, str, str]:
    """Return the URL for requests, the name of the queue, and its region.

    Raises:
        ConfigError: The URL is not the URL of a queue, or there is no region.
    """
    try:
        parts = urlsplit(queue_url)
        path = parts.path.strip("/").split("/")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and len(path) >= 2 and all(path)
        usable = usable and not ("@" in parts.netloc or parts.query or parts.fragment)
        host = parts.hostname or ""
    except ValueError:
        usable = False
    if not usable:
        hint = "; that is an ARN" if queue_url.startswith("arn:") else ""
        raise ConfigError(
            "queue_url must be the URL of an SQS queue, such as "
            f"https://sqs.eu-west-1.amazonaws.com/123456789012/events{hint}"
        )
    regions = [label for label in host.split(".") if _REGION.fullmatch(label)]
    region = regions[0] if regions else "us-east-1" if host == "queue.amazonaws.com" else None
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise ConfigError("queue_url does not contain the region of the queue: set AWS_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_SQS") or os.environ.get("AWS_ENDPOINT_URL")
    return (endpoint or f"{parts.scheme}://{parts.netloc}").rstrip("/") + "/", path[-1], region
