"""Every option once: its name, type, default and meaning.

A value comes from the keyword of `Leanbase(...)`, else from the attribute of the module `leanbase`,
else from the environment variable `LEANBASE_<OPTION>`, else it is the default here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from leanbase.errors import ConfigError

if TYPE_CHECKING:
    from leanbase.transports.base import BaseTransport

logger = logging.getLogger("leanbase")

Event: TypeAlias = dict[str, Any]
BeforeSend: TypeAlias = Callable[[Event], "Event | None"]
OnError: TypeAlias = Callable[[Exception, "list[Event]"], object]

MOST_SECONDS = 86_400.0
"""No timeout is longer than a day; the operating system takes no infinite ones."""

_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def _option(default: Any, doc: str, *, least: float | None = None) -> Any:
    """A field with its documentation; numbers below `least` are raised to it, with a warning."""
    secret = "API key" in doc or "api_key" in doc
    return field(default=default, repr=not secret, metadata={"doc": doc, "least": least})


@dataclass(frozen=True)
class Settings:
    """The options of one client. See each field; times are in seconds."""

    api_key: str | None = _option(None, "Project API key. Missing: the client is disabled.")
    host: str | None = _option(
        None, "Address of the ingestion server, `https://…`, path prefix allowed. There is no default."
    )
    _: KW_ONLY
    project_api_key: str | None = _option(None, "Another name of `api_key`.")
    transport: str | BaseTransport = _option(
        "http", "Where events go: `http`, `memory`, `module:Class`, or an instance."
    )
    disabled: bool = _option(False, "No events, no requests; every call returns its sentinel.")
    debug: bool = _option(False, "Log at DEBUG, to stderr when logging is not configured.")
    send: bool = _option(True, "`False` admits events and runs hooks, but transmits nothing.")
    sync_mode: bool = _option(
        True, "Deliver inside the call or when the delivery scope closes; in this version the only way."
    )
    flush_at: int = _option(100, "Most events in one request.", least=1)
    max_queue_size: int = _option(10_000, "Most undelivered events kept in memory.", least=1)
    max_retries: int = _option(3, "Attempts after the first, in one send.", least=0)
    timeout: float = _option(15.0, "Most seconds for one attempt, within `send_deadline`.", least=0.1)
    send_deadline: float = _option(
        10.0, "Most seconds for one send: connecting, attempts and waits together.", least=0.1
    )
    gzip: bool | None = _option(None, "Compress bodies: always, never, or (`None`) from 1 KiB on.")
    before_send: BeforeSend | Sequence[BeforeSend] | None = _option(
        None, "Called with each event before it is sent; returns it, changed or not, or `None` to drop it."
    )
    on_error: OnError | None = _option(
        None, "Called with an exception and the events that were dropped or not delivered yet."
    )
    super_properties: Mapping[str, Any] | None = _option(None, "Properties of every event.")
    historical_migration: bool = _option(False, "Marks events as an import of the past.")
    is_server: bool = _option(True, "Marks events with `$is_server`.")
    disable_geoip: bool = _option(True, "The server does not look up where the sender's address is.")
    opted_out: bool = _option(False, "The initial state of `opt_out()`.")

    @classmethod
    def resolve(cls, keywords: Mapping[str, Any]) -> Settings:
        """Look every option up where it may be given. `None` counts as not given.

        Args:
            keywords: The keywords of `Leanbase(...)`.

        Raises:
            ConfigError: A value that can never work.
            TypeError: A keyword that is no option.
        """
        known = {option.name: option for option in fields(cls)}
        for keyword in keywords:
            if keyword not in known:
                raise TypeError(_unknown_keyword(keyword, list(known)))
        module = module_attributes()
        values: dict[str, Any] = {}
        for name, option in known.items():
            value = keywords.get(name)
            if value is None:
                value = module.get(name)
            if value is None:
                value = _from_environment(name, str(option.type))
            if value is not None:
                values[name] = _checked(
                    name, value, str(option.type), option.default, option.metadata["least"]
                )
        if values.get("sync_mode") is False:
            raise ConfigError("sync_mode=False needs a buffered transport, which this version does not have")
        key = values.get("api_key") or values.pop("project_api_key", None) or ""
        values["api_key"] = key.strip() or None
        values["host"] = _checked_host(values.get("host"))
        return cls(**values)


def module_attributes() -> Mapping[str, Any]:
    """What users have set on the module `leanbase`, live."""
    return vars(sys.modules["leanbase"])


def effective(name: str) -> Any:
    """The value of an option that is not set on the module: the environment's, else the default.

    Or a public submodule that was not imported yet.

    Raises:
        AttributeError: There is no such option.
    """
    for option in fields(Settings):
        if option.name == name:
            given = _from_environment(name, str(option.type))
            return option.default if given is None else given
    if name in ("errors", "local", "settings", "transports"):
        return import_module(f"leanbase.{name}")
    raise AttributeError(f"module 'leanbase' has no attribute {name!r}")


def as_hooks(value: object) -> tuple[BeforeSend, ...]:
    """One callable or a sequence of them as a tuple; anything else is left out with a warning."""
    if value is None:
        return ()
    candidates = value if isinstance(value, (list, tuple)) else (value,)
    for each in candidates:
        if not callable(each):
            logger.warning("before_send takes functions, not %s; it is ignored", type(each).__name__)
    return tuple(each for each in candidates if callable(each))


def _unknown_keyword(keyword: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(keyword, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"Leanbase() has no option {keyword!r}{hint}"


def _from_environment(name: str, kind: str) -> Any:
    """`LEANBASE_<OPTION>` as its option's type; `None` when it is not set or unusable."""
    text = os.environ.get(f"LEANBASE_{name.upper()}", "").strip()
    if not text:
        return None
    if kind.startswith("bool"):
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        problem = "it must be true or false"
    elif kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            problem = f"it must be a {'whole ' if kind == 'int' else ''}number"
    elif kind.startswith("str"):
        return text
    else:
        problem = "this option can only be set in code"
    logger.warning("LEANBASE_%s is ignored, the default is used: %s", name.upper(), problem)
    return None


