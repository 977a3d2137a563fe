"""Signatures of requests to AWS are the same as those of botocore, byte for byte."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any
from unittest import mock

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from leanbase.transports._aws.sigv4 import Credentials, signed

HOSTS = st.sampled_from(
    [
        "https://sqs.eu-west-1.amazonaws.com/",
        "https://sqs.eu-west-1.amazonaws.com:443/",
        "https://SQS.Eu-West-1.amazonaws.com",
        "http://127.0.0.1:5000/",
        "http://127.0.0.1:80/",
        "http://[::1]:4566/",
        "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com:8443/some path/ü~-_./",
    ]
)
STRINGS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
NAMES = st.from_regex(r"X-[A-Za-z][A-Za-z0-9-]{0,15}", fullmatch=True).filter(
    lambda name: not name.lower().startswith(("x-amz", "x-amzn"))
)
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)


@given(
    url=HOSTS,
    body=st.binary(max_size=500),
    headers=st.dictionaries(NAMES, STRINGS, max_size=5).filter(
        lambda headers: len({name.lower() for name in headers}) == len(headers)
    ),
    access_key=KEYS,
    secret_key=KEYS,
    token=st.none() | KEYS,
    region=st.from_regex(r"[a-z]{2}-[a-z]{4,9}-[1-9]", fullmatch=True),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
)
def test_a_signature_is_the_same_as_that_of_botocore(
    url: str,
    body: bytes,
    headers: dict[str, str],
    access_key: str,
    secret_key: str,
    token: str | None,
    region: str,
    at: Any,
) -> None:
    timestamp = at.replace(microsecond=0, tzinfo=timezone.utc)
    given_headers = {**headers, "Content-Type": "application/x-amz-json-1.0", "User-Agent": "leanbase"}
    request = AWSRequest("POST", url, data=body, headers=given_headers)
    gmtime = time.gmtime(timestamp.timestamp())
    with (
        mock.patch("botocore.auth.get_current_datetime", return_value=timestamp),
        mock.patch("leanbase.transports._aws.sigv4.time.gmtime", return_value=gmtime),
    ):
        SigV4Auth(BotocoreCredentials(access_key, secret_key, token), "sqs", region).add_auth(request)
        signed_headers = signed(
            url,
            body,
            given_headers,
            credentials=Credentials(access_key, secret_key, token),
            region=region,
            service="sqs",
        )
    assert dict(request.headers.items()) == signed_headers


def test_the_repr_of_credentials_has_no_secrets() -> None:
    assert repr(Credentials("an id", "a secret", "a token")) == "<Credentials>"
