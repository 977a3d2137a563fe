"""The place of an id in a flag: a number from 0 to 1 that stays the same for the same id."""

from __future__ import annotations

from hashlib import sha1

_LARGEST = 0xFFFFFFFFFFFFFFF  # fifteen hexadecimal digits


def rollout_hash(key: str, who: str) -> float:
    """Return the place of an id in a flag's rollout. It is in when this is at most the share.

    >>> round(rollout_hash("checkout", "user-123"), 6)
    0.507882
    """
    return _place(f"{key}.{who}")


def variant_hash(key: str, who: str) -> float:
    """Return the place of an id among a flag's variants."""
    return _place(f"{key}.{who}variant")


def holdout_hash(who: str) -> float:
    """Return the place of an id in every holdout. It is held out when this is at most the share."""
    return _place(f"holdout-{who}")


def _place(text: str) -> float:
    # The first fifteen hexadecimal digits are the first sixty bits.
    digest = sha1(text.encode("utf-8", "replace"), usedforsecurity=False).digest()
    return (int.from_bytes(digest[:8], "big") >> 4) / _LARGEST
