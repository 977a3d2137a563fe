"""Every option once: its name, type, default and meaning.

A value comes from the keyword of `Leanbase(...)`, else from the attribute of the module `leanbase`,
else from the environment variable `LEANBASE_<OPTION>`, else it is the default here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import ConfigError

if TYPE_CHECKING:
    from .transports.base import BaseTransport

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


def _option(default: Any, doc: str, *, least: float | None = None, most: float | None = None) -> Any:
    """A field with its documentation; numbers out of bounds are brought within them, with a warning."""
    secret = "API key" in doc or "api_key" in doc
    return field(default=default, repr=not secret, metadata={"doc": doc, "least": least, "most": most})


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
        "http",
        "Where events go: `http`, `buffered`, `sqs`, `log`, `spool`, `memory`, an entry point of "
        "`leanbase.transports`, `module:Class`, or an instance.",
    )
    fallback: str | BaseTransport | None = _option(
        None, "Where those events go that the transport could not deliver; named like it."
    )
    queue_url: str | None = _option(None, "With `sqs`: the URL of the queue.")
    spool_directory: str | None = _option(
        None, "Directory of the spool. Default: one of this user among the temporary files."
    )
    spool_fsync: bool = _option(False, "Wait until the disk has what is spooled.")
    spool_max_bytes: int = _option(64 * 1024 * 1024, "Most bytes in the spool.", least=0)
    disabled: bool = _option(False, "No events, no requests; every call returns its sentinel.")
    debug: bool = _option(False, "Log at DEBUG, to stderr when logging is not configured.")
    send: bool = _option(True, "`False` admits events and runs hooks, but transmits nothing.")
    sync_mode: bool = _option(
        True, "Deliver inside the call or when the delivery scope closes; `False`: from a thread, buffered."
    )
    flush_at: int = _option(100, "Most events in one request; buffered, as many waiting are sent.", least=1)
    flush_interval: float = _option(5.0, "Buffered: most seconds that an event waits to be sent.", least=0.01)
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
    enable_exception_autocapture: bool = _option(
        False,
        "Capture uncaught exceptions, of the main thread and of others, from the first use of the client on.",
    )
    enable_unraisable_exception_autocapture: bool = _option(
        False, "With the former: also capture exceptions that cannot be raised, as those in `__del__`."
    )
    enable_exception_autocapture_rate_limiting: bool = _option(
        False, "Limit how many uncaught exceptions of one class are captured."
    )
    exception_autocapture_bucket_size: int = _option(
        50, "With rate limiting: one more than a burst may have.", least=0, most=100
    )
    exception_autocapture_refill_rate: int = _option(
        10,
        "With rate limiting: how many more after each interval, at most the bucket size.",
        least=0,
        most=100,
    )
    exception_autocapture_refill_interval_seconds: float = _option(
        10.0, "With rate limiting: the interval; `0` is no limit.", least=0, most=MOST_SECONDS
    )
    log_captured_exceptions: bool = _option(
        False, "Log each captured exception at ERROR, with its traceback."
    )
    project_root: str | None = _option(
        None, "The directory of the application's own code. Default: the working directory."
    )
    in_app_modules: Sequence[str] | None = _option(
        None, "Modules, with those below them, that are the application's own wherever they are."
    )
    capture_exception_code_variables: bool = _option(
        False, "Show the variables of the application's own frames, as far as they are no secrets."
    )
    code_variables_mask_patterns: Sequence[str] | None = _option(
        None, "Regular expressions for names and texts that are redacted, instead of the built-in ones."
    )
    code_variables_ignore_patterns: Sequence[str] | None = _option(
        None, "Regular expressions for variables that are left out. Default: `^__.*`."
    )
    code_variables_mask_url_credentials: bool = _option(
        True, "Redact users and passwords in URLs, in variables and messages of exceptions."
    )
    code_variables_detect_secrets: bool = _option(
        True, "Redact what looks like a secret, in variables and messages of exceptions."
    )

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
                raise TypeError(_unknown_keyword(keyword, known))
        module = module_attributes()
        _warn_of_misspelt(known, module)
        values: dict[str, Any] = {}
        for name, option in known.items():
            value = keywords.get(name)
            if value is None:
                value = module.get(name)
            if value is None:
                value = _from_environment(option)
            if value is not None:
                values[name] = _checked(option, value)
        key = values.get("api_key") or values.pop("project_api_key", None) or ""
        values["api_key"] = key.strip() or None
        values["host"] = _checked_host(values.get("host"))
        if not values.get("project_root"):
            values["project_root"] = _working_directory()
        return cls(**values)


def module_attributes() -> Mapping[str, Any]:
    """What users have set on the module `leanbase`, live."""
    return vars(sys.modules[__package__])


def option_names() -> list[str]:
    """The names of all options."""
    return [option.name for option in fields(Settings)]


def effective(name: str) -> Any:
    """The value of an option that is not set on the module: the environment's, else the default.

    Or a public submodule that was not imported yet.

    Raises:
        AttributeError: There is no such option.
    """
    for option in fields(Settings):
        if option.name == name:
            given = _from_environment(option)
            return option.default if given is None else given
    if name in ("errors", "integrations", "local", "relay", "settings", "testing", "transports"):
        return import_module(f"{__package__}.{name}")
    raise AttributeError(f"module {__package__!r} has no attribute {name!r}")


def as_hooks(value: object) -> tuple[BeforeSend, ...]:
    """One callable or a sequence of them as a tuple; anything else is left out with a warning."""
    if value is None:
        return ()
    candidates = value if isinstance(value, (list, tuple)) else (value,)
    for each in candidates:
        if not callable(each):
            logger.warning("before_send takes functions, not %s; it is ignored", type(each).__name__)
    return tuple(each for each in candidates if callable(each))


def as_strings(name: str, value: object) -> tuple[str, ...] | None:
    """One text or a collection of them as a tuple; `None`, with a warning, when there is none in it."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple, set, frozenset)):
        logger.warning("%s must be a list of texts, not %s; it is ignored", name, type(value).__name__)
        return None
    texts = tuple(str.__str__(each) for each in value if isinstance(each, str) and each)
    if len(texts) < len(value):
        logger.warning("%s takes texts that are not empty; the others in it are ignored", name)
        return texts or None
    return texts


