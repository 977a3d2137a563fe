"""Reads environment variables that are not options of a client, and the words for true and false."""

from __future__ import annotations

import logging
import os

logger = logging.getLogger("leanbase")

WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
"""The strings that a flag may have, in lower case, and their meanings."""

OTHERS = (
    "lambda_capture_exceptions",
    "lambda_flush",
    "lambda_handler",
    "lambda_idempotent",
    "lambda_timeout_warning",
    "local_token",
)
"""Variables that are not options of a client, in lower case and without the prefix `LEANBASE_`."""


def log_ignored(name: str, used: object, problem: str) -> None:
    """Warn that a variable has an invalid value, and say what is used instead."""
    logger.warning("%s is ignored, %s is used: %s", name, used, problem)


def flag(name: str, default: bool) -> bool:
    """Return the value of a variable that is true or false. Warn about an invalid value and ignore it."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    value = WORDS.get(text.lower())
    if value is None:
        log_ignored(name, default, "it must be true or false")
        return default
    return value
