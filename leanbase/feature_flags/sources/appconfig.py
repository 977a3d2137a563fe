"""Definitions from AWS AppConfig, through its agent on localhost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from ...errors import ConfigError, TransportError
from ..definitions import Definitions
from ..http import HttpClient, TooLargeError, is_timeout
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...transports.deadline import Deadline

DEFAULT_PORT = "2772"


class AppConfigSource(DefinitionsSource):
    """Reads the configuration from the agent, which caches it.

    Args:
        place: `//application/environment/profile`.
    """

    def __init__(self, place: str) -> None:
        parts = place.removeprefix("//").split("/")
        if len(parts) != 3 or not all(parts):
            raise ConfigError(
                f"flag_definitions 'appconfig:{place}' must be appconfig://application/environment/profile"
            )
        application, environment, profile = (quote(part, safe="") for part in parts)
        port = os.environ.get("AWS_APPCONFIG_EXTENSION_HTTP_PORT") or DEFAULT_PORT
        self._url = (
            f"http://localhost:{port}/applications/{application}/environments/{environment}"
            f"/configurations/{profile}"
        )
        self._name = f"appconfig://{'/'.join(parts)}"
        self._http = HttpClient()
        self._version: str | None = None

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        try:
            response = self._http.request("GET", self._url, None, {}, deadline=deadline)
        except (TransportError, TooLargeError) as error:
            timed_out = isinstance(error, TransportError) and is_timeout(error)
            raise SourceError(f"AppConfig's agent: {error}", is_timeout=timed_out) from error
        if response.status != 200:
            raise SourceError(f"AppConfig's agent responded with {response.status}")
        version = response.headers.get("Configuration-Version")
        if known is not None and version is not None and version == self._version:
            return None
        try:
            found = Definitions.from_json(response.body)
        except (ValueError, RecursionError) as error:
            raise SourceError("the configuration has no definitions in it") from error
        self._version = version
        return found

    def close(self) -> None:
        self._http.close()

    def __repr__(self) -> str:
        return self._name