def _checked(name: str, value: Any, kind: str, default: Any, least: float | None) -> Any:
    if kind.startswith("bool"):
        if isinstance(value, str) and value.lower() in _WORDS:
            return _WORDS[value.lower()]
        if not isinstance(value, (bool, int)):
            logger.warning(
                "%s must be True or False, not %r; %s is used", name, type(value).__name__, default
            )
            return default
        return bool(value)
    if kind in ("int", "float"):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            logger.warning("%s must be a number, not %s; %s is used", name, type(value).__name__, default)
            return default
        if least is not None and value < least:
            logger.warning("%s must be at least %s; %s is used instead of %s", name, least, least, value)
            return type(default)(least)
        if kind == "float" and value > MOST_SECONDS:
            logger.warning("%s can be at most %s, which is used instead of %s", name, MOST_SECONDS, value)
            value = MOST_SECONDS
        if kind == "int" and not isinstance(value, int):
            logger.warning("%s must be a whole number, not %s; %s is used", name, value, default)
            return default
    elif kind.startswith("str |") and "Transport" not in kind and not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, not {type(value).__name__}")
    elif name == "on_error" and not callable(value):
        logger.warning("on_error takes a function, not %s; it is ignored", type(value).__name__)
        return None
    elif name == "super_properties" and not isinstance(value, Mapping):
        logger.warning("super_properties must be a mapping, not %s; it is ignored", type(value).__name__)
        return None
    return value


def _checked_host(host: str | None) -> str | None:
    from urllib.parse import urlsplit

    text = (host or "").strip().removesuffix("/")
    if not text:
        return None
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if usable and ("@" in parts.netloc or parts.query or parts.fragment):
        raise ConfigError("host must be a plain URL, without credentials, query or fragment")
    if not usable:
        raise ConfigError("host must be an http(s) URL such as https://leanbase.example.com")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        logger.warning("host is plain http: the API key and the events travel unencrypted")
    return text
