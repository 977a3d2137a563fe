"""The steps that all handlers share: open a context and a scope, capture an exception, close the scope."""

from __future__ import annotations

from ..delivery.scope import activate
from ..events.contexts import innermost, new_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..client import Leanbase
    from ..delivery.scope import DeliveryScope
    from ..events.contexts import Context


class Boundary:
    """Wraps work in a context and a delivery scope, which is closed however the work ends.

    Subclasses override the steps: `begin`, `capture`, `close`, `end`, in this order.

    Args:
        client: Captures exceptions that escape. Its retained events are sent with the scope's events.
        scope: Collects the events of the work.
        name: The boundary's name in `leanbase.error_tracking.metadata`.
        context: The context of the work. Default: an empty one.
    """

    def __init__(
        self,
        client: Leanbase,
        scope: DeliveryScope,
        name: str,
        *,
        capture_exceptions: bool,
        context: new_context | None = None,
    ) -> None:
        self.client = client
        self.scope = scope
        self._name = name
        self._capture_exceptions = capture_exceptions
        self._activated = activate(scope)
        self._context = context or new_context(fresh=True)
        self._context_left: Context | None = None

    def begin(self) -> None:
        """Begin the work, inside the context and the scope. Must not raise."""

    def capture(self, error: BaseException | None) -> None:
        """Capture the exception that escapes, if there is one."""
        self.client._capture_escaping(error, self._name)

    def close(self, error: BaseException | None) -> None:
        """Close the scope, which holds all events of the work, or defer the close."""
        self.client._close_scope(self.scope)

    def end(self) -> None:
        """Undo `begin`. Runs last."""

    def __enter__(self) -> None:
        try:
            self._context.__enter__()
            self._activated.__enter__()
            self.begin()
        except BaseException:  # an interrupt: Python calls no `__exit__` if `__enter__` raised
            self._leave()
            raise

    def _leave(self) -> None:
        self.end()
        self._context_left = innermost.get()
        self._activated.__exit__()
        self._context.__exit__(None, None, None)

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        # Every step runs, even if a signal handler raises in the step before it.
        try:
            if self._capture_exceptions:
                self.capture(exc)
        finally:
            try:
                self.close(exc)
            except BaseException:
                self.scope.abandon()
                raise
            finally:
                self._leave()

    def resumed(self) -> Resumed:
        """Return a context manager that activates the context and the scope again."""
        return Resumed(self)


class Resumed:
    """The context manager that `Boundary.resumed` returns."""

    __slots__ = ("_activated", "_boundary", "_outer")

    def __init__(self, boundary: Boundary) -> None:
        self._boundary = boundary
        self._activated = activate(boundary.scope)
        self._outer: Context | None = None

    def __enter__(self) -> None:
        self._outer = innermost.get()
        try:
            innermost.set(self._boundary._context_left)
            self._activated.__enter__()
        except BaseException:  # an interrupt: Python calls no `__exit__` if `__enter__` raised
            innermost.set(self._outer)
            raise

    def __exit__(self, *exc_info: object) -> None:
        self._boundary._context_left = innermost.get()
        self._activated.__exit__()
        innermost.set(self._outer)
