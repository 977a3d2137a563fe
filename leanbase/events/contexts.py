"""Contexts: tags and identity that every event captured inside them carries.

A context is an immutable value: `tag` and similar functions replace it. The calling task or thread sees the
change, and so does what it starts afterwards. Other tasks and threads that carry a copy do not see it. The
contexts open in one thread or task form a chain through `parent`, and one `ContextVar` holds the innermost.
All clients share the contexts of the process.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from functools import cache

from .. import forking
from ..interrupts import raise_interrupt
from ..texts import text_of
from .encoding import Written, sanitize_dict
from .proxies import UnboundProxy, resolved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TypeAlias

    OnException: TypeAlias = Callable[[BaseException | None], object]


logger = logging.getLogger("leanbase")

_NUL = "\x00"


class Layer:
    """One entered `with new_context()` block. Each task may have its own values for it, in a `Context`.

    Attributes:
        has_ended: Whether the block was left out of order, or in another thread or task.
    """

    __slots__ = ("has_ended", "number")

    def __init__(self) -> None:
        self.has_ended = False
        self.number = 0  # assigned on first use


class Found:
    """Identity and tags that were looked up for a context."""

    __slots__ = ("device_id", "distinct_id", "session_id", "tags")

    def __init__(
        self,
        distinct_id: str | None = None,
        session_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        self.distinct_id = distinct_id
        self.session_id = session_id
        self.device_id: str | None = None
        self.tags = tags or {}


class Lookup:
    """Identity and tags of a context, looked up when they are first needed.

    Values that the application has set win. `find` may be called in any thread that carries the context.
    """

    __slots__ = ("_find", "_found", "_is_looking", "_lock")

    def __init__(self, find: Callable[[], Found]) -> None:
        self._find: Callable[[], Found] | None = find
        self._found = Found()
        self._is_looking = False
        self._lock = threading.RLock()

    @property
    def is_done(self) -> bool:
        return self._find is None

    def found(self) -> Found:
        """Return the result of the lookup. During the lookup itself the result is empty."""
        if self._find is not None:
            with self._lock:
                if self._find is not None and not self._is_looking:
                    self._is_looking = True
                    try:
                        self._found = self._find()
                    except Exception as error:
                        raise_interrupt(error)
                        logger.warning(
                            "the identity and tags of a request could not be read: %s", type(error).__name__
                        )
                    finally:
                        self._find = None
        return self._found


class Context:
    """The values that a task or thread has set in one layer, and the context around it. Immutable.

    Read it through the functions of this module.
    """

    __slots__ = (
        "_written",
        "device_id",
        "distinct_id",
        "fresh",
        "generation",
        "layer",
        "lookup",
        "overrides",
        "parent",
        "session_id",
        "tags",
    )

    def __init__(
        self, parent: Context | None, fresh: bool, layer: Layer, lookup: Lookup | None = None
    ) -> None:
        self.parent = parent
        self.fresh = fresh
        self.layer = layer
        self.lookup = lookup
        self.tags: dict[str, Any] = {}
        self.distinct_id: str | None = None
        self.session_id: str | None = None
        self.device_id: str | None = None
        self.overrides: dict[str, Any] | None = None
        self.generation = forking.watch()
        self._written: Written | None = None

    def replaced(self, **values: Any) -> Context:
        copy = Context(self.parent, self.fresh, self.layer, self.lookup)
        copy.tags = self.tags
        copy.distinct_id = self.distinct_id
        copy.session_id = self.session_id
        copy.device_id = self.device_id
        copy.overrides = self.overrides
        for name, value in values.items():
            setattr(copy, name, value)
        return copy

    def outwards(self) -> list[Context]:
        """Return this context and the contexts that it inherits from, innermost first."""
        context, contexts = self, [self]
        while not context.fresh and context.parent is not None:
            context = context.parent
            contexts.append(context)
        return contexts

    def tags_in_effect(self) -> dict[str, Any]:
        """Return a copy of all tags; inner values win over outer ones."""
        tags: dict[str, Any] = {}
        for context in reversed(self.outwards()):
            if context.lookup is not None:
                tags.update(context.lookup.found().tags)
            tags.update(context.tags)
        return tags

    def written_tags(self) -> Written:
        """Return the properties that the tags add to every event.

        Later events reuse the result, if no tag can change and all lookups are done.
        """
        if self._written is not None:
            return self._written
        tags = self.tags_in_effect()
        written = Written(sanitize_dict({"$context_tags": sorted(tags), **tags}))
        is_final = all(context.lookup is None or context.lookup.is_done for context in self.outwards())
        if is_final and all(type(value) in _UNCHANGING for value in tags.values()):
            self._written = written
        return written

    def nearest(self, attribute: str) -> Any:
        """Return the attribute from the nearest context that sets it, or `None`."""
        for context in self.outwards():
            if (value := getattr(context, attribute)) is not None:
                return value
            if context.lookup is not None:
                value = getattr(context.lookup.found(), attribute)
                if value is not None:
                    return value
        return None


_UNCHANGING = frozenset({str, int, float, bool, type(None)})

_numbers = itertools.count(1)
innermost: ContextVar[Context | None] = ContextVar("leanbase_context", default=None)


def active() -> Context | None:
    """Return the innermost context of this thread or task, or `None`.

    After a fork, the contexts of the parent process do not count.
    """
    context = innermost.get()
    while context is not None and context.layer.has_ended:
        context = context.parent
    return context if context is not None and context.generation == forking.generation else None


def outermost_number() -> int:
    """Return a number that identifies the outermost context open here, or 0 outside of contexts."""
    context = active()
    if context is None:
        return 0
    while context.parent is not None and context.parent.generation == forking.generation:
        context = context.parent
    layer = context.layer
    if not layer.number:
        layer.number = next(_numbers)
    return layer.number


class new_context:  # noqa: N801 - used like a function, as `contextlib.suppress` is
    """Open a context: the tags and the identity set inside it end with it.

    Args:
        fresh: `True` starts with an empty context. By default, values that are not set in the context are
            inherited from the outer context.
        on_exception: Called with an `Exception` that leaves the context, while the context is still active.
        lookup: Identity and tags that the context starts with.
        detached: Whether to ignore the outer context. For a request: that context belongs to another request.

    Does not block and never raises. Works in `async def` code with a plain `with`.

    Examples:
        >>> with new_context():
        ...     tag("plan", "pro")
        ...     get_tags()
        {'plan': 'pro'}
    """

    __slots__ = ("_detached", "_entered", "_fresh", "_lookup", "_on_exception")

    def __init__(
        self,
        fresh: bool = False,
        on_exception: OnException | None = None,
        *,
        lookup: Lookup | None = None,
        detached: bool = False,
    ) -> None:
        self._fresh = False if fresh is False else _is_true(fresh) or False
        self._on_exception = on_exception
        self._lookup = lookup
        self._detached = detached
        self._entered: list[tuple[Context, Token[Context | None]]] = []

    def __enter__(self) -> None:
        parent, outer = None if self._detached else active(), innermost.get()
        context = Context(parent, self._fresh, Layer(), self._lookup)
        try:
            self._entered.append((context, innermost.set(context)))
        except BaseException:  # an interrupt: `__exit__` will not be called
            innermost.set(outer)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._entered:
            return
        context, token = self._entered.pop()
        here = innermost.get()
        is_innermost = here is not None and here.layer is context.layer
        try:
            if self._on_exception is not None and exc_type is not None and issubclass(exc_type, Exception):
                call_in_context(here if is_innermost else context, self._on_exception, exc)
        except RecursionError:
            pass  # at the recursion limit not even the logger can be called
        except Exception as error:
            raise_interrupt(error)
        finally:
            try:
                if here is not None and is_innermost:
                    innermost.reset(token)
                    if not self._detached:
                        # Not the value before: a generator may have another consumer now.
                        innermost.set(here.parent)
            except ValueError:
                is_innermost = False  # entered in another `contextvars.Context`, of which this is a copy
                innermost.set(context.parent)
            if not is_innermost:
                # Code inside an inner context stays there. This context is never active again.
                context.layer.has_ended = True


def call_in_context(context: Context | None, on_exception: OnException, error: BaseException | None) -> None:
    """Call `on_exception` with `context` as the active context, even if it is exited from another task."""
    here = innermost.get()
    innermost.set(context)
    try:
        on_exception(error)
    finally:
        innermost.set(here)


def tag(name: str, value: Any) -> None:
    """Add a property to every event captured in the innermost context.

    Args:
        name: The property's name, a non-empty string.
        value: Any value that a property may have.

    Outside a context it has no effect, and logs a warning once. Never blocks, never raises.
    """
    if (context := _innermost_for("tag")) is not None:
        name = resolved(name)
        is_text = isinstance(name, str)
        if is_text and name:
            innermost.set(context.replaced(tags={**context.tags, name: value}))
        else:
            given = "an empty one" if is_text else type(name).__name__
            logger.warning("tag() needs a non-empty string as the name, not %s; the tag is ignored", given)


def tag_all(tags: Mapping[str, Any]) -> None:
    """Add several properties at once, each as `tag` does. Outside a context it has no effect."""
    if tags and (context := active()) is not None:
        innermost.set(context.replaced(tags={**context.tags, **tags}))


def get_tags() -> dict[str, Any]:
    """Return a copy of all tags in effect, or `{}` outside a context. Inner values win over outer ones."""
    context = active()
    return {} if context is None else context.tags_in_effect()


def identify_context(distinct_id: object) -> None:
    """Set the distinct id for events captured in the innermost context without a distinct id of their own.

    Args:
        distinct_id: A non-empty string, a number, or a UUID. `None` and blank strings are ignored.

    Outside a context it has no effect, and logs a warning once.
    """
    context, coerced = _innermost_for("identify_context"), coerce_id(distinct_id)
    if context is not None and coerced is not None:
        innermost.set(context.replaced(distinct_id=coerced))


def set_context_session(session_id: str) -> None:
    """Set the `$session_id` of events captured in the innermost context.

    Args:
        session_id: The id that the web SDK created, a UUIDv7 string. Any other non-empty string is sent too,
            but the events are not linked to a session replay.

    Outside a context it has no effect, and logs a warning once.
    """
    context, coerced = _innermost_for("set_context_session"), coerce_id(session_id)
    if context is not None and coerced is not None:
        if len(coerced) != 36 or coerced[14] != "7":
            logger.debug("the session id is not a UUIDv7: its events cannot be linked to a session replay")
        innermost.set(context.replaced(session_id=coerced))


def set_context_device_id(device_id: str) -> None:
    """Set the device id of the innermost context. Outside a context it only logs a warning, once."""
    context, coerced = _innermost_for("set_context_device_id"), coerce_id(device_id)
    if context is not None and coerced is not None:
        innermost.set(context.replaced(device_id=coerced))


def set_capture_exception_code_variables_context(enabled: bool) -> None:
    """Show or hide the variables of frames, for exceptions captured in the innermost context.

    Args:
        enabled: Overrides the option `capture_exception_code_variables`.

    Outside a context it has no effect, and logs a warning once.
    """
    _override("capture_exception_code_variables", _is_true(enabled))


def set_code_variables_mask_patterns_context(mask_patterns: Sequence[str]) -> None:
    """Choose what is redacted in the variables of frames, for exceptions captured in the innermost context.

    Args:
        mask_patterns: Regular expressions. They override the option `code_variables_mask_patterns`.

    Outside a context it has no effect, and logs a warning once.
    """
    _override("code_variables_mask_patterns", mask_patterns)


def set_code_variables_ignore_patterns_context(ignore_patterns: Sequence[str]) -> None:
    """Choose which variables are left out, for exceptions captured in the innermost context.

    Args:
        ignore_patterns: Regular expressions. They override the option `code_variables_ignore_patterns`.

    Outside a context it has no effect, and logs a warning once.
    """
    _override("code_variables_ignore_patterns", ignore_patterns)


def set_code_variables_mask_url_credentials_context(enabled: bool) -> None:
    """Hide or show users and passwords in URLs, for exceptions captured in the innermost context.

    Args:
        enabled: Overrides the option `code_variables_mask_url_credentials`.

    Outside a context it has no effect, and logs a warning once.
    """
    _override("code_variables_mask_url_credentials", _is_true(enabled))


def set_code_variables_detect_secrets_context(enabled: bool) -> None:
    """Hide or show strings that look like secrets, for exceptions captured in the innermost context.

    Args:
        enabled: Overrides the option `code_variables_detect_secrets`.

    Outside a context it has no effect, and logs a warning once.
    """
    _override("code_variables_detect_secrets", _is_true(enabled))


def override(option: str) -> Any:
    """Return the value that the nearest context sets for a client option, or `None`."""
    context = active()
    for each in () if context is None else context.outwards():
        if each.overrides is not None and (value := each.overrides.get(option)) is not None:
            return value
    return None


def get_context_distinct_id() -> str | None:
    """Return the distinct id of the active context, or `None`. Never creates one."""
    distinct_id: str | None = _nearest("distinct_id")
    return distinct_id


def get_context_session_id() -> str | None:
    """Return the session id of the active context, or `None`."""
    session_id: str | None = _nearest("session_id")
    return session_id


def get_context_device_id() -> str | None:
    """Return the device id of the active context, or `None`."""
    device_id: str | None = _nearest("device_id")
    return device_id


def _is_true(value: object) -> bool | None:
    """Return the truth value of a flag, or `None`, with a warning, if it has no truth value."""
    try:
        return bool(value)
    except Exception as error:
        raise_interrupt(error)
        logger.warning("expected True or False, not %s; it is ignored", type(value).__name__)
        return None


def _override(option: str, value: Any) -> None:
    if _innermost_for(option) is not None:
        set_override(option, value)


def set_override(option: str, value: Any) -> bool:
    """Set a value in the innermost context for `override` to return. Return False outside a context."""
    context = active()
    if context is not None:
        innermost.set(context.replaced(overrides={**(context.overrides or {}), option: value}))
    return context is not None


def _nearest(attribute: str) -> Any:
    context = active()
    return None if context is None else context.nearest(attribute)


def _innermost_for(call: str) -> Context | None:
    context = active()
    if context is None:
        level = logging.DEBUG if call in _warned_outside else logging.WARNING
        _warned_outside.add(call)
        text = "%s() has no effect outside a context: use it inside `with leanbase.new_context():`"
        logger.log(level, text, call)
    return context


_warned_outside: set[str] = set()


@cache
def _warn_of_id(kind: str) -> None:
    logger.warning("an id should be a string, a number or a UUID, not %s; its str() is used", kind)


def coerce_id(value: object) -> str | None:
    """Return an id as the string that is sent, or `None` if it counts as missing.

    Strings stay verbatim, except that NUL becomes U+FFFD. Numbers keep all digits. Bytes are decoded.
    `None`, blank strings, NaN, infinities, and objects without a usable `str()` count as missing.
    """
    if value is None:
        return None
    text = value if type(value) is str else _text_of_id(value)
    if text is None or not text.strip():
        return None
    return text.replace(_NUL, "\ufffd") if _NUL in text else text


def _text_of_id(value: object) -> str | None:
    value = resolved(value)
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, float) and value - value != 0.0:
            logger.warning("an id that is NaN or infinite counts as missing")
            return None
        if value is None or isinstance(value, UnboundProxy):
            return None
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, bool) or not hasattr(value, "__int__"):  # a UUID has it
            _warn_of_id(type(value).__name__)
        return text_of(value)
    except Exception as error:
        raise_interrupt(error)
        return None