def _unknown_keyword(keyword: str, known: Iterable[str]) -> str:
    near = _nearest(keyword, known)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"Leanbase() has no option {keyword!r}{hint}"


def _warn_of_misspelt(known: Iterable[str], module: Mapping[str, Any]) -> None:
    """Tell of what would be taken for an option by its author and by nobody else.

    Only what is nearly one: others may use the prefix for variables of their own, and set what they like.
    """
    for variable in list(os.environ):
        name = variable.removeprefix("LEANBASE_").lower()
        if variable.startswith("LEANBASE_") and name not in known and (near := _nearest(name, known, 0.8)):
            _warn_once(f"{variable} is no option; did you mean LEANBASE_{near.upper()}?")
    own = {*known, *module["__all__"], "annotations"}
    for name, value in list(module.items()):
        if name in own or not name.islower() or name.startswith("_") or isinstance(value, ModuleType):
            continue
        if near := _nearest(name, known, 0.8):
            _warn_once(f"leanbase.{name} is no option; did you mean leanbase.{near}?")


@cache
def _warn_once(message: str) -> None:
    """Settings are read again and again: after each shutdown, and whenever an exception leaves a context."""
    logger.warning(message)


def _nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, 1, likeness)), None)


def _from_environment(option: Field[Any]) -> Any:
    """`LEANBASE_<OPTION>` as its option's type; `None` when it is not set or unusable."""
    name, kind = option.name, str(option.type)
    text = os.environ.get(f"LEANBASE_{name.upper()}", "").strip()
    if not text:
        return None
    if kind.startswith("Sequence[str]"):
        return tuple(each.strip() for each in text.split(",") if each.strip())
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
    fallback = _fallback(option)
    logger.warning("LEANBASE_%s is ignored, %s is used: %s", name.upper(), fallback, problem)
    return fallback


def _checked(option: Field[Any], value: Any) -> Any:
    name, kind, default = option.name, str(option.type), option.default
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
        return _checked_number(option, value)
    if kind.startswith("Sequence[str]"):
        return as_strings(name, value)
    if name in ("project_root", "spool_directory") and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind.startswith("str |") and "Transport" not in kind and not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, not {type(value).__name__}")
    if name == "on_error" and not callable(value):
        logger.warning("on_error takes a function, not %s; it is ignored", type(value).__name__)
        return None
    if name == "super_properties" and not isinstance(value, Mapping):
        logger.warning("super_properties must be a mapping, not %s; it is ignored", type(value).__name__)
        return None
    return value


def _checked_number(option: Field[Any], value: Any) -> Any:
    name: str = option.name
    default: Any = option.default
    least, most = option.metadata["least"], option.metadata["most"]
    fallback = _fallback(option)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        logger.warning("%s must be a number, not %s; %s is used", name, type(value).__name__, fallback)
        return fallback
    if isinstance(default, float) and most is None:
        most = MOST_SECONDS
    if least is not None and value < least:
        logger.warning("%s must be at least %s; %s is used instead of %s", name, least, least, value)
        return type(default)(least)
    if most is not None and value > most:
        logger.warning("%s can be at most %s, which is used instead of %s", name, most, value)
        return type(default)(most)
    if isinstance(default, int) and not isinstance(value, int):
        logger.warning("%s must be a whole number, not %s; %s is used", name, value, fallback)
        return fallback
    return value


def _fallback(option: Field[Any]) -> Any:
    """What stands for a number that is none: where there is a maximum, that."""
    default: Any = option.default
    most = option.metadata["most"]
    return default if most is None else type(default)(most)


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib takes long to import
    except OSError:  # it was removed
        return None


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
