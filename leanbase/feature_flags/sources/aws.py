"""Requests to AWS, signed without boto3."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import ConfigError, TransportError
from ...transports._aws.credentials import CredentialsSource
from ...transports._aws.sigv4 import signed
from ..http import HttpClient, TooLargeError, is_timeout
from .base import SourceError

if TYPE_CHECKING:
    from ...transports._http.connection import Response
    from ...transports.deadline import Deadline


class AwsClient:
    """Sends requests to one service of AWS.

    Args:
        service: Its name, such as `s3`.
        user: The option that needs it, for messages.

    Raises:
        ConfigError: The environment has no region, or credentials need botocore, which is not installed.
    """

    def __init__(self, service: str, user: str) -> None:
        self._service = service
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise ConfigError(f"{user} needs a region: set AWS_REGION")
        self.region = region
        self._credentials = CredentialsSource(user)
        self._http = HttpClient()

    @property
    def endpoint(self) -> str | None:
        """The address from `AWS_ENDPOINT_URL…`, or `None` for AWS's own."""
        own = os.environ.get(f"AWS_ENDPOINT_URL_{self._service.upper()}")
        return (own or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/") or None

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def request(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, deadline: Deadline
    ) -> Response:
        """Send one request and return the response. Blocks until the deadline at the latest.

        Raises:
            SourceError: There was no response, or the credentials could not be read.
        """
        try:
            sent = signed(
                url,
                body,
                headers,
                credentials=self._credentials.current(deadline),
                region=self.region,
                service=self._service,
                method=method,
            )
            return self._http.request(method, url, body or None, sent, deadline=deadline)
        except (TransportError, TooLargeError) as error:
            timed_out = isinstance(error, TransportError) and is_timeout(error)
            raise SourceError(str(error), is_timeout=timed_out) from error
