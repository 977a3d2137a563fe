"""Where a context, a delivery scope, an exception and the close come together, once for all handlers."""

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
    """Around some work: a context and a delivery scope, which is closed however the work ends.

    Subclasses say what is special about their work: `begin` after the context and the scope are entered,
    `capture` an exception that escapes, `close` in place of closing the scope at once, `end` after it.

    Args:
        client: Captures exceptions that escape, and sends what it has retained with the scope.
        scope: Collects the events of the work.
        name: The boundary's name in `leanbase.error_tracking.metadata`.
        capture_exceptions: Whether an exception that escapes is captured.
        context: The context of the work. Default: a fresh one.
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
        """Begin the work: what is captured from here on belongs to it. Must not raise."""

    def capture(self, error: BaseException | None) -> None:
        """Capture what escapes, if anything does."""
        self.client._capture_escaping(error, self._name)

    def close(self, error: BaseException | None) -> None:
        """Close the scope, in which all events of the work are now."""
        self.client._close_scope(self.scope)

    def end(self) -> None:
        """Undo `begin`."""

    def __enter__(self) -> None:
        try:
            self._context.__enter__()
            self._activated.__enter__()
            self.begin()
        except BaseException:  # an interrupt: nobody will leave what was not entered
            self._leave()
            raise

    def _leave(self) -> None:
        self.end()
        self._context_left = innermost.get()
        self._activated.__exit__()
        self._context.__exit__(None, None, None)

    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        # Each step is followed by the next, also when a signal handler raises in it.
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
        """Enter the context and the scope once more, by `with`, after they were left: the work goes on."""
        return Resumed(self)


class Resumed:
    """What `Boundary.resumed` returns."""

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
        except BaseException:  # an interrupt: nobody will leave what was not entered
            innermost.set(self._outer)
            raise

    def __exit__(self, *exc_info: object) -> None:
        self._boundary._context_left = innermost.get()
        self._activated.__exit__()
        innermost.set(self._outer)
