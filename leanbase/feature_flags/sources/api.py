"""Definitions from the server: `GET /flags/definitions`, with the secret key."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from ...errors import TransportError
from ..definitions import Definitions
from ..http import JSON_HEADERS, HttpClient, TooLargeError, decoded, is_timeout
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...settings import Settings
    from ...transports.deadline import Deadline

logger = logging.getLogger("leanbase")

TIMEOUT_SECONDS = 10.0
FORBIDDEN = {
    401: "secret_key is not valid for this project",
    402: "the project is over its quota of flag requests",
}
HINTS = {404: ": it has no flag definitions; check host (a local server needs --flags)"}


class ApiSource(DefinitionsSource):
    """Loads definitions from the server, which sends them only if they have changed."""

    def __init__(self, host: str, api_key: str, secret_key: str) -> None:
        self._host = host
        self._url = f"{host}/flags/definitions?token={quote(api_key, safe='')}&send_cohorts"
        self._headers = {**JSON_HEADERS, "Authorization": f"Bearer {secret_key}"}
        self._http = HttpClient()

    @classmethod
    def from_settings(cls, settings: Settings) -> ApiSource:
        """Create the source with the client's host and keys. Raises `SourceError` if one is missing."""
        if not (settings.host and settings.api_key and settings.secret_key):
            raise SourceError("host, api_key and secret_key are needed to load definitions from the server")
        return cls(settings.host, settings.api_key, settings.secret_key)

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        etag = None if known is None else known.etag
        headers = self._headers if etag is None else {**self._headers, "If-None-Match": etag}
        asked_at = time.time()
        try:
            limit = deadline.at_most(TIMEOUT_SECONDS)
            response = self._http.request("GET", self._url, None, headers, deadline=limit)
        except TransportError as error:
            raise SourceError(str(error), is_timeout=is_timeout(error)) from error
        except TooLargeError as error:
            raise SourceError(str(error)) from error
        except ValueError:  # raised without its cause: `http.client` quotes the header
            raise SourceError("secret_key has characters that a header cannot have") from None
        if response.status == 304:
            answered = response.headers.get("ETag")
            if etag is None or answered not in (None, etag):
                raise SourceError("the server responded with 304 for definitions that are not here")
            return None
        if response.status in FORBIDDEN:
            raise SourceError(
                f"the server responded with {response.status}: {FORBIDDEN[response.status]}", is_final=True
            )
        if response.status != 200:
            raise SourceError(f"the server responded with {response.status}{HINTS.get(response.status, '')}")
        try:
            return Definitions.from_json(
                decoded(response), etag=response.headers.get("ETag"), fetched_at=asked_at
            )
        except (ValueError, RecursionError) as error:
            raise SourceError("the response has no definitions in it") from error

    def close(self) -> None:
        self._http.close()

    def __repr__(self) -> str:
        return "api"
