"""Checks that need no network: the settings, the key and the host."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ..delivery import factory
from ..errors import ConfigError
from ..settings import LOOPBACK_HOSTS, PACKAGE, UNENCRYPTED, Settings, forget_warnings, module_attributes
from .report import Step

SECRET_PREFIXES = ("phs_", "phx_")
"""Prefixes of keys that can read a project. A project API key begins with `phc_`."""

OVER_HTTP = frozenset({"http", "spool"})
"""Transports that need the host."""


class _Warnings(logging.Handler):
    """Collects the warnings about settings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def resolved() -> tuple[Settings | None, Step]:
    """Return the settings of the process, or `None` if they are invalid, and the step."""
    logger = logging.getLogger("leanbase")
    handler = _Warnings()
    propagates, logger.propagate = logger.propagate, False
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        forget_warnings()
        settings = Settings.resolve({})
        missing = factory.missing_settings(settings)
    except ConfigError as error:
        return None, Step("settings", "failed", str(error), "correct the setting that it names")
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        logger.setLevel(level)
    return settings, _step(settings, missing, handler.texts)


def _step(settings: Settings, missing: list[str], warnings: list[str]) -> Step:
    off = {"disabled": settings.disabled, "opted_out": settings.opted_out, "send=False": not settings.send}
    stopped = [name for name, is_off in off.items() if is_off]
    if stopped:
        found = f"the client sends nothing: {', '.join(stopped)}"
        return Step("settings", "failed", found, "remove this setting")
    if missing:
        variables = " and ".join(f"LEANBASE_{name.upper()}" for name in missing)
        found = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        attributes = " and ".join(f"{PACKAGE}.{name}" for name in missing)
        return Step("settings", "failed", found, f"set {variables}, or {attributes} in code")
    if ways(settings) & OVER_HTTP:  # then the step about the host says this
        warnings = [text for text in warnings if text != UNENCRYPTED]
    if settings.timeout > settings.send_deadline:
        warnings.append(
            f"timeout ({settings.timeout:g} s) never applies: send_deadline ends a send after "
            f"{settings.send_deadline:g} s"
        )
    way = _described(settings.transport)
    if settings.fallback is not None:
        way += f", fallback {_described(settings.fallback)}"
    if not settings.sync_mode:
        way += ", sync_mode off"
    found = ", ".join([f"transport {way}", *_origins()])
    return Step("settings", "warning" if warnings else "ok", found, "; ".join(warnings))


def _origins() -> Iterator[str]:
    """Say where the host and the key are set: a forgotten variable is a frequent reason for a wrong key."""
    module = module_attributes()
    for name, options in {"host": ("host",), "key": ("project_api_key", "api_key")}.items():
        places = {f"{PACKAGE}.{each}": module.get(each) for each in options}
        places |= {f"LEANBASE_{each.upper()}": os.environ.get(f"LEANBASE_{each.upper()}") for each in options}
        yield from [f"{name} from {place}" for place, value in places.items() if str(value or "").strip()][:1]


def ways(settings: Settings) -> set[str]:
    """Return the names of the transport and the fallback. A buffer counts as `http`."""
    named = {each for each in (settings.transport, settings.fallback) if isinstance(each, str)}
    return {"http" if each == "buffered" else each for each in named}


def _described(transport: Any) -> str:
    return transport if isinstance(transport, str) else type(transport).__name__


def address(settings: Settings) -> Iterator[Step]:
    """Check the host, and that the key is not a secret key. A secret key must not be sent."""
    key, host = settings.api_key or "", settings.host
    if key.startswith(SECRET_PREFIXES):
        advice = "use the project API key; the secret key belongs in secret_key, where flags need it"
        yield Step("key", "failed", "api_key is set to a secret key", advice)
    if host:
        parts = urlsplit(host)
        if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
            yield Step("host", "warning", host, "use https://: the key and the events are sent unencrypted")
        else:
            yield Step("host", "ok", host)
