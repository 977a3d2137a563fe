"""Defines every option once: its name, type, default and meaning.

A value comes from the first of these that sets it: the keyword of `Leanbase(...)`, the attribute of the
module `leanbase`, the environment variable `LEANBASE_<OPTION>`, and the default here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, TypeAlias

from .environment import OTHERS, WORDS, log_ignored
from .errors import ConfigError

logger = logging.getLogger("leanbase")

Event: TypeAlias = dict[str, Any]
BeforeSend: TypeAlias = Callable[[Event], "Event | None"]
OnError: TypeAlias = Callable[[Exception, "list[Event]"], object]
FlagDefinitions: TypeAlias = "str | object | Sequence[str | object]"


class Transport(Protocol):
    """An instance of `leanbase.transports.BaseTransport`, which `transport` and `fallback` also accept."""

    def send(self, events: Sequence[Any], *, deadline: Any) -> Any: ...
    def flush(self, *, deadline: Any) -> Any: ...
    def close(self, *, deadline: Any) -> Any: ...
    def warm_up(self, *, deadline: Any) -> None: ...


MOST_SECONDS = 86_400.0
"""The maximum of every timeout, a day: the operating system does not accept infinite timeouts."""

MAX_QUEUE_BYTES = 64 * 1024 * 1024
SHARE_OF_LAMBDA_MEMORY = 8
"""In Lambda, the default of `max_queue_bytes` is at most the function's memory divided by this number."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def _option(
    default: Any, doc: str, *, least: float | None = None, most: float | None = None, secret: bool = False
) -> Any:
    """Return a field with its documentation. A number out of bounds becomes the nearest bound."""
    return field(default=default, repr=not secret, metadata={"doc": doc, "least": least, "most": most})


