"""Sends the captured events shortly before the function times out, with the stack of the handler."""

from __future__ import annotations

import logging
import sys
import threading
from contextvars import copy_context

from ...delivery.scope import DeliveryScope
from ...messages import log_internal_error
from ...transports.deadline import Deadline
from .failures import PERSONLESS_EVENTS, own_failure_uuid, request_properties

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...client import Leanbase

logger = logging.getLogger("leanbase")

TYPE = "LambdaTimeout"

SHARE = 0.8
"""The maximum share of the reserved time that the send takes."""


class TimeoutWarning:
    """Watches one invocation from a thread, and warns when only the reserved time is left.

    Start it in the thread of the handler, inside the invocation's context and scope.

    Args:
        deadline: When to warn. The time from then to the timeout is reserved.
        total: Seconds until the timeout.
    """

    def __init__(
        self, client: Leanbase, scope: DeliveryScope, context: Any, deadline: Deadline, total: float
    ) -> None:
        self._client = client
        self._scope = scope
        self._lambda_context = context
        self._deadline = deadline
        self._total = total
        self._reserve = total - deadline.remaining()
        self._handler_thread = threading.get_ident()
        self.has_warned = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="leanbase-timeout-warning", daemon=True
        )

    @staticmethod
    def prepare() -> None:
        """Import what a warning needs early: an import may take longer than the reserved time."""
        from ...error_tracking import capture, describer  # noqa: F401

    @classmethod
    def started(cls, client: Leanbase, scope: DeliveryScope, context: Any) -> TimeoutWarning | None:
        """Start to watch an invocation. Return `None` without a deadline or a client that captures."""
        if scope.deadline is None or not client._is_configured() or client.disabled:
            return None
        try:
            scope.latest = {}
            total = context.get_remaining_time_in_millis() / 1000
            warning = cls(client, scope, context, scope.deadline, total)
            warning._thread.start()
            return warning
        except Exception as error:
            log_internal_error("lambda_handler(timeout_warning=True)", error)
            return None

    def cancel(self) -> None:
        """End the watch. If a warning is in flight, wait for it: it ends before the timeout."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(self._reserve)
        self._scope.latest = None

    def _run(self) -> None:
        if not self._is_over.wait(self._deadline.remaining()):
            try:
                self._warn(Deadline.after(self._reserve * SHARE))
            except Exception as error:
                log_internal_error("lambda_handler(timeout_warning=True)", error)

    def _warn(self, deadline: Deadline) -> None:
        logger.warning("the function is about to time out: its events are sent now")
        scope = self._scope
        scope.deadline = deadline  # a full scope sends inside the capture
        collects, scope.collects = scope.collects, True  # send all events in one request
        try:
            self._capture()
        finally:
            scope.collects = collects
        self._client._send_scope(scope, deadline)

    def _capture(self) -> None:
        from ...error_tracking import metadata
        from ...error_tracking.frames import stack_calls
        from ...error_tracking.subjects import Described

        text = f"the function is about to time out: {self._reserve:.2f} s of {self._total:.2f} s are left"
        frame = sys._current_frames().get(self._handler_thread)
        uuid = own_failure_uuid(self._lambda_context)
        distinct_id, properties = self._identity(uuid)
        captured = self._client.report_exception(
            Described(TYPE, text),
            metadata.LAMBDA_TIMEOUT,
            properties=properties,
            stack=stack_calls(frame, without=()),
            distinct_id=distinct_id,
            uuid=uuid,
        )
        self.has_warned = captured is not None

    def _identity(self, uuid: str | None) -> tuple[str | None, dict[str, Any]]:
        """Return the distinct id and properties of the invocation's latest event, as the relay does.

        This thread's context is a copy from the handler's start: identities that are set later are not in it.
        """
        latest = self._scope.latest or {}
        for outbox in self._client._outboxes():
            captured = latest[outbox].decode() if outbox in latest else None
            if captured is not None and captured["event"] not in PERSONLESS_EVENTS:
                return captured["distinct_id"], request_properties(captured)
        if uuid is None or self._client.get_context_distinct_id() is not None:
            return None, {}
        return uuid, {"$process_person_profile": False}
