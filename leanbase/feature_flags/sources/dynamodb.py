"""Definitions from an item in DynamoDB, which the publisher writes."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..definitions import Definitions
from ..http import MAX_BODY_BYTES, decoded
from .aws import AwsClient
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...transports.deadline import Deadline

MAX_TEXT_BYTES = 300 * 1024
"""Larger bundles are compressed: an item has at most 400 KB."""


class DynamoDbSource(DefinitionsSource):
    """Reads one item. Its key is the string attribute `id`. The attribute `value` holds the bundle.

    Args:
        place: `//table/key`.
    """

    def __init__(self, place: str) -> None:
        table, _, key = place.removeprefix("//").partition("/")
        if not table or not key:
            raise ConfigError(f"flag_definitions 'dynamodb:{place}' must be dynamodb://table/key")
        self._table, self._key = table, key
        self._name = f"dynamodb://{table}/{key}"
        self._aws = AwsClient("dynamodb", f"flag_definitions {self._name!r}")

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        item = self._call("GetItem", {"Key": {"id": {"S": self._key}}}, deadline).get("Item")
        if not item:
            raise SourceError("the item does not exist yet")
        try:
            found = Definitions.from_json(_content(item["value"]))
        except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
            raise SourceError("the item has no definitions in it") from error
        is_known = known is not None and found.etag is not None and found.etag == known.etag
        return None if is_known else found

    def publish(self, content: bytes, *, deadline: Deadline) -> None:
        """Write the item. Raises `SourceError`."""
        value = {"S": content.decode()}
        if len(content) > MAX_TEXT_BYTES:
            packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            value = {"B": b64encode(packer.compress(content) + packer.flush()).decode()}
        self._call("PutItem", {"Item": {"id": {"S": self._key}, "value": value}}, deadline)

    def _call(self, operation: str, arguments: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        url = f"{self._aws.endpoint or f'https://dynamodb.{self._aws.region}.amazonaws.com'}/"
        body = json.dumps({"TableName": self._table, **arguments}).encode()
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
        }
        response = self._aws.request("POST", url, body, headers, deadline=deadline)
        try:
            answer = decoded(response)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            answer = {"__type": "without JSON"} if response.status == 200 else {}
        if response.status != 200 or "__type" in answer:
            kind = str(answer.get("__type", "")).rpartition("#")[2]
            raise SourceError(f"DynamoDB responded with {response.status} {kind}".rstrip())
        return answer

    def close(self) -> None:
        self._aws.close()

    def __repr__(self) -> str:
        return self._name


def _content(value: dict[str, Any]) -> str | bytes:
    if "S" in value:
        return str(value["S"])
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    return unpacker.decompress(b64decode(value["B"]), MAX_BODY_BYTES)
