"""AWS Signature Version 4, as far as a request without a query needs it.

It follows "Create a signed AWS API request" in the IAM User Guide of AWS.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = frozenset({"user-agent"})
DEFAULT_PORTS = {"http": 80, "https": 443}


class Credentials:
    """The credentials that a request is signed with. `repr()` does not show them."""

    __slots__ = ("access_key", "secret_key", "token")

    def __init__(self, access_key: str, secret_key: str, token: str | None = None) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.token = token

    def __repr__(self) -> str:
        return "<Credentials>"


def signed(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    credentials: Credentials,
    region: str,
    service: str,
    method: str = "POST",
) -> dict[str, str]:
    """Return the headers of a request with a signature for the current time.

    The URL has no query; for S3 its path is quoted. All `headers` are signed except `User-Agent`, which
    proxies change. `service` is a name such as `sqs`.
    """
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    sent = {**headers, "X-Amz-Date": now}
    digest = hashlib.sha256(body).hexdigest()
    path = urlsplit(url).path or "/"
    if service == "s3":
        sent["X-Amz-Content-Sha256"] = digest
    else:
        path = quote(path, safe="/-_.~")  # twice, except for S3
    if credentials.token:
        sent["X-Amz-Security-Token"] = credentials.token
    lowered = {name.lower(): " ".join(value.split()) for name, value in sent.items()}
    to_sign = sorted({**lowered, "host": _host(url)}.items())
    names = ";".join(name for name, _ in to_sign if name not in UNSIGNED)
    canonical = "\n".join(
        (
            method,
            path,
            "",
            *(f"{name}:{value}" for name, value in to_sign if name not in UNSIGNED),
            "",
            names,
            digest,
        )
    )
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((ALGORITHM, now, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed_by = f"{credentials.access_key}/{scope}"
    sent["Authorization"] = (
        f"{ALGORITHM} Credential={signed_by}, SignedHeaders={names}, Signature={signature}"
    )
    return sent


def _host(url: str) -> str:
    """Return the `Host` header for a URL, which omits the default port of the scheme."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    default = f":{DEFAULT_PORTS[parts.scheme]}"
    return host.removesuffix(default)
