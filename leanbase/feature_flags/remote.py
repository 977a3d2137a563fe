"""Requests the values of flags from the server: `POST /flags/`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TransportError
from ..events.timestamps import utc_now
from ..transports._repeated import RepeatedLog
from ..transports.deadline import Deadline
from .breaker import FAIR_SECONDS, SHORT_PAUSE_SECONDS, breaker_of
from .http import JSON_HEADERS, HttpClient, decoded, is_refused, is_timeout
from .responses import UNKNOWN, UnreadableError, read
from .snapshot import Evaluation, Record

if TYPE_CHECKING:
    from ..settings import Settings

logger = logging.getLogger("leanbase")

VERSION = 2
"""The version of the response that is requested. All other versions can be read as well."""

FIRST_WAIT_SECONDS = 0.3
RETRIED = (502, 504)
CONNECTION_ERROR = "connection_error"
TIMEOUT = "timeout"


class RemoteFlags:
    """Lets the server evaluate flags."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings.host}/flags/?v={VERSION}"
        self._api_key = settings.api_key
        self._seconds = settings.flags_timeout
        self._retries = settings.flags_max_retries
        self._http = HttpClient()
        self._repeated = RepeatedLog()

    @property
    def most_seconds(self) -> float:
        """The maximum seconds of one evaluation, with all retries."""
        waits = sum(FIRST_WAIT_SECONDS * 2**number for number in range(self._retries))
        return float(self._seconds * (1 + self._retries) + waits)

    def disconnect(self) -> None:
        """Close idle connections."""
        self._http.close()

    def evaluate(
        self,
        fields: Mapping[str, Any],
        keys: Sequence[str] | None,
        evaluation: Evaluation,
        *,
        deadline: Deadline,
    ) -> dict[str, Record]:
        """Return the server's records by key. Failures are added to `evaluation.errors`. Blocks.

        Args:
            fields: The fields of the request about the identity, as JSON values.
            keys: The flags to evaluate; `None` for all.
            evaluation: Also receives the server's request id and timestamp.
            deadline: The time by which the call returns.
        """
        breaker = breaker_of(self._url)
        if breaker.is_open:
            evaluation.errors.append(CONNECTION_ERROR)
            return {}
        given = deadline.remaining()
        if given <= 0.0:
            evaluation.errors.append(TIMEOUT)
            return {}
        try:
            records = self._asked(fields, keys, evaluation, deadline)
        except TransportError as error:
            error_of_flags = TIMEOUT if is_timeout(error) else CONNECTION_ERROR
            if error_of_flags == TIMEOUT and given < min(self._seconds, FAIR_SECONDS):
                breaker.failed(at_once=True, seconds=SHORT_PAUSE_SECONDS)  # the request had little time
            else:
                breaker.failed(at_once=error_of_flags == TIMEOUT)
            self._failed(evaluation, error_of_flags, str(error))
        except (UnreadableError, ValueError, RecursionError):
            breaker.succeeded()
            self._failed(evaluation, UNKNOWN, "the response is not one of the flags service")
        else:
            if records is not None:
                breaker.succeeded()
                return records
            breaker.failed()
        return {}

    def _asked(
        self,
        fields: Mapping[str, Any],
        keys: Sequence[str] | None,
        evaluation: Evaluation,
        deadline: Deadline,
    ) -> dict[str, Record] | None:
        asked = {} if keys is None else {"flag_keys_to_evaluate": list(keys)}
        wait = FIRST_WAIT_SECONDS
        for number in range(self._retries + 1):
            request = {"api_key": self._api_key, **fields, **asked, "sent_at": utc_now()}
            body = json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
            is_last = number == self._retries or deadline.remaining() <= wait
            try:
                limit = deadline.at_most(self._seconds)
                response = self._http.request("POST", self._url, body, JSON_HEADERS, deadline=limit)
            except TransportError as error:
                if is_last or is_refused(error) or not error.mends_soon:
                    raise
            else:
                if 200 <= response.status < 300:
                    return read(decoded(response), evaluation)
                if is_last or response.status not in RETRIED:
                    text = f"the server responded with {response.status}"
                    self._failed(evaluation, f"api_error_{response.status}", text)
                    return {} if response.status < 500 else None
            time.sleep(wait)
            wait *= 2
        raise AssertionError("the last attempt returns or raises")

    def _failed(self, evaluation: Evaluation, error: str, what: str) -> None:
        evaluation.errors.append(error)
        text = f"about flags failed: {what}; flags without a value have their defaults"
        self._repeated.log(logging.WARNING, error, 1, text, "request(s)")
