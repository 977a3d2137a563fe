"""Makes what the options name: a transport, its fallback and its buffer, put together.

A transport is chosen by a name (one of `BY_NAME`, or an entry point of the group `ENTRY_POINTS`), by
`"module:Class"`, or as an instance.
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


def override_transport(transport: BaseTransport | None) -> None:
    """Give this one to every client that is made from now on, but to those that want `memory`; for tests.

    Args:
        transport: Any number of clients share it. `None` gives them again what they are configured for.
    """
    global _override
    _override = transport


def is_overridden() -> bool:
    """Whether clients that are made now record what they capture, for tests."""
    return _override is not None


def create(settings: Settings) -> RetainingTransport:
    """Make the transport that the settings name, with its fallback, in what keeps undelivered events.

    Raises:
        ConfigError: No such transport, or it cannot be made.
    """
    if _override is not None and not _is_memory(settings.transport):
        return retaining(_override, settings)
    try:
        transport = _made(settings.transport, "transport", settings)
    except UnusableError as error:
        # The machine does not give it: events go the way that they would take behind it.
        if settings.host is None or settings.api_key is None:
            raise
        logger.error("%s; events are sent over HTTP without it", error)
        transport = _made("http", "transport", settings)
    if settings.fallback is not None:
        try:
            transport = _with_fallback(transport, settings)
        except UnusableError as error:
            logger.error("%s; there is no fallback", error)
    if settings.sync_mode or isinstance(transport, RetainingTransport):
        return retaining(transport, settings)
    from ..transports.buffered import BufferedTransport

    return BufferedTransport.around(transport, settings)


def retaining(transport: BaseTransport, settings: Settings) -> RetainingTransport:
    """The transport with what keeps undelivered events around it, unless it is one that does."""
    if isinstance(transport, RetainingTransport):
        return transport
    return RetainingTransport(
        transport,
        limit=settings.max_queue_size,
        limit_bytes=settings.max_queue_bytes,
        waits_for_room=settings.historical_migration,
    )


def missing_settings(settings: Settings) -> list[str]:
    """The settings without which one of the transports cannot deliver."""
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
    return wanted == "memory" or isinstance(wanted, _class("memory", "transport"))


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
        raise ConfigError(f"{option} {wanted!r} cannot be made: {type(error).__name__}: {error}") from error


def _with_fallback(first: BaseTransport, settings: Settings) -> BaseTransport:
    from ..transports.fallback import FallbackTransport
    from ..transports.spool import SpoolTransport

    if settings.fallback == "spool":
        # Not behind it but around it: what was spooled leaves the way that it was to go in the first place.
        return SpoolTransport.around(first, settings)
    return FallbackTransport(first, _made(settings.fallback, "fallback", settings))


def _class(wanted: str, option: str) -> type[BaseTransport]:
    """The class that a name stands for.

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
            f"{option} {wanted!r} is unknown; there are {', '.join(sorted(_names()))}, or 'module:Class'. "
            "If it is one of another package, install that"
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
    from importlib.metadata import entry_points  # slow, and hardly ever needed

    return entry_points(group=ENTRY_POINTS)
