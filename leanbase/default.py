"""The default client, which the functions of the module `leanbase` belong to."""

from __future__ import annotations

import logging
import sys
import threading
from contextvars import Context, copy_context
from functools import partial

from .client import Leanbase
from .delivery.scope import DeliveryScope
from .errors import ConfigError
from .events.event import pinned
from .forking import reset_in_child
from .transports.receipt import Receipt, no_stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .events.event import Draft
    from .pipeline import Pipeline
    from .transports.deadline import Deadline
    from .transports.receipt import Stats

logger = logging.getLogger("leanbase")

# Attributes of the module that take effect at the next call, not only at the next configuration.
_LIVE = ("disabled", "debug", "before_send")


class DefaultClient(Leanbase):
    """A client that is configured when it is first used, and again after each shutdown.

    Its settings are the attributes of the module `leanbase`. It never raises: with settings that can
    never work it logs the error and is disabled until the next shutdown.
    """

    def __init__(self) -> None:
        self._reset_after_fork()
        self._latest: Pipeline | None = None
        self._seen: dict[str, Any] = {}
        self._explicitly_opted_out: bool | None = None
        self._opted_out = False
        self._debug = False
        self._complained = False

    def _reset_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._making: int | None = None  # the thread that configures
        self._early: list[tuple[Context, Callable[[], object]]] = []

    def setup(self) -> Leanbase:
        """Return the default client, configured; it is always the same object. Never raises."""
        self._current()
        return self

    def shutdown(self, timeout: float | None = None) -> Receipt:
        """Send everything that waits, close, and forget the settings: the next call reads them anew.

        Call it as often as you like, after every request if need be.

        Args:
            timeout: Most seconds to take; `None` for `send_deadline`.

        Returns:
            A receipt of what was still waiting. What could not be delivered is dropped and reported to
            `on_error`. Blocks until then. Never raises.
        """
        # Forgotten first: a capture in another thread finds a new outbox, not a closed one.
        with self._lock:
            pipeline, self._latest = self._latest, None
        return Receipt() if pipeline is None else self._close(pipeline, timeout)

    def _warm_up(self, timeout: float = 1.0) -> None:
        """Prepare the first send, unless the settings are not there yet: the first call reads them."""
        if self._is_configured():
            super()._warm_up(timeout)

    def disconnect(self, timeout: float = 5.0) -> Receipt:
        """Send everything that is pending and close idle connections, if the client is used."""
        return Receipt() if self._latest is None else super().disconnect(timeout)

    def _is_configured(self) -> bool:
        if self._latest is not None:
            return True
        from .delivery.factory import missing_settings
        from .settings import Settings

        try:
            return not missing_settings(Settings.resolve({}))
        except ConfigError:
            return False

    def _close_scope(self, scope: DeliveryScope) -> Receipt:
        """Send what a delivery scope collected, and what this client, if it is used, has retained."""
        return scope.close() if self._latest is None else super()._close_scope(scope)

    def _send_scope(self, scope: DeliveryScope, deadline: Deadline) -> Receipt:
        """Send everything before the process is killed, also this client's, if it is used."""
        if self._latest is None:
            return scope.send(deadline=deadline, take_over=True)
        return super()._send_scope(scope, deadline)

    def _current(self) -> Pipeline:
        attributes = vars(sys.modules[__package__])
        pipeline = self._latest
        if pipeline is not None and pipeline.missing and _all_set(attributes, pipeline.missing):
            self.shutdown()  # it was used before its settings were there, and now they are
            pipeline = None
        if pipeline is None:
            reset_in_child(self)
            with self._lock:
                pipeline = self._make()
            while self._early:
                context, call = self._early.pop(0)
                context.run(call)
        for name in _LIVE:
            if attributes.get(name) is not self._seen.get(name):
                self._follow(pipeline, name, attributes.get(name))
        return pipeline

    def _make(self) -> Pipeline:
        if self._making == threading.get_ident():
            raise RuntimeError("a signal handler needs the default client while it is made")
        try:
            self._making = threading.get_ident()  # from here on no signal handler makes another one
            pipeline = self._latest
            if pipeline is None:
                pipeline = self._configure()
                self._install_hooks(pipeline)
                self._latest = pipeline
            return pipeline
        finally:
            self._making = None

    def _configure(self) -> Pipeline:
        from .pipeline import Pipeline  # with all that only a used client needs
        from .settings import Settings

        attributes = vars(sys.modules[__package__])
        self._seen = {name: attributes.get(name) for name in _LIVE}
        try:
            pipeline = Pipeline(Settings.resolve({}))
        except Exception as error:
            text = str(error) if isinstance(error, ConfigError) else type(error).__name__
            logger.error("leanbase is disabled: %s", text)
            pipeline = Pipeline(Settings(disabled=True, transport="memory"))
            # Not to be enabled by an attribute: there is nowhere to send to.
            pipeline.missing = ["settings that can work"]
        if not self._complained:
            pipeline.warn_if_unconfigured()
            self._complained = bool(pipeline.missing)
        settings = pipeline.settings
        chosen = self._explicitly_opted_out
        self._opted_out = settings.opted_out if chosen is None else chosen
        if settings.debug != self._debug:
            self._set_debug(settings.debug)
        return pipeline

    # --- what a signal handler asks for while its own thread makes the client, with imports half done ----

    def _is_being_made(self) -> bool:
        return self._making is not None and self._making == threading.get_ident()

    def _admits(self) -> bool:
        return self._is_being_made() or super()._admits()

    def _emit(self, draft: Draft) -> str | None:
        return self._later(draft, self._emit) if self._is_being_made() else super()._emit(draft)

    def _emit_exception(self, exception: object, draft: Draft, *metadata: Any, **details: Any) -> str | None:
        if self._is_being_made():
            return self._later(
                draft, lambda draft: self._emit_exception(exception, draft, *metadata, **details)
            )
        return super()._emit_exception(exception, draft, *metadata, **details)

    def _later(self, draft: Draft, emit: Callable[[Draft], object]) -> str:
        """Capture a draft as soon as the client is made."""
        uuid = pinned(draft)
        self._early.append((copy_context(), partial(emit, draft)))
        return uuid

    def _drop(self, reason: str) -> None:
        if self._is_being_made():
            self._early.append((copy_context(), partial(self._drop, reason)))
        else:
            super()._drop(reason)

    def flush(self, timeout: float | None = 10.0) -> Receipt:
        return Receipt() if self._is_being_made() else super().flush(timeout)

    flush.__doc__ = Leanbase.flush.__doc__

    def stats(self) -> Stats:
        return no_stats() if self._is_being_made() else super().stats()

    stats.__doc__ = Leanbase.stats.__doc__

    def opt_out(self) -> None:
        """Capture nothing from now on, also after a shutdown; what was captured before is delivered."""
        self._opted_out = self._explicitly_opted_out = True

    def opt_in(self) -> None:
        """Undo `opt_out`."""
        self._opted_out = self._explicitly_opted_out = False

    def _follow(self, pipeline: Pipeline, name: str, value: Any) -> None:
        self._seen[name] = value
        if name == "disabled":
            pipeline.disable(bool(value))
        elif name == "debug":
            self._set_debug(bool(value))
        else:
            pipeline.set_hooks(value)


def _all_set(attributes: dict[str, Any], names: list[str]) -> bool:
    return all(isinstance(value := attributes.get(name), str) and value.strip() for name in names)


default_client = DefaultClient()