@dataclass(frozen=True)
class Settings:
    """The options of one client. Each field has its own description. Times are in seconds."""

    api_key: str | None = _option(
        None,
        "The project API key. Without one the client is disabled, and logs an error once.",
        secret=True,
    )
    host: str | None = _option(
        None,
        "The address of the ingestion server, `https://…`, path prefix allowed. There is no default.",
    )
    _: KW_ONLY
    project_api_key: str | None = _option(
        None,
        "Another name of the option `api_key`.",
        secret=True,
    )
    transport: str | Transport = _option(
        "http",
        "How events go: `http`, `buffered`, `sqs`, `log`, `spool`, `memory`, an entry point of "
        "the group `leanbase.transports`, `module:Class`, or an instance.",
    )
    fallback: str | Transport | None = _option(
        None,
        "Where events go that the transport could not deliver. It takes what `transport` takes.",
    )
    queue_url: str | None = _option(
        None,
        "The URL of the queue to which the transport `sqs` hands events.",
    )
    spool_directory: str | None = _option(
        None,
        "The directory in which the spool stores events. By default `$XDG_STATE_HOME/leanbase`, else "
        "`leanbase-<user id>` in the directory for temporary files.",
    )
    spool_fsync: bool = _option(
        False,
        "Whether the spool waits until the disk has stored an event.",
    )
    spool_max_bytes: int = _option(
        64 * 1024 * 1024,
        "The maximum number of bytes that the spool stores in its directory.",
        least=0,
    )
    sigterm_grace: float | None = _option(
        None,
        "The number of seconds from SIGTERM to SIGKILL, as in Render's `maxShutdownDelaySeconds`. A send at "
        "SIGTERM may take 80 % of them. By default the platform's usual time.",
        least=0.1,
    )
    disabled: bool = _option(
        False,
        "Whether the client is disabled: it captures and sends nothing, and event calls return `None`.",
    )
    debug: bool = _option(
        False,
        "Whether the logger `leanbase` logs at DEBUG, to stderr where logging is not configured.",
    )
    send: bool = _option(
        True,
        "Whether events are transmitted. With `False` they are admitted and hooks run, but nothing is sent.",
    )
    sync_mode: bool = _option(
        True,
        "Whether events are delivered inside the call, or when the delivery scope closes. With "
        "`False` a thread sends them from a buffer.",
    )
    flush_at: int = _option(
        100,
        "The maximum number of events in one request. A buffer or delivery scope with as many sends at once.",
        least=1,
    )
    flush_interval: float = _option(
        5.0,
        "The maximum number of seconds that a new event stays in a buffer. In a long delivery scope, the "
        "first capture after this time sends.",
        least=0.01,
    )
    max_queue_size: int = _option(
        10_000,
        "The maximum number of undelivered events in memory.",
        least=1,
    )
    max_queue_bytes: int = _option(
        MAX_QUEUE_BYTES,
        "The maximum number of bytes of undelivered events in memory. In Lambda the default is an eighth of "
        "the function's memory, if that is less.",
        least=1,
    )
    max_retries: int = _option(
        3,
        "The maximum number of retries after the first attempt of a send.",
        least=0,
    )
    timeout: float = _option(
        10.0,
        "The maximum number of seconds for one attempt, within `send_deadline`.",
        least=0.1,
    )
    send_deadline: float = _option(
        10.0,
        "The maximum number of seconds for one send: connecting, all attempts and the waits between them.",
        least=0.1,
    )
    gzip: bool | None = _option(
        None,
        "Whether request bodies are compressed: `True`, `False`, or `None` for bodies of 1 KiB and more.",
    )
    before_send: BeforeSend | Sequence[BeforeSend] | None = _option(
        None,
        "A function, or a list of them, called with each event before it is sent. It returns the "
        "event, changed or not, or `None` to drop it.",
    )
    on_error: OnError | None = _option(
        None,
        "A function called with an exception and the events that were dropped or could not be delivered yet.",
    )
    secret_key: str | None = _option(
        None,
        "The key that loads flag definitions from the server. Do not give it to functions that load them "
        "from another source.",
        secret=True,
    )
    flag_definitions: FlagDefinitions | None = _option(
        None,
        "The sources of flag definitions: `api`, `file:…`, `s3://…`, `dynamodb://…`, `appconfig://…`, "
        "`module:Class`, an instance, or several of them. Default: `api` if there is a `secret_key`. Without "
        "a source the server evaluates flags.",
    )
    flags_ttl: float = _option(
        60.0,
        "The number of seconds after which flag definitions are refreshed from their source.",
        least=0.1,
    )
    flags_max_age: float = _option(
        300.0,
        "The number of seconds after which flag definitions are reloaded before they are used.",
        least=0.1,
    )
    flags_timeout: float = _option(
        3.0,
        "The maximum number of seconds for one attempt of a request about flags.",
        least=0.1,
    )
    flags_max_retries: int = _option(
        1,
        "The maximum number of retries of a request that evaluates flags.",
        least=0,
        most=10,
    )
    flags_only_evaluate_locally: bool = _option(
        False,
        "Whether the server is never asked to evaluate flags.",
    )
    super_properties: Mapping[str, Any] | None = _option(
        None,
        "Properties that every event of the client has.",
    )
    historical_migration: bool = _option(
        False,
        "Whether events are marked as an import of the past.",
    )
    is_server: bool = _option(
        True,
        "Whether events carry the property `$is_server`.",
    )
    disable_geoip: bool = _option(
        True,
        "Whether the server is told not to look up the location of the sender's address.",
    )
    opted_out: bool = _option(
        False,
        "Whether the client starts opted out, as after `opt_out()`.",
    )
    enable_exception_autocapture: bool = _option(
        False,
        "Whether uncaught exceptions of all threads are captured, from the first use of the client on.",
    )
    enable_unraisable_exception_autocapture: bool = _option(
        False,
        "Whether exceptions that cannot be raised, such as those in `__del__`, are captured as "
        "well. It needs `enable_exception_autocapture`.",
    )
    enable_exception_autocapture_rate_limiting: bool = _option(
        False,
        "Whether the number of uncaught exceptions captured of one class is limited.",
    )
    exception_autocapture_bucket_size: int = _option(
        50,
        "The size of the rate limit's token bucket for each class. A burst captures one exception less.",
        least=0,
        most=100,
    )
    exception_autocapture_refill_rate: int = _option(
        10,
        "The number of tokens that the rate limit adds to a bucket after each interval, up to its size.",
        least=0,
        most=100,
    )
    exception_autocapture_refill_interval_seconds: float = _option(
        10.0,
        "The interval of the rate limit in seconds. With `0` the bucket is always full.",
        least=0,
        most=MOST_SECONDS,
    )
    log_captured_exceptions: bool = _option(
        False,
        "Whether each captured exception is logged at ERROR, with its traceback.",
    )
    project_root: str | None = _option(
        None,
        "The directory of the application's own code. By default the working directory.",
    )
    in_app_modules: Sequence[str] | None = _option(
        None,
        "Modules that count as the application's own wherever they are, with the modules below them.",
    )
    capture_exception_code_variables: bool = _option(
        False,
        "Whether exceptions show the variables of the application's own frames. Secrets are redacted.",
    )
    code_variables_mask_patterns: Sequence[str] | None = _option(
        None,
        "Regular expressions for names and strings that are redacted. They replace the built-in ones.",
    )
    code_variables_ignore_patterns: Sequence[str] | None = _option(
        None,
        "Regular expressions for the names of variables that are left out. By default `^__.*`.",
    )
    code_variables_mask_url_credentials: bool = _option(
        True,
        "Whether users and passwords in URLs are redacted, in variables and in messages of exceptions.",
    )
    code_variables_detect_secrets: bool = _option(
        True,
        "Whether strings that look like secrets are redacted, in variables and in messages of exceptions.",
    )

    @classmethod
    def resolve(cls, keywords: Mapping[str, Any]) -> Settings:
        """Return the settings, with each option from the first place that sets it. `None` counts as not set.

        Args:
            keywords: The keywords of `Leanbase(...)`.

        Raises:
            ConfigError: A value can never work.
            TypeError: A keyword is not an option.
        """
        known = {option.name: option for option in fields(cls)}
        for keyword in keywords:
            if keyword not in known and keyword not in ALIASES:
                raise TypeError(_unknown_keyword(keyword, known))
        keywords, module = _without_aliases(keywords), _without_aliases(module_attributes())
        _warn_of_misspelt(known, module)
        values: dict[str, Any] = {}
        for name, option in known.items():
            value = keywords.get(name)
            if value is None:
                value = module.get(name)
            if value is None:
                value = _from_environment(option)
            values[name] = _default(option) if value is None else _checked(option, value)
        values["api_key"] = values["project_api_key"] = _api_key(known, keywords, module)
        values["host"] = _checked_host(values.get("host"))
        _check_flag_definitions(values["flag_definitions"])
        if not values.get("project_root"):
            values["project_root"] = _working_directory()
        return cls(**values)


