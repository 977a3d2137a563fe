"""Redact secrets in names, strings and URLs, also the environment's secrets (V-3 to V-7, V-10 to V-12)."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

from .secrets import looks_random, mask_credentials, mask_known

REDACTED = "$$_leanbase_redacted_based_on_masking_rules_$$"
TOO_LONG = "$$_leanbase_value_too_long_$$"
LEAST_SECRET_CHARACTERS = 8
MAX_SHORT_TEXT = 200

DEFAULT_IGNORE_PATTERNS = (r"^__.*",)
DEFAULT_MASK_PATTERNS = (
    *(
        f"(?i){word}"
        for word in (
            "password", "secret", "passwd", "pwd", "api_key", "apikey", "credentials", "privatekey",
            "private_key", "token", "aws_access_key_id", "_pass", "jwt", "connection_string",
            "connectionstring", "conn_str", "connstr", "dsn", "cookie", "session", "csrf", "passphrase",
            "access_key", "cvv",
        )
    ),
    # Each begins with a set of letters, which makes a search much faster.
    # The words pw, pin, otp and ssn:
    r"[pPoOsS\u017f](?i:(?<![a-z].)(?:(?<=p)(?:w|in)|(?<=o)tp|(?<=s)sn)(?![a-z]))",
    # sk_, but not in task_id or disk_usage; auth, but not in author:
    r"[sS\u017faA](?i:(?<=s)(?<![a-z_].)k_|(?<=a)uth(?:$|[^a-z]|orization|entication|enticate))",
)  # fmt: skip

Matcher = Callable[[str], bool]

_PARAMETER = re.compile(r"([?&;#][^=&?;#\s]{1,64}=)[^&;#\s'\"<>]+")  # in the query or fragment of a URL
_URL_SAFE = str.maketrans("+/", "-_")
_QUERY_PART = re.compile(r"[^&;]+")
_LITERAL = re.compile(r"\(\?i\)([\w \-/@:]+)")


def broken_in(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns that are not valid regular expressions."""
    return tuple(each for each in patterns if not _LITERAL.fullmatch(each) and _compiled(each) is None)


def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None


@lru_cache(maxsize=64)
def matcher(patterns: tuple[str, ...]) -> Matcher:
    """Return a function that searches a string for any of the patterns. Invalid patterns are skipped."""
    found = [(_LITERAL.fullmatch(pattern), pattern) for pattern in patterns]
    words = [re.escape(literal[1].lower().replace("-", "_")) for literal, _ in found if literal]
    has_word = re.compile("|".join(words) if words else "(?!)").search
    others = [expression for literal, pattern in found if not literal and (expression := _compiled(pattern))]

    def matches(text: str) -> bool:
        lowered = text.lower().replace("-", "_")  # `api_key` also matches x-api-key
        if has_word(lowered):
            return True
        for expression in others:  # noqa: SIM110 - any() takes longer
            if expression.search(text):
                return True
        return False

    return matches


class _Remembered(dict[str, Any]):
    """Remembers a function's results for short strings: the frames of an exception share most of them."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> Any:
        result = self._function(text)
        if len(text) <= MAX_SHORT_TEXT:
            self[text] = result
        return result


class Redaction:
    """Decides what is shown of the names and strings of one event.

    The values of environment variables with a secret's name are replaced wherever they appear.

    Args:
        mask: Returns True for a name or string that names a secret.
        ignore: Returns True for the name of a variable that is left out.
        mask_url_credentials: Whether users and passwords in URLs are replaced.
        detect_secrets: Whether strings that look like secrets are replaced.

    Attributes:
        is_masked: As `mask`.
        key: Returns the key of a dict, redacted. A key such as `password` stays: only its value is hidden.
        value: Returns a string from a variable: unchanged, partly redacted, or replaced completely.
    """

    def __init__(
        self,
        mask: Matcher,
        ignore: Matcher,
        *,
        mask_url_credentials: bool,
        detect_secrets: bool,
    ) -> None:
        self._detect_secrets = detect_secrets
        self._certain = partial(_certain, _secrets_of(os.environ, mask), mask_url_credentials)
        # Not methods: they would put `self` in a reference cycle with the object that remembers them.
        self.is_ignored: Matcher = _Remembered(ignore).__getitem__
        self.is_masked: Matcher = _Remembered(mask).__getitem__
        self.key: Callable[[str], str] = _Remembered(partial(_key, self._certain, detect_secrets)).__getitem__
        self.value: Callable[[str], str] = _Remembered(partial(_value, self.is_masked, self.key)).__getitem__

    def message(self, text: str) -> str:
        """Return the message of an exception: definite secrets are replaced, and the rest stays readable."""
        text = _PARAMETER.sub(self._parameter, self._certain(text))
        return mask_known(text, REDACTED) if self._detect_secrets else text

    def _parameter(self, found: re.Match[str]) -> str:
        return f"{found[1]}{REDACTED}" if self.is_masked(found[1]) else found[0]


def _certain(secrets: Sequence[str], mask_url_credentials: bool, text: str) -> str:
    """Replace definite secrets: values of the environment, and credentials in URLs."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    return mask_credentials(text, REDACTED) if mask_url_credentials else text


