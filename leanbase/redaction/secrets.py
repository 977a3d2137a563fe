"""Find strings that look like secrets (V-11, V-12)."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

LEAST_KNOWN_CHARACTERS = 14
"""The length of the shortest secret in `_FORMATS`."""

LEAST_CARD_DIGITS = 13
LEAST_RANDOM_CHARACTERS = 16
LEAST_ENTROPY_BITS = 3.8
LEAST_DIFFERENT_CHARACTERS = math.ceil(2**LEAST_ENTROPY_BITS)  # fewer cannot have that entropy
LEAST_CHARACTER_CLASSES = 3

_CREDENTIALS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]{0,30}://)"
    # User and password. A password may contain a slash or hash, but a port and a path are not a password.
    r"([^\s/?#]*|[^\s/?#:@]*:(?!\d{1,5}[/?#])[^\s@'\"<>]{1,200})@"
)

# For each format, a string that all its secrets contain, which is searched for first, and its pattern. The
# providers document the formats, or their tokens show them.
_FORMATS = [
    (marker, re.compile(rf"(?<![A-Za-z0-9]){pattern}"))
    for marker, pattern in [
        # AI providers
        ("sk-", r"sk-(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{12,}"),
        ("sk-", r"sk-[A-Za-z0-9]{16,}[A-Za-z0-9_-]*"),
        ("hf_", r"hf_[A-Za-z0-9]{16,}"),
        # clouds
        ("A", r"A(?:KIA|SIA|BIA|CCA|3T[A-Z0-9])[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("AIza", r"AIza[A-Za-z0-9_-]{35}"),
        ("ya29.", r"ya29\.[A-Za-z0-9_-]{16,}"),
        ("_v1_", r"do[opr]_v1_[A-Za-z0-9]{16,}"),
        # payments
        ("k_", r"[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,}"),
        ("whsec_", r"whsec_[A-Za-z0-9+/]{16,}"),
        ("sq0", r"sq0[a-z]{3}-[A-Za-z0-9_-]{16,}"),
        # code hosting and continuous integration
        ("gh", r"gh[oprsu]_[A-Za-z0-9]{16,}"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{16,}"),
        ("gl", r"gl[a-z]{2,6}-[A-Za-z0-9_.-]{16,}"),
        ("glsa_", r"glsa_[A-Za-z0-9_]{16,}"),
        # messaging
        ("xox", r"xox[a-z]-[A-Za-z0-9-]{10,}"),
        ("xapp-", r"xapp-[A-Za-z0-9-]{10,}"),
        ("SK", r"SK[0-9a-fA-F]{32}(?![A-Za-z0-9])"),
        ("SG.", r"SG\.[A-Za-z0-9_-]{16,128}\.[A-Za-z0-9_-]{16,}"),
        ("key-", r"key-[0-9a-f]{32}(?![A-Za-z0-9])"),
        ("-us", r"[0-9a-f]{32}-us[0-9]{1,2}(?![A-Za-z0-9])"),
        # registries and services
        ("npm_", r"npm_[A-Za-z0-9]{16,}"),
        ("pypi-", r"pypi-AgEI[A-Za-z0-9_-]{16,}"),
        ("dapi", r"dapi[0-9a-f]{32}(?:-[0-9])?"),
        ("dp.", r"dp\.(?:pt|ct|st|sa|scim|audit)\.[A-Za-z0-9._-]{16,}"),
        ("PMAK-", r"PMAK-[A-Za-z0-9-]{16,}"),
        ("lin_api_", r"lin_api_[A-Za-z0-9]{16,}"),
        ("ntn_", r"ntn_[A-Za-z0-9]{16,}"),
        ("shp", r"shp[a-z]{2}_[0-9A-Za-z]{16,}"),
        ("NR", r"NR(?:AK|AA|RA|II|IQ|JS)-[A-Za-z0-9_-]{16,}"),
        ("ph", r"ph[acsx]_[A-Za-z0-9]{16,}"),
        ("arer ", r"(?i:bearer) (?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{8,}=*"),
        ("EARER ", r"(?i:bearer) (?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{8,}=*"),
        ("asic ", r"(?i:basic) (?=[A-Za-z+/]*[A-Z0-9])[A-Za-z0-9+/]{8,}={0,2}(?![A-Za-z0-9+/])"),
        ("ASIC ", r"(?i:basic) (?=[A-Za-z+/]*[A-Z0-9])[A-Za-z0-9+/]{8,}={0,2}(?![A-Za-z0-9+/])"),
        # signatures and tokens in URLs, webhooks whose URL is the secret, keys of storage accounts
        ("X-Amz-", r"(?<=X-Amz-Signature=)[^&\s'\"]{8,}"),
        ("sig=", r"(?<=sig=)[A-Za-z0-9%+/_-]{16,}=*"),
        ("access_token=", r"(?<=access_token=)[^&\s'\"]{8,}"),
        ("hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{16,}"),
        ("/api/webhooks/", r"discord(?:app)?\.com/api/webhooks/[0-9]+/[A-Za-z0-9_-]{16,}"),
        ("webhook.office.com/", r"webhook\.office\.com/[^\s'\"]{16,}"),
        ("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{16,}={0,2}"),
        ("SharedAccessKey=", r"(?<=SharedAccessKey=)[A-Za-z0-9+/]{16,}={0,2}"),
        ("eyJ", r"(?<![_-])eyJ[A-Za-z0-9_-]{8,2048}\.[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{4,}"),
    ]
]
# A card number has at least four digits in a row, and is not part of a longer number or word.
_CARD_START = re.compile(r"\d{4}[ -]?\d{2}")
_CARD = re.compile(r"(?<![A-Za-z0-9.-])\d(?:[ -]?\d){12,18}(?![A-Za-z0-9]|[.-]\d)")
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|4[4-9]|5)|3(?:0[0-5]|[68])|35")
_PEM_MARKER = "PRIVATE KEY-----"
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:.*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|.*)", re.DOTALL
)


def mask_credentials(text: str, mask: str) -> str:
    """Replace the user and password of every URL in a string. URLs without a password do not change.

    >>> mask_credentials("postgres://jo:pw@db:5432/shop, ssh://git@host", "***")
    'postgres://***@db:5432/shop, ssh://git@host'
    """
    if "://" not in text or "@" not in text:
        return text
    return _CREDENTIALS.sub(lambda url: f"{url[1]}{mask}@" if ":" in url[2] else url[0], text)


def mask_known(text: str, mask: str) -> str:
    """Replace every private key, token of a known format and payment card number in a string."""
    if len(text) < LEAST_CARD_DIGITS:
        return text
    if _CARD_START.search(text):
        text = _CARD.sub(lambda found: mask if _is_card(found[0]) else found[0], text)
    if len(text) < LEAST_KNOWN_CHARACTERS:
        return text
    if _PEM_MARKER in text:
        text = _PEM.sub(mask, text)
    for marker, pattern in _FORMATS:
        if marker in text:
            text = pattern.sub(mask, text)
    return text


def _is_card(text: str) -> bool:
    """Return True for the number of a payment card: of a known issuer, with a valid check digit."""
    digits = [int(digit) for digit in text if digit.isdecimal()]
    if not (13 <= len(digits) <= 19 and _ISSUER.match("".join(map(str, digits)))):
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


# --- what looks random ------------------------------------------------------------------------------

_NEVER_IN_TOKENS = re.compile(r"[\s\\()\[\]{}<>'\"`,;]")
_LOWER_CASE_SEGMENT = re.compile(r"[a-z]{2,}(?:[._-][a-z0-9]+)*")
# Strings that are ids, digests or names, even if they look random.
_HARMLESS = re.compile(
    r"""
      [0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}                  # a UUID
    | (?:0x)?[0-9a-fA-F]+                                                   # an id, a digest
    | arn:.*                                                                # an ARN
    | [A-Za-z][A-Za-z0-9_.-]*/v?[0-9]+(?:\.[0-9]+)*(?:[-+.][A-Za-z0-9]+)*   # name/version
    | [^\W\d]\w*(?:(?:\.|::)[^\W\d]\w*)+                                    # a.dotted.path, or::this
    """,
    re.VERBOSE,
)


def looks_random(text: str) -> bool:
    """Return True if a string looks like a key: long, of mixed characters and high entropy.

    Ids, digests, dotted names and paths are not keys.
    """
    if len(text) < LEAST_RANDOM_CHARACTERS or _NEVER_IN_TOKENS.search(text) or "://" in text:
        return False
    characters = set(text)
    if len(characters) < LEAST_DIFFERENT_CHARACTERS:
        return False
    classes = set(map(_character_class, characters))
    if len(classes) < LEAST_CHARACTER_CLASSES or _entropy(text) < LEAST_ENTROPY_BITS:
        return False
    return not (_HARMLESS.fullmatch(text) or _is_path(text))


def _is_path(text: str) -> bool:
    segments = text.split("/")
    return len(segments) > 1 and sum(bool(_LOWER_CASE_SEGMENT.fullmatch(each)) for each in segments) >= 2


@lru_cache(maxsize=1024)
def _character_class(character: str) -> str:
    if character.islower():
        return "lower"
    if character.isupper():
        return "upper"
    return "digit" if character.isdigit() else "symbol"


def _entropy(text: str) -> float:
    """Return the Shannon entropy in bits per character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())
