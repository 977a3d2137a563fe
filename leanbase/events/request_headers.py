"""Identity and request tags from HTTP headers, for handlers and middleware alike.

Headers are hints for analytics that an attacker can control. They never authenticate anything. A header that
cannot be read counts as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SESSION_ID = ("x-leanbase-session-id", "x-posthog-session-id")
DISTINCT_ID = ("x-leanbase-distinct-id", "x-posthog-distinct-id")
MAX_VALUE_CHARACTERS = 1000

SAFE_IN_PATH = "/:@!$&'()*+,;=~"
"""Characters that are not percent-encoded in the path of a URL."""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Headers:
    """The headers of one request, in any format that a framework uses.

    Args:
        pairs: Names and values. A name may be a string or bytes, in any case, with `_` for `-`, and with the
            prefix `HTTP_`. A value may be a string, bytes, or a list of both.

    >>> Headers({"HTTP_X_LEANBASE_SESSION_ID": " s-1 "}.items()).session_id
    's-1'
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self._values: dict[str, str] = {}
        self._forwarded: list[str] = []
        for name, value in pairs:
            if not isinstance(name, (str, bytes)):
                continue
            if text := sanitize_header(value):
                self._values.setdefault(_normal_name(name), text)
            # Only this spelling: proxies change no other, so an attacker could forge it.
            if name in ("HTTP_X_FORWARDED_FOR", b"x-forwarded-for") or name.lower() == "x-forwarded-for":
                for each in value if isinstance(value, (list, tuple)) else (value,):
                    text = each.decode("latin-1") if isinstance(each, bytes) else each
                    self._forwarded += text.split(",") if isinstance(text, str) else ()

    @classmethod
    def of(cls, *sources: object) -> Headers:
        """Return the headers of several mappings. Earlier mappings win. Other types are skipped."""
        pairs: list[tuple[Any, Any]] = []
        for source in sources:
            if isinstance(source, Mapping):
                try:
                    pairs.extend(source.items())
                except Exception:  # a framework's object that only looks like a mapping
                    continue
        return cls(pairs)

    def get(self, name: str) -> str | None:
        """Return the sanitized value of a header by its lower-case name, or `None`."""
        return self._values.get(name)

    @property
    def session_id(self) -> str | None:
        """Return the session id that the web SDK sent, or `None`."""
        return self._first(SESSION_ID)

    @property
    def distinct_id(self) -> str | None:
        """Return the distinct id that the web SDK sent, or `None`."""
        return self._first(DISTINCT_ID)

    def forwarded_for(self, *, last: bool = False) -> str | None:
        """Return the address of the HTTP client as the proxies report it, or `None`.

        With `last`, trust only the last proxy, which appends the address that it has seen itself.
        """
        return sanitize_header(self._forwarded[-1 if last else 0]) if self._forwarded else None

    def _first(self, names: tuple[str, ...]) -> str | None:
        return next((value for name in names if (value := self.get(name))), None)


def request_tags(
    headers: Headers, *, url: str | None, method: str | None, path: str | None, ip: str | None
) -> dict[str, str]:
    """Return the tags of a request, without tags whose value is missing.

    The URL is absolute, the path has no query, and `ip` is the address of the HTTP client.
    """
    agent = headers.get("user-agent")
    tags = {
        "$current_url": url,
        "$request_method": method,
        "$request_path": path,
        "$ip": ip,
        "$user_agent": agent,
        "$raw_user_agent": agent,
    }
    return {name: value for name, value in tags.items() if value}


def forwarded_scheme(headers: Headers) -> str | None:
    """Return the scheme that the HTTP client used, as the proxy reports it, or `None`."""
    scheme = (headers.get("x-forwarded-proto") or "").partition(",")[0].strip().lower()
    return scheme if scheme in ("http", "https") else None


def without_user(host: str | None) -> str | None:
    """Return a host without the user and password in front of it."""
    return host and host.rpartition("@")[2]


def url_with_query(url: str, query: str) -> str:
    """Return a URL with its query, in which the values of secret parameters are redacted."""
    if not query:
        return url
    from ..redaction import redacted_url

    return redacted_url(f"{url}?{query}")


def sanitize_header(value: object) -> str | None:
    """Return a header's value without control characters, trimmed and shortened; `None` if nothing is left.

    >>> sanitize_header([b"\\x00", " user-1\\r\\n"])
    'user-1'
    """
    if isinstance(value, (list, tuple)):
        return next((text for each in value if (text := sanitize_header(each))), None)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    return _CONTROL_CHARACTERS.sub("", value).strip()[:MAX_VALUE_CHARACTERS].strip() or None


def _normal_name(name: str | bytes) -> str:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return text.lower().replace("_", "-").removeprefix("http-")
