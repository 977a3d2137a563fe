"""Definitions from an object in S3, which the publisher writes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from ...errors import ConfigError
from ..definitions import Definitions
from ..http import JSON_HEADERS
from .aws import AwsClient
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...transports.deadline import Deadline

EXPLAINED = {
    403: "access is denied: the function needs s3:GetObject on it",
    404: "it does not exist yet",
}


class S3Source(DefinitionsSource):
    """Reads an object, if it has changed.

    Args:
        place: `//bucket/key`.
    """

    def __init__(self, place: str) -> None:
        bucket, _, key = place.removeprefix("//").partition("/")
        if not bucket or not key:
            raise ConfigError(f"flag_definitions 's3:{place}' must be s3://bucket/key")
        self._name = f"s3://{bucket}/{key}"
        self._aws = AwsClient("s3", f"flag_definitions {self._name!r}")
        self._url = self._url_of(bucket, quote(key, safe="/-_.~"))
        self._etag: str | None = None
        self._has_read = True

    def _url_of(self, bucket: str, path: str) -> str:
        if self._aws.endpoint:
            return f"{self._aws.endpoint}/{bucket}/{path}"
        host = f"s3.{self._aws.region}.amazonaws.com"
        # The certificate of S3 is not valid for a bucket name with a dot.
        return f"https://{host}/{bucket}/{path}" if "." in bucket else f"https://{bucket}.{host}/{path}"

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        headers = dict(JSON_HEADERS)
        if known is not None and self._etag is not None and self._has_read:
            headers["If-None-Match"] = self._etag
        response = self._aws.request("GET", self._url, b"", headers, deadline=deadline)
        if response.status == 304:
            return None
        if response.status != 200:
            raise SourceError(EXPLAINED.get(response.status, f"S3 responded with {response.status}"))
        self._has_read = True
        self._etag = response.headers.get("ETag")  # `publish` needs it, even if the object cannot be read
        try:
            return Definitions.from_json(response.body)
        except (ValueError, RecursionError) as error:
            self._has_read = False
            raise SourceError("the object has no definitions in it") from error

    def publish(self, content: bytes, *, deadline: Deadline) -> None:
        """Write the object, unless another publisher has written it since the last read.

        Raises:
            SourceError: The object was not written.
        """
        headers = {"Content-Type": "application/json"}
        headers.update({"If-Match": self._etag} if self._etag else {"If-None-Match": "*"})
        response = self._aws.request("PUT", self._url, content, headers, deadline=deadline)
        if response.status != 200:
            raise SourceError(f"{self._name} was not written: S3 responded with {response.status}")
        self._etag = response.headers.get("ETag")

    def close(self) -> None:
        self._aws.close()

    def __repr__(self) -> str:
        return self._name
