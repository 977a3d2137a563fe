"""Direct delivery: one POST to the ingestion endpoint, retried inside the deadline."""

from __future__ import annotations

import json
import logging
import re
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._version import __version__
from ..errors import UNAVAILABLE, RejectedError, TransportError
from ..events.encoding import EncodedEvent
from ..events.timestamps import utc_now
from ._http.sender import HttpSender
from ._repeated import RepeatedLog
from .base import BaseTransport
from .deadline import Deadline
from .receipt import Receipt

if TYPE_CHECKING:
    from ..settings import Settings
    from ._http.connection import Response

logger = logging.getLogger("leanbase")

MAX_BODY_BYTES = 5 * 1024 * 1024  # W-21, before compression
COMPRESS_FROM_BYTES = 1024
COMPRESSION_LEVEL = 1
HEADERS = {"Content-Type": "application/json", "User-Agent": f"leanbase-python/{__version__}"}
GZIP_HEADERS = {**HEADERS, "Content-Encoding": "gzip"}
PROXY_AUTHENTICATION_REQUIRED = 407
RETRIED_4XX = (PROXY_AUTHENTICATION_REQUIRED, 408, 429)
PAYLOAD_TOO_LARGE = 413
REFUSALS_OF_AN_EVENT = frozenset({400, PAYLOAD_TOO_LARGE, 422})
"""Statuses that may concern one event of a batch. Any other refusal would concern all events."""
MAX_QUOTED_CHARACTERS = 200
DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_RETRY_AFTER_SECONDS = 300.0
"""The longest `Retry-After` that is respected; a larger value counts as this one (Q-12)."""

# Backslashes, white space, control and non-ASCII characters, which a URL cannot contain.
_ODD_IN_LOCATION = re.compile(r"[^!-\[\]-~]")

_EXPLAINED = {
    401: ": the API key was rejected",
    404: ": is host the address of the ingestion server?",
    PAYLOAD_TOO_LARGE: ": the event is too large for it",
}


