"""Ids of events: new UUIDs of version 7, and the UUIDs that a caller passes."""

from __future__ import annotations

import logging
import os
import re
import time

from ..interrupts import raise_interrupt
from .proxies import resolved

logger = logging.getLogger("leanbase")

_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""For each random hexadecimal digit: the digit with the variant 0b10 and two of its bits."""


def uuid7() -> str:
    """Return a new UUIDv7 (RFC 9562), ordered by time down to a quarter of a microsecond.

    The twelve bits after the milliseconds hold the fraction of the millisecond (method 3 of section 6.2). The
    operating system supplies the other bits at each call, so forks and restored snapshots repeat no UUID.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    moment = milliseconds << 16 | 0x7000 | nanoseconds * 4096 // 1_000_000
    digits = (moment.to_bytes(8, "big") + os.urandom(8)).hex()
    variant = _VARIANT[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def uuid4() -> str:
    random = int.from_bytes(os.urandom(16), "big")
    return _uuid_text(random & ~(0xF << 76 | 0b11 << 62) | 0x4 << 76 | 0b10 << 62)


def _uuid_text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def normalized_uuid(value: object) -> str:
    """Return a caller's uuid in the format 8-4-4-4-12, or a new uuid if it is missing or invalid."""
    if value is None:
        return uuid7()
    if type(value) is not str:
        value = resolved(value)
    try:
        if isinstance(value, str) and _CANONICAL_UUID.fullmatch(value):
            return str.__str__(value)
        from uuid import UUID

        return str(value if isinstance(value, UUID) else UUID(value))  # type: ignore[arg-type]
    except Exception as error:
        raise_interrupt(error)
        logger.error(
            "uuid must be a UUID or a string in UUID format, not %s; a new one is generated",
            type(value).__name__,
        )
        return uuid7()