def _key(certain: Callable[[str], str], detect_secrets: bool, text: str) -> str:
    text = certain(text)
    if not detect_secrets:
        return text
    masked = mask_known(text, REDACTED)
    # Replace a short string as a whole. The rest of a long string may be worth reading.
    if looks_random(text) or (masked != text and len(text) <= MAX_SHORT_TEXT):
        return REDACTED
    return masked


def _value(is_masked: Matcher, key: Callable[[str], str], text: str) -> str:
    return REDACTED if is_masked(text) else key(text)


def redacted_value(value: Any, redaction: Redaction, name: str = "") -> Any:
    """Return a plain value with its secrets replaced. `name` is the name of the value, if it has one."""
    if name and redaction.is_masked(name):
        return REDACTED
    if isinstance(value, str):
        return redaction.value(value)
    if isinstance(value, dict):
        return {redaction.key(key): redacted_value(each, redaction, key) for key, each in value.items()}
    if isinstance(value, list):
        return [redacted_value(each, redaction) for each in value]
    return value


def redacted_answer(body: bytes, limit: int) -> str:
    """Return at most `limit` characters of a server's response, which may quote the request, redacted.

    A string that names a secret is replaced as a whole, because the end of the secret in it is unknown.
    """
    redaction = Redaction(
        matcher(DEFAULT_MASK_PATTERNS), matcher(()), mask_url_credentials=True, detect_secrets=True
    )
    text = body.decode(errors="replace")
    try:
        text = json.dumps(redacted_value(json.loads(text), redaction), ensure_ascii=False)
    except (ValueError, RecursionError):
        text = redaction.value(text)
    return text[:limit]


def redacted_url(url: str) -> str:
    """Return a URL with the secrets in its query replaced.

    A parameter is secret if it has a secret's name, or if its value is a URL with such a parameter.

    >>> redacted_url("https://example.com/reset?page=2&token=abc")
    'https://example.com/reset?page=2&token=$$_leanbase_redacted_based_on_masking_rules_$$'
    """
    path, mark, query = url.partition("?")
    return f"{path}?{_QUERY_PART.sub(_redacted_part, mask_credentials(query, REDACTED))}" if mark else url


def _redacted_part(part: re.Match[str]) -> str:
    name, equals, value = part[0].partition("=")
    if not equals:
        return part[0]
    hides = _is_secret_name(unquote_plus(name)) or (
        "%3d" in value.lower() and _has_secret(unquote_plus(value))
    )
    return f"{name}={REDACTED}" if hides else part[0]


def _has_secret(url: str) -> bool:
    """Return True if the URL in a parameter itself has a parameter with a secret's name."""
    names = (part.partition("=")[0] for part in _QUERY_PART.findall(url.partition("?")[2] or url))
    return any(_is_secret_name(unquote_plus(name)) for name in names)


def _secrets_of(environment: Mapping[str, str], mask: Matcher) -> Sequence[str]:
    """Return the values of variables with a secret's name in all their formats, the longest first."""
    global _latest_secrets
    entries = getattr(environment, "_data", None)  # of `os.environ`: reading it decodes every variable
    if _latest_secrets is not None and _latest_secrets[0] == entries and _latest_secrets[1] is mask:
        return _latest_secrets[2]
    found: set[str] = set()
    for name, value in list(environment.items()):
        if len(value) < LEAST_SECRET_CHARACTERS or _is_place(name, value):
            continue
        if mask(name) or _is_secret_name(name):
            found.update(_appearances(value))
    secrets = sorted(found, key=len, reverse=True)
    if entries is not None:
        _latest_secrets = dict(entries), mask, secrets
    return secrets


_latest_secrets: tuple[dict[Any, Any], Matcher, Sequence[str]] | None = None
"""The environment that was read last, the patterns, and the secrets found. An environment seldom changes."""


def _is_place(name: str, value: str) -> bool:
    """Return True for the working directory or the path of a secret: paths are common in messages."""
    return name in ("PWD", "OLDPWD") or (
        name.endswith(("_DIR", "_FILE", "_PATH", "_SOCK")) and value.startswith(("/", "./", "~"))
    )


@lru_cache(maxsize=256)
def _appearances(value: str) -> frozenset[str]:
    """Return the formats that a string has inside a `repr`, JSON, base64 or a URL."""
    stripped = value.strip()
    return frozenset(
        {
            value,
            stripped,
            *_in_base64(stripped),
            quote(stripped, safe="", errors="replace").replace("%2F", "%2f").lower(),
            repr(value)[1:-1],
            repr(f"{value}'\"")[1:-4],
            repr(value.encode("utf-8", "surrogateescape"))[2:-1],
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            quote(value, safe="", errors="replace"),
            quote(value, errors="replace"),
            quote_plus(value, errors="replace"),
        }
    )


def _in_base64(value: str) -> Iterator[str]:
    """Yield the base64 of a string inside longer data, for each of the three offsets where it may begin."""
    data = value.encode("utf-8", "replace")
    for offset in range(3):
        # The first and last characters also hold bits of the bytes around it.
        whole = b64encode(b"\0" * offset + data + b"\0" * (-(offset + len(data)) % 3)).decode()
        first, last = (offset * 8 + 5) // 6, (offset + len(data)) * 8 // 6
        if last - first >= LEAST_SECRET_CHARACTERS:
            yield whole[first:last]
            yield whole[first:last].translate(_URL_SAFE)


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    """Return True if the default patterns match. They also apply to clients with their own patterns."""
    return matcher(DEFAULT_MASK_PATTERNS)(name)
