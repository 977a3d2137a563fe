"""Hashes of ids: numbers from 0 to 1, always the same for the same id."""

from __future__ import annotations

from hashlib import sha1

_LARGEST = 0xFFFFFFFFFFFFFFF  # fifteen hexadecimal digits


def rollout_hash(key: str, who: str) -> float:
    """Return the hash of an id for a flag's rollout. The id is in if the hash is at most the share.

    >>> round(rollout_hash("checkout", "user-123"), 6)
    0.507882
    """
    return _hash(f"{key}.{who}")


def variant_hash(key: str, who: str) -> float:
    """Return the hash of an id for a flag's variants."""
    return _hash(f"{key}.{who}variant")


def holdout_hash(who: str) -> float:
    """Return the hash of an id for every holdout. The id is held out if the hash is at most the share."""
    return _hash(f"holdout-{who}")


def _hash(text: str) -> float:
    # The first 60 bits: fifteen hexadecimal digits.
    digest = sha1(text.encode("utf-8", "replace"), usedforsecurity=False).digest()
    return (int.from_bytes(digest[:8], "big") >> 4) / _LARGEST
