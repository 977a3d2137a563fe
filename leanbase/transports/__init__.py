"""Where events go. `create` makes what the options name; each module here is one transport.

A transport is chosen by a name (one of `BY_NAME`, or an entry point of the group `leanbase.transports`),
by `"module:Class"`, or as an instance.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leanbase.errors import ConfigError
from leanbase.settings import Settings
from leanbase.transports.base import BaseTransport

if TYPE_CHECKING:
    from leanbase.transports.buffered import BufferedTransport
    from leanbase.transports.fallback import FallbackTransport
    from leanbase.transports.http import HttpTransport
    from leanbase.transports.log import LogTransport
    from leanbase.transports.memory import MemoryTransport
    from leanbase.transports.spool import SpoolTransport
    from leanbase.transports.sqs import SqsTransport

__all__ = [
    "BaseTransport",
    "BufferedTransport",
    "FallbackTransport",
    "HttpTransport",
    "LogTransport",
    "MemoryTransport",
    "SpoolTransport",
    "SqsTransport",
    "create",
    "intercept",
    "missing_settings",
]

_MODULES = {
    "BufferedTransport": "buffered",
    "FallbackTransport": "fallback",
    "HttpTransport": "http",
    "LogTransport": "log",
    "MemoryTransport": "memory",
    "SpoolTransport": "spool",
    "SqsTransport": "sqs",
}
BY_NAME = {
    "buffered": "BufferedTransport",
    "http": "HttpTransport",
    "log": "LogTransport",
    "memory": "MemoryTransport",
    "spool": "SpoolTransport",
    "sqs": "SqsTransport",
}
ENTRY_POINTS = "leanbase.transports"


_instead: BaseTransport | None = None


def intercept(transport: BaseTransport | None) -> None:
    """Give this one to every client that is made from now on, but to those that want `memory`; for tests.

    Args:
        transport: Any number of clients share it. `None` gives them again what they are configured for.
    """
    global _instead
    _instead = transport


def create(settings: Settings) -> BaseTransport:
    """Make the transport that the settings name, with its fallback and its buffer around it.

    Raises:
        ConfigError: No such transport, or it cannot be made.
    """
    if _instead is not None and not _is_memory(settings.transport):
        return _instead
    transport = _made(settings.transport, "transport", settings)
    if settings.fallback is not None:
        transport = _with_fallback(transport, settings)
    if settings.sync_mode:
        return transport
    from leanbase.transports.buffered import BufferedTransport

    return (
        transport
        if isinstance(transport, BufferedTransport)
        else BufferedTransport.around(transport, settings)
    )


def missing_settings(settings: Settings) -> list[str]:
    """The settings without which one of the transports cannot deliver."""
    if _instead is not None:
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
    from leanbase.transports.fallback import FallbackTransport
    from leanbase.transports.spool import SpoolTransport

    if settings.fallback == "spool":
        # Not behind it but around it: what was spooled leaves the way that it was to go in the first place.
        return SpoolTransport.around(first, settings)
    return FallbackTransport(first, _made(settings.fallback, "fallback", settings))


def _class(wanted: str, option: str) -> type[BaseTransport]:
    """The class that a name stands for.

    Raises:
        ConfigError: None does, or it is no transport.
    """
    try:
        if wanted in BY_NAME:
            return _lazily(BY_NAME[wanted])  # type: ignore[no-any-return]
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


def _lazily(name: str) -> Any:
    """Import a transport when it is first asked for, so that none costs who does not use it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:  # checkers see the real names, and catch typos
    __getattr__ = _lazily
