"""Creates the transport that the options name, with its fallback and its buffer.

An option names a transport by a key of `BY_NAME`, by an entry point of the group `ENTRY_POINTS`, or as
`"module:Class"`. It also accepts an instance.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from .. import transports
from ..errors import ConfigError, UnusableError
from ..settings import Settings
from ..transports import BaseTransport
from ..transports._retaining import RetainingTransport

logger = logging.getLogger("leanbase")

BY_NAME = {
    "buffered": "BufferedTransport",
    "http": "HttpTransport",
    "log": "LogTransport",
    "memory": "MemoryTransport",
    "spool": "SpoolTransport",
    "sqs": "SqsTransport",
}
ENTRY_POINTS = transports.__name__


_override: BaseTransport | None = None
_spares_memory = True


def override_transport(transport: BaseTransport | None, *, spares_memory: bool = True) -> None:
    """Make every new client use this transport, or with `None` its configured transport. For tests.

    By default, clients configured with a `MemoryTransport` keep it: a test reads its events.
    """
    global _override, _spares_memory
    _override, _spares_memory = transport, spares_memory


def is_overridden() -> bool:
    return _override is not None


def create(settings: Settings) -> RetainingTransport:
    """Create the transport that the settings name, with its fallback, wrapped to retain undelivered events.

    Raises:
        ConfigError: The transport does not exist, or cannot be created.
    """
    if _override is not None and not (_spares_memory and _is_memory(settings.transport)):
        return retaining(_override, settings)
    try:
        transport = _made(settings.transport, "transport", settings)
    except UnusableError as error:
        # The spool directory cannot be used. Send over HTTP, as the spool would.
        if settings.host is None or settings.api_key is None:
            raise
        logger.error("events are sent over HTTP, without a spool: %s", error)
        transport = _made("http", "transport", settings)
    if settings.fallback is not None:
        try:
            transport = _with_fallback(transport, settings)
        except UnusableError as error:
            logger.error("events are sent without a fallback: %s", error)
    if settings.sync_mode or isinstance(transport, RetainingTransport):
        return retaining(transport, settings)
    from ..transports.buffered import BufferedTransport

    return BufferedTransport.around(transport, settings)


def create_bare(settings: Settings) -> BaseTransport:
    """Create the transport that the settings name, without a fallback and without a buffer around it.

    For a caller that keeps its events.

    Raises:
        ConfigError: The transport does not exist, cannot be created, or lacks a setting.
    """
    missing = missing_settings(settings)
    if missing:
        raise ConfigError("set " + " and ".join(f"LEANBASE_{name.upper()}" for name in missing))
    if _override is not None:
        return _override
    wanted = "http" if settings.transport == "buffered" else settings.transport
    made = _made(wanted, "transport", settings)
    return made.inner if isinstance(made, RetainingTransport) else made


def retaining(transport: BaseTransport, settings: Settings) -> RetainingTransport:
    """Wrap a transport in a `RetainingTransport`, or return it unchanged if it already is one."""
    if isinstance(transport, RetainingTransport):
        return transport
    return RetainingTransport(
        transport,
        limit=settings.max_queue_size,
        limit_bytes=settings.max_queue_bytes,
        waits_for_room=settings.historical_migration,
    )


def missing_settings(settings: Settings) -> list[str]:
    """Return the names of unset settings that a configured transport requires."""
    if _override is not None:
        return []
    wanted = {"transport": settings.transport, "fallback": settings.fallback}
    required = [
        name
        for option, value in wanted.items()
        if isinstance(value, str)
        for name in _class(value, option).requires
    ]
    return [name for name in dict.fromkeys(required) if getattr(settings, name) is None]


def _is_memory(wanted: object) -> bool:
    return isinstance(wanted, _class("memory", "transport"))


def _made(wanted: object, option: str, settings: Settings) -> BaseTransport:
    if isinstance(wanted, BaseTransport):
        return wanted
    if not isinstance(wanted, str):
        raise ConfigError(
            f"{option} must be a name or an instance of BaseTransport, not {type(wanted).__name__}"
        )
    try:
        return _class(wanted, option).from_settings(settings)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{option} {wanted!r} cannot be created: {type(error).__name__}: {error}"
        ) from error


def _with_fallback(first: BaseTransport, settings: Settings) -> BaseTransport:
    from ..transports.fallback import FallbackTransport

    if settings.fallback == "spool":
        from ..transports.spool import SpoolTransport

        # The spool wraps the transport instead of following it: spooled events leave through that transport.
        return SpoolTransport.around(first, settings)
    return FallbackTransport(first, _made(settings.fallback, "fallback", settings))


def _class(wanted: str, option: str) -> type[BaseTransport]:
    """Return the transport class that a name stands for.

    Raises:
        ConfigError: No class has that name, or the class is not a transport.
    """
    try:
        if wanted in BY_NAME:
            named: type[BaseTransport] = getattr(transports, BY_NAME[wanted])
            return named
        if ":" in wanted:
            module, _, name = wanted.partition(":")
            found = getattr(import_module(module), name)
        else:
            found = _entry_point(wanted)
    except Exception as error:
        raise ConfigError(f"{option} {wanted!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if found is None:
        raise ConfigError(
            f"{option} {wanted!r} is unknown; known are {', '.join(sorted(_names()))} and 'module:Class'. "
            "A transport of another package needs that package to be installed"
        )
    if not (isinstance(found, type) and issubclass(found, BaseTransport)):
        raise ConfigError(f"{option} {wanted!r} is not a subclass of BaseTransport")
    return found


def _entry_point(wanted: str) -> Any:
    for each in _entry_points():
        if each.name == wanted:
            return each.load()
    return None


def _names() -> set[str]:
    return {*BY_NAME, *(each.name for each in _entry_points())}


def _entry_points() -> Any:
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    return entry_points(group=ENTRY_POINTS)
