"""Captures uncaught exceptions of all threads, and exceptions that cannot be raised."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .. import introspection
from ..delivery.scope import DeliveryScope, activate
from ..transports import _at_exit
from ..transports.deadline import Deadline
from . import metadata
from .rate_limit import RateLimiter

if TYPE_CHECKING:
    from typing import Protocol

    from ..settings import Settings

    class Client(Protocol):
        def report_exception(
            self, exception: object, metadata: metadata.Metadata, /, *, uuid: object = None
        ) -> str | None: ...
        def _close_scope(self, scope: DeliveryScope, /) -> object: ...


logger = logging.getLogger("leanbase")

_NEVER_CAPTURED = (KeyboardInterrupt, SystemExit, GeneratorExit)

_installed: WeakSet[ExceptionHooks] = WeakSet()

_chain_ends: ContextVar[Deadline | None] = ContextVar("leanbase_hooks_deadline", default=None)


def install(client: Client, settings: Settings) -> ExceptionHooks | None:
    """Install the exception hooks if the settings enable them, else return `None`."""
    if not settings.enable_exception_autocapture:
        return None
    limiter = None
    if settings.enable_exception_autocapture_rate_limiting:
        limiter = RateLimiter(
            settings.exception_autocapture_bucket_size,
            settings.exception_autocapture_refill_rate,
            settings.exception_autocapture_refill_interval_seconds,
        )
    hooks = ExceptionHooks(client, limiter, unraisable=settings.enable_unraisable_exception_autocapture)
    hooks.install()
    return hooks


_never: BaseException | None = None


def never_capture(error: BaseException) -> None:
    """Never capture this exception in a hook, because another event already reports the failure."""
    global _never
    _never = error


def clients() -> list[Client]:
    """Return the clients that capture uncaught exceptions now."""
    return [hooks.client for hooks in list(_installed)]


class ExceptionHooks:
    """Captures uncaught exceptions for one client while it is installed.

    Args:
        client: The client.
        limiter: Limits the number of exceptions of each class; `None` for no limit.
        unraisable: Whether to also capture exceptions that cannot be raised, for example in `__del__`.
    """

    def __init__(self, client: Client, limiter: RateLimiter | None, *, unraisable: bool = False) -> None:
        self.client = client
        self._limiter = limiter
        self._hooks = [
            _Hook(sys, "excepthook", self._uncaught),
            _Hook(threading, "excepthook", self._uncaught_in_thread),
        ]
        if unraisable:
            self._hooks.append(_Hook(sys, "unraisablehook", self._unraisable))

    def install(self) -> None:
        _installed.add(self)
        for hook in self._hooks:
            hook.install()

    def uninstall(self) -> None:
        """Restore the previous hooks, unless other code has replaced them since."""
        _installed.discard(self)
        for hook in self._hooks:
            hook.uninstall()

    def _uncaught(self, cls: type[BaseException], error: BaseException | None, traceback: Any) -> None:
        # The interpreter is about to end, so events that are not sent now are lost.
        scope = DeliveryScope("end", _chain_ends.get())
        with activate(scope):
            self._capture(cls, error, traceback, metadata.SYS_EXCEPTHOOK)
            self.client._close_scope(scope)

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        self._capture(args.exc_type, args.exc_value, args.exc_traceback, metadata.THREADING_EXCEPTHOOK)

    def _unraisable(self, args: sys.UnraisableHookArgs) -> None:
        self._capture(args.exc_type, args.exc_value, args.exc_traceback, metadata.UNRAISABLEHOOK)

    def _capture(self, cls: type, error: BaseException | None, traceback: Any, at: metadata.Metadata) -> None:
        if issubclass(cls, _NEVER_CAPTURED) or (error is not None and error is _never):
            return
        name = introspection.class_name(cls)
        if self._limiter is not None and not self._limiter.admits(name):
            logger.info("an uncaught %s is not captured: the rate limit of its class is exhausted", name)
            return
        self.client.report_exception((cls, error, traceback), at)


class _Hook:
    """An exception hook of the interpreter. It also calls the hook that it replaced."""

    def __init__(self, owner: Any, name: str, handle: Callable[..., None]) -> None:
        self._owner = owner
        self._name = name
        self._handle: Callable[..., None] | None = handle  # `None` once uninstalled
        self._previous: Callable[..., object] | None = None

    def install(self) -> None:
        self._previous = getattr(self._owner, self._name)
        setattr(self._owner, self._name, self)

    def uninstall(self) -> None:
        self._handle = None  # code that wrapped this hook keeps it alive, but must not keep the client alive
        if getattr(self._owner, self._name) is self:
            previous = self._previous
            while isinstance(previous, _Hook) and previous._handle is None:
                previous = previous._previous
            setattr(self._owner, self._name, previous)

    def __call__(self, *args: Any) -> None:
        # The hooks of several clients call one another and share one deadline. Only `sys.excepthook` ends
        # the process, so only it starts the deadline of the exit.
        ends = _chain_ends.get()
        try:
            if ends is None and self._owner is sys and self._name == "excepthook":
                _chain_ends.set(_at_exit.begin())
            if (handle := self._handle) is not None:
                handle(*args)
        except Exception as error:
            logger.error("an uncaught exception could not be captured: %s", type(error).__name__)
        finally:
            try:
                if self._previous is not None:
                    self._previous(*args)
            finally:
                _chain_ends.set(ends)
