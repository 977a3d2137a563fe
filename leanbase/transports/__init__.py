"""Where events go. `create` turns the `transport` option into one; each module here is one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leanbase.errors import ConfigError
from leanbase.settings import Settings
from leanbase.transports.base import BaseTransport

if TYPE_CHECKING:
    from leanbase.transports.http import HttpTransport
    from leanbase.transports.memory import MemoryTransport

__all__ = ["BaseTransport", "HttpTransport", "MemoryTransport", "create", "missing_settings"]

_MODULES = {"HttpTransport": "http", "MemoryTransport": "memory"}


def _http(settings: Settings) -> BaseTransport:
    from leanbase.transports.http import HttpTransport

    return HttpTransport(
        settings.api_key or "",
        settings.host or "",
        timeout=settings.timeout,
        max_retries=settings.max_retries,
        gzip=settings.gzip,
        flush_at=settings.flush_at,
        historical_migration=settings.historical_migration,
    )


def _memory(_: Settings) -> BaseTransport:
    from leanbase.transports.memory import MemoryTransport

    return MemoryTransport()


_BY_NAME = {"http": _http, "memory": _memory}


def create(settings: Settings) -> BaseTransport:
    """Make the transport that the settings name.

    Raises:
        ConfigError: No such transport, or it cannot be made.
    """
    wanted = settings.transport
    if isinstance(wanted, BaseTransport):
        return wanted
    if not isinstance(wanted, str):
        raise ConfigError(
            f"transport must be a name or an instance of BaseTransport, not {type(wanted).__name__}"
        )
    if wanted in _BY_NAME:
        return _BY_NAME[wanted](settings)
    if ":" in wanted:
        return _imported(wanted)
    names = ", ".join(sorted(_BY_NAME))
    raise ConfigError(f"there is no transport {wanted!r}; there are {names}, or 'module:Class'")


def missing_settings(settings: Settings) -> list[str]:
    """The settings without which the transport cannot deliver; only `http` needs any."""
    if settings.transport != "http":
        return []
    return [name for name in ("api_key", "host") if getattr(settings, name) is None]


def _imported(wanted: str) -> BaseTransport:
    from importlib import import_module

    module, _, name = wanted.partition(":")
    try:
        transport = getattr(import_module(module), name)()
    except Exception as error:
        raise ConfigError(f"transport {wanted!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(transport, BaseTransport):
        raise ConfigError(f"transport {wanted!r} is not a BaseTransport")
    return transport


def _lazily(name: str) -> Any:
    """Import a transport when it is first asked for, so that none costs who does not use it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:  # checkers see the real names, and catch typos
    __getattr__ = _lazily
