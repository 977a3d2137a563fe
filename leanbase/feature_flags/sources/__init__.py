"""The sources of definitions. The option `flag_definitions` names them, as `transport` names a transport.

base           `DefinitionsSource`, which applications may subclass, and `SourceError`
api            the server, with the secret key
file           a bundle in a file
s3, dynamodb   a bundle in a store that functions share
appconfig      a bundle that AWS AppConfig's agent serves on localhost
provider       a cache provider for posthog-python
host_file      the server's latest response, in a file for all processes of this host
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...settings import Settings

__all__ = ["DefinitionsSource", "SourceError", "sources_of"]


def sources_of(settings: Settings) -> list[DefinitionsSource]:
    """Return the sources that the option `flag_definitions` names. Default: `api` if there is a secret key.

    Raises:
        ConfigError: A source is unknown or cannot be created.
    """
    given: Any = settings.flag_definitions
    if given is None:
        given = ["api"] if settings.secret_key else []
    named = given if isinstance(given, (list, tuple)) else [given]
    return [_made(each, settings) for each in _names(named)]


def _names(given: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for each in given:
        found += (
            [part.strip() for part in each.split(",") if part.strip()] if isinstance(each, str) else [each]
        )
    return found


def _made(wanted: Any, settings: Settings) -> DefinitionsSource:
    if isinstance(wanted, DefinitionsSource):
        return wanted
    if not isinstance(wanted, str):
        return _from_instance(wanted, settings)
    scheme, _, rest = wanted.partition(":")
    make = _BY_SCHEME.get(scheme)
    try:
        if wanted == "api":
            return _api(settings)
        if make is not None:
            return make(rest)
        if rest and not rest.startswith("//"):
            found = getattr(import_module(scheme), rest)
            if isinstance(found, type) and issubclass(found, DefinitionsSource):
                return found.from_settings(settings)
            return _from_instance(found() if isinstance(found, type) else found, settings)
    except ConfigError:
        raise
    except SourceError as error:
        raise ConfigError(f"flag_definitions {wanted!r}: {error}") from error
    except Exception as error:
        text = f"flag_definitions {wanted!r} cannot be created: {type(error).__name__}: {error}"
        raise ConfigError(text) from error
    raise ConfigError(
        f"flag_definitions {wanted!r} is unknown; known are api, file:…, s3://…, dynamodb://…, "
        "appconfig://…, 'module:Class' and an instance of leanbase.feature_flags.DefinitionsSource"
    )


def _from_instance(wanted: object, settings: Settings) -> DefinitionsSource:
    if all(callable(getattr(wanted, name, None)) for name in ("get_flag_definitions", "shutdown")):
        from .provider import ProviderSource

        return ProviderSource(wanted, _api(settings) if settings.secret_key else None)
    raise ConfigError(
        f"flag_definitions must be names or instances of DefinitionsSource, not {type(wanted).__name__}"
    )


def _api(settings: Settings) -> DefinitionsSource:
    from .api import ApiSource
    from .host_file import HostFileSource

    return HostFileSource.around(ApiSource.from_settings(settings), settings)


def _file(path: str) -> DefinitionsSource:
    from .file import FileSource

    return FileSource(path.removeprefix("//"))


def _s3(place: str) -> DefinitionsSource:
    from .s3 import S3Source

    return S3Source(place)


def _dynamodb(place: str) -> DefinitionsSource:
    from .dynamodb import DynamoDbSource

    return DynamoDbSource(place)


def _appconfig(place: str) -> DefinitionsSource:
    from .appconfig import AppConfigSource

    return AppConfigSource(place)


_BY_SCHEME: dict[str, Callable[[str], DefinitionsSource]] = {
    "file": _file,
    "s3": _s3,
    "dynamodb": _dynamodb,
    "appconfig": _appconfig,
}