ALIASES = {
    "poll_interval": "flags_ttl",
    "feature_flags_request_timeout_seconds": "flags_timeout",
    "feature_flags_request_max_retries": "flags_max_retries",
}
"""Names of options in similar SDKs that are accepted too: as keywords, on the module and as variables."""


def _without_aliases(place: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that one place sets, with each alias replaced by the option's name."""
    found = {name: place[alias] for alias, name in ALIASES.items() if place.get(alias) is not None}
    given = {name: value for name, value in place.items() if name not in ALIASES and value is not None}
    return {**found, **given} if found else place


_FLAG_SOURCE = re.compile(r"api|(?:file|s3|dynamodb|appconfig):.+|\w+(?:\.\w+)*:\w+")


def _check_flag_definitions(given: object) -> None:
    """Raise a ConfigError for a name that cannot be a source of definitions."""
    for each in given if isinstance(given, (list, tuple)) else (given,):
        for name in each.split(",") if isinstance(each, str) else ():
            if name.strip() and not _FLAG_SOURCE.fullmatch(name.strip()):
                scheme = name.strip().partition(":")[0]  # the rest of a URL may be a secret
                raise ConfigError(
                    f"flag_definitions {scheme!r} is unknown: use api, file:…, s3://bucket/key, "
                    "dynamodb://table/key, appconfig://application/environment/profile, 'module:Class', or "
                    "an instance of leanbase.feature_flags.DefinitionsSource"
                )


def _default(option: Field[Any]) -> Any:
    """Return the default of an option, which for `max_queue_bytes` depends on the function's memory."""
    if option.name == "max_queue_bytes":
        memory = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
        if memory.isdecimal():
            share = max(1, int(memory) * 1024 * 1024 // SHARE_OF_LAMBDA_MEMORY)
            return min(share, MAX_QUEUE_BYTES)
    return option.default


def _api_key(known: Mapping[str, Field[Any]], *places: Mapping[str, Any]) -> str | None:
    """Return the key from the first place with either name; in one place `project_api_key` wins."""
    names = ("project_api_key", "api_key")
    environment = {name: _from_environment(known[name]) for name in names}
    for place in (*places, environment):
        for name in names:
            value = place.get(name)
            key = "" if value is None else _checked(known[name], value).strip()
            if key:
                return str(key)
    return None


def module_attributes() -> Mapping[str, Any]:
    """Return the live attributes of the module `leanbase`, on which users set options."""
    return vars(sys.modules[__package__])


def option_names() -> list[str]:
    """Return the names of all options."""
    return [option.name for option in fields(Settings)]


def effective(name: str) -> Any:
    """Return an option that is not set on the module: its value in the environment, else the default.

    A public submodule that was not imported yet is imported and returned.

    Raises:
        AttributeError: The name is neither an option nor a public submodule.
    """
    for option in fields(Settings):
        if option.name == name:
            given = _from_environment(option)
            return _default(option) if given is None else given
    if name in (
        "diagnosis",
        "errors",
        "feature_flags",
        "historical",
        "integrations",
        "local",
        "relay",
        "settings",
        "testing",
        "transports",
    ):
        return import_module(f"{__package__}.{name}")
    raise AttributeError(f"module {__package__!r} has no attribute {name!r}")


def as_hooks(value: object) -> tuple[BeforeSend, ...]:
    """Return a callable, or a list or tuple of callables, as a tuple. Warn about other values."""
    if value is None:
        return ()
    candidates = value if isinstance(value, (list, tuple)) else (value,)
    for each in candidates:
        if not callable(each):
            logger.warning(
                "before_send must be a callable or a list of callables, not %s; it is ignored",
                type(each).__name__,
            )
    return tuple(each for each in candidates if callable(each))


def as_strings(name: str, value: object) -> tuple[str, ...] | None:
    """Return a string, or a collection of strings, as a tuple; `None`, with a warning, if none is valid."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple, set, frozenset)):
        logger.warning("%s must be a list of strings, not %s; it is ignored", name, type(value).__name__)
        return None
    texts = tuple(str.__str__(each) for each in value if isinstance(each, str) and each)
    if len(texts) < len(value):
        logger.warning("%s accepts non-empty strings; its other entries are ignored", name)
        return texts or None
    return texts


PACKAGE = __name__.partition(".")[0]
UNENCRYPTED = "host is an http:// URL: the API key and the events are sent unencrypted; use https://"
FOREIGN = {
    "anonymous_id": "give distinct_id to the call, or leave it out",
    "enable_local_evaluation": "leave out secret_key and flag_definitions",
    "flag_fallback_cache_url": "flag_definitions names other sources",
    "max_queue": "use max_queue_size",
    "personal_api_key": "the key that reads flag definitions is called secret_key here",
    "privacy_mode": "calls of AI models are not captured",
    "thread": "a buffer has one thread (sync_mode=False)",
    "timeout_seconds": "use timeout",
    "upload_size": "use flush_at",
    "user_id": "give distinct_id to the call",
    "write_key": "use api_key",
}
"""Options of similar SDKs, and what to use instead."""


def _unknown_keyword(keyword: str, known: Iterable[str]) -> str:
    if keyword in FOREIGN:
        return f"Leanbase(): {keyword} is not an option: {FOREIGN[keyword]}"
    near = _nearest(keyword, known)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"Leanbase() has no option {keyword!r}{hint}"


def _warn_of_misspelt(known: Iterable[str], module: Mapping[str, Any]) -> None:
    """Warn about names that look like misspelt options.

    Only close matches count: applications may use the prefix for variables of their own, and may set other
    attributes on the module.
    """
    variables = {*known, *OTHERS, *ALIASES}
    for variable in list(os.environ):
        name = variable.removeprefix("LEANBASE_").lower()
        if name in variables or not variable.startswith("LEANBASE_"):
            continue
        if name in FOREIGN:
            _warn_once(f"{variable} is not an option: {FOREIGN[name]}")
        elif near := _nearest(name, variables, 0.8):
            _warn_once(f"{variable} is not an option; did you mean LEANBASE_{near.upper()}?")
    own = {*known, *ALIASES, *module["__all__"], "annotations"}
    for name, value in list(module.items()):
        if name in own or not name.islower() or name.startswith("_") or isinstance(value, ModuleType):
            continue
        if name in FOREIGN:
            _warn_once(f"{PACKAGE}.{name} is not an option: {FOREIGN[name]}")
        elif near := _nearest(name, known, 0.8):
            _warn_once(f"{PACKAGE}.{name} is not an option; did you mean {PACKAGE}.{near}?")


def forget_warnings() -> None:
    """Forget which warnings were logged, so that each is logged again."""
    _warn_once.cache_clear()


@cache
def _warn_once(message: str) -> None:
    """Warn once: settings are read again after each shutdown, and when an exception leaves a context."""
    logger.warning(message)


def _nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, 1, likeness)), None)


def _from_environment(option: Field[Any]) -> Any:
    """Return `LEANBASE_<OPTION>` as its option's type, `_fallback` if it is invalid, or `None` if not set."""
    name, kind = option.name, str(option.type).removesuffix(" | None")
    text = os.environ.get(f"LEANBASE_{name.upper()}", "").strip()
    for alias in () if text or not name.startswith("flags_") else ALIASES:
        if ALIASES[alias] == name:
            text = text or os.environ.get(f"LEANBASE_{alias.upper()}", "").strip()
    if not text:
        return None
    if kind.startswith("Sequence[str]"):
        return tuple(each.strip() for each in text.split(",") if each.strip())
    if kind.startswith("bool"):
        if text.lower() in WORDS:
            return WORDS[text.lower()]
        problem = "it must be true or false"
    elif kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            problem = f"it must be a {'whole ' if kind == 'int' else ''}number"
    elif kind.startswith(("str", "FlagDefinitions")):
        return text
    else:
        problem = "this option can only be set in code"
    fallback = _fallback(option)
    log_ignored(f"LEANBASE_{name.upper()}", fallback, problem)
    return fallback


def _checked(option: Field[Any], value: Any) -> Any:
    name, kind, default = option.name, str(option.type), option.default
    if kind.removesuffix(" | None") in ("int", "float"):
        return _checked_number(option, value)
    if kind.startswith("bool"):
        if isinstance(value, str) and value.lower() in WORDS:
            return WORDS[value.lower()]
        if not isinstance(value, (bool, int)):
            logger.warning(
                "%s must be True or False, not %r; %s is used", name, type(value).__name__, default
            )
            return default
        return bool(value)
    if kind.startswith("Sequence[str]"):
        return as_strings(name, value)
    if name in ("project_root", "spool_directory") and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind.startswith("str |") and "Transport" not in kind and not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, not {type(value).__name__}")
    if name == "on_error" and not callable(value):
        logger.warning("on_error must be callable, not %s; it is ignored", type(value).__name__)
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
    kind = int if isinstance(default, int) else float
    if kind is float and most is None:
        most = MOST_SECONDS
    if least is not None and value < least:
        logger.warning("%s must be at least %s; %s is used instead of %s", name, least, least, value)
        return kind(least)
    if most is not None and value > most:
        logger.warning("%s can be at most %s, which is used instead of %s", name, most, value)
        return kind(most)
    if kind is int and not isinstance(value, int):
        logger.warning("%s must be a whole number, not %s; %s is used", name, value, fallback)
        return fallback
    return value


def _fallback(option: Field[Any]) -> Any:
    """Return the replacement for an invalid value: the maximum of the option, or its default without one."""
    default: Any = _default(option)
    most = option.metadata["most"]
    return default if most is None or default is None else type(default)(most)


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib takes long to import
    except OSError:  # the directory was removed
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
        _warn_once(UNENCRYPTED)
    return text