class HttpTransport(BaseTransport):
    """Posts events to `{host}/batch/` over kept-alive connections.

    Its only state is its connections and its circuit breaker. It stores no events: the caller retains events
    that could not be delivered. (A client sends them first in its next send.)

    Attributes:
        is_over_quota: Whether the server discarded events in its last response that had `quota_limited`.

    Args:
        api_key: The project API key.
        host: The `http(s)://` URL of the ingestion server; it may have a path prefix.
        timeout: The maximum number of seconds for one attempt, including the time to connect.
        max_retries: The maximum number of attempts after the first, for one batch.
        gzip: `True` compresses every body, `False` none, `None` bodies of 1 KiB and more.
        flush_at: The maximum number of events in one request.
        historical_migration: Whether to mark the events as a historical import.

    Examples:
        >>> transport = HttpTransport("phc_key", "https://leanbase.example.com", timeout=3.0)
    """

    requires = ("api_key", "host")

    @classmethod
    def from_settings(cls, settings: Settings) -> HttpTransport:
        """Create a transport with the client's API key, host and limits."""
        return cls(
            settings.api_key or "",
            settings.host or "",
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            gzip=settings.gzip,
            flush_at=settings.flush_at,
            historical_migration=settings.historical_migration,
        )

    def __init__(
        self,
        api_key: str,
        host: str,
        *,
        timeout: float = 10.0,
        max_retries: int = 3,
        gzip: bool | None = None,
        flush_at: int = 100,
        historical_migration: bool = False,
    ) -> None:
        self._url = host.strip().removesuffix("/") + "/batch/"
        self._head = (
            f'{{"api_key":{json.dumps(api_key.strip())}'
            f',"historical_migration":{json.dumps(historical_migration)},"sent_at":"'
        ).encode()
        self._gzip = gzip
        self._max_events = max(1, flush_at)
        self._max_bytes = MAX_BODY_BYTES
        self._repeated = RepeatedLog()
        self.is_over_quota = False
        self._sender = HttpSender(self._url, timeout=timeout, max_retries=max_retries)

    def __repr__(self) -> str:
        return f"HttpTransport({self._url!r})"

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Post the events in as few requests as the limits allow.

        Blocks until the deadline at the latest. A batch that the server rejects permanently is dropped, and
        the next batch is sent. Once a batch is retained, all later events are retained without an attempt.
        """
        if len(events) == 1:
            return self._send_batch(events, deadline)
        receipt = Receipt()
        start = 0
        while start < len(events):
            batch = self._cut(events, start)
            part = self._send_batch(batch, deadline)
            receipt += part
            start += len(batch)
            if part.has_retained:
                failure = part.groups[-1]
                return receipt + Receipt.retaining(events[start:], failure.reason, failure.error)
        return receipt

    def warm_up(self, *, deadline: Deadline) -> None:
        """Import urllib3 and open a connection."""
        self._sender.warm_up(self._url, deadline=deadline)

    def close(self, *, deadline: Deadline) -> Receipt:
        """End the waits between retries and close idle connections. Does not block."""
        self._sender.close(deadline)
        return Receipt()

    def _cut(self, events: Sequence[EncodedEvent], start: int) -> Sequence[EncodedEvent]:
        """Return the longest run of events from `start` that fits into one request; at least one event."""
        size = len(events[start])
        end = start + 1
        stop = min(len(events), start + self._max_events)
        while end < stop and (size := size + len(events[end]) + 1) <= self._max_bytes:
            end += 1
        return events[start:end]

    def _send_batch(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        """Send one batch with retries. Halve it if the server responds that it is too large."""
        try:
            self._sender.send_with_retries(lambda limit: self._post_once(batch, limit), deadline)
        except RejectedError as error:
            if error.status == PAYLOAD_TOO_LARGE and len(batch) > 1:
                return self._send_halves(batch, deadline)
            self._repeated.log(logging.ERROR, error.status, len(batch), f"dropped: {self._url}: {error}")
            return Receipt.dropping(batch, "rejected", error)
        except TransportError as error:
            if error.reason == UNAVAILABLE and error.mends_soon:
                logger.warning("%d event(s) not delivered yet: %s: %s", len(batch), self._url, error)
            elif error.reason == UNAVAILABLE:
                what = f"not delivered yet: {self._url}: {error}"
                self._repeated.log(logging.WARNING, str(error), len(batch), what)
            return Receipt.retaining(batch, error.reason, error)
        return Receipt(delivered=len(batch))

    def _send_halves(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        middle = len(batch) // 2
        self._max_bytes = min(self._max_bytes, sum(map(len, batch)) // 2)
        first = self._send_batch(batch[:middle], deadline)
        if first.has_retained:
            failure = first.groups[-1]
            return first + Receipt.retaining(batch[middle:], failure.reason, failure.error)
        return first + self._send_batch(batch[middle:], deadline)

    def _post_once(self, batch: Sequence[EncodedEvent], deadline: Deadline) -> None:
        body, headers = self._request(batch)
        response = self._sender.post(self._url, body, headers, deadline=deadline)
        logger.debug("%d event(s) in %d bytes to %s: %d", len(batch), len(body), self._url, response.status)
        if response.status in (307, 308) and (location := self._redirected(response)):
            response = self._sender.post(location, body, headers, deadline=deadline)
        self._judge(response, len(batch))

    def _request(self, batch: Sequence[EncodedEvent]) -> tuple[bytes, dict[str, str]]:
        events = b",".join([event.body for event in batch])
        body = b"".join((self._head, utc_now().encode(), b'","batch":[', events, b"]}"))
        headers = HEADERS
        if self._gzip or (self._gzip is None and len(body) >= COMPRESS_FROM_BYTES):
            try:
                packer = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
                body = packer.compress(body) + packer.flush()
                headers = GZIP_HEADERS
            except Exception as error:
                logger.warning(
                    "%d event(s) are sent uncompressed: gzip raised %s", len(batch), type(error).__name__
                )
        return body, headers

    def _redirected(self, response: Response) -> str | None:
        """Return the target URL of a 307 or 308 if it is on the configured host, else `None`.

        Only path and query come from the response. The host comes from the configured URL, in case two URL
        parsers see different hosts in the response.
        """
        from urllib.parse import urljoin, urlsplit

        named = response.headers.get("Location") or ""
        if _ODD_IN_LOCATION.search(named):
            return None
        try:
            here, there = urlsplit(self._url), urlsplit(urljoin(self._url, named))
            ports = here.port or DEFAULT_PORTS[here.scheme], there.port or DEFAULT_PORTS[there.scheme]
        except (ValueError, KeyError):
            return None
        same_server = here.scheme == there.scheme and ports[0] == ports[1]
        upgraded = (here.scheme, there.scheme) == ("http", "https") and ports == (80, 443)
        if here.hostname != there.hostname or "@" in there.netloc or not (same_server or upgraded):
            return None
        origin = f"https://{here.hostname}" if upgraded else f"{here.scheme}://{here.netloc}"
        location = f"{origin}{there.path}{'?' + there.query if there.query else ''}"
        return location if location != self._url else None

    def _judge(self, response: Response, count: int) -> None:
        status = response.status
        if 200 <= status < 300:
            return self._warn_of_quota(response.body, count)
        if status in RETRIED_4XX or status >= 500:
            retry_after = parse_retry_after(response.headers.get("Retry-After"))
            who = "a proxy" if status == PROXY_AUTHENTICATION_REQUIRED else "the server"
            raise TransportError(f"{who} responded with {status}", retry_after=retry_after)
        if 300 <= status < 400:
            raise RejectedError(
                f"the server responded with {status}, a redirect to "
                f"{host_in(response.headers.get('Location'))}, "
                "which is not followed; set host to the URL that accepts events",
                status=status,
            )
        if logger.isEnabledFor(logging.DEBUG):
            from ..redaction import redacted_answer

            logger.debug(
                "the server responded with %d: %s",
                status,
                redacted_answer(response.body, MAX_QUOTED_CHARACTERS),
            )
        raise RejectedError(f"the server responded with {status}{_EXPLAINED.get(status, '')}", status=status)

    def _warn_of_quota(self, body: bytes, count: int) -> None:
        if b"quota_limited" not in body:
            return
        try:
            limited = json.loads(body).get("quota_limited")
        except Exception:  # the events are delivered, even if the body is malformed
            return
        self.is_over_quota = bool(limited)
        if limited:
            what = "discarded by the server: the project is over its quota"
            self._repeated.log(logging.WARNING, "quota", count, what)


def host_in(location: str | None) -> str:
    from urllib.parse import urlsplit

    try:
        return urlsplit(location or "").hostname or "the same host"
    except ValueError:
        return "an invalid URL"


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, from 0 to 300; `None` if it is missing or invalid.

    The header is a number of seconds or an HTTP date.

    >>> parse_retry_after("1.5"), parse_retry_after("-1"), parse_retry_after("86400")
    (1.5, None, 300.0)
    """
    text = (value or "").strip()
    if text and text.replace(".", "", 1).isdecimal() and text.isascii():
        return min(float(text), MOST_RETRY_AFTER_SECONDS)
    from email.utils import parsedate_to_datetime

    try:
        seconds = max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        return min(seconds, MOST_RETRY_AFTER_SECONDS)
    except (TypeError, ValueError, OverflowError):
        return None
