"""Celery: a context and a delivery scope for each task, with the identity of its producer.

Example:
    install()
"""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.exceptions import Ignore, Reject, Retry

from ..client import Leanbase
from ..default import default_client
from ..delivery.scope import DeliveryScope, open_scope
from ..events.contexts import active, identify_context, new_context, set_context_session, tag_all
from ..events.encoding import sanitize
from ..handlers.boundary import Boundary
from ..handlers.platforms import current_platform, tag_platform
from ..messages import log_internal_error

if TYPE_CHECKING:
    from celery import Celery, Task

logger = logging.getLogger("leanbase")

HEADER = "leanbase"
"""The message header that carries the producer's identity, session and tags, as JSON."""

MAX_HEADER_CHARACTERS = 32 * 1024
"""The maximum length of that header. Brokers limit all headers together; RabbitMQ's clients to 128 KiB."""

SAME_FAILURE_SECONDS = 60.0
"""Seconds after a report of a lost task during which another report is about the same loss."""

NO_FAILURES = (Ignore, Reject, Retry)

_runs: ContextVar[tuple[_TaskRun, ...]] = ContextVar("leanbase_celery_tasks", default=())
"""The running tasks of this thread, the innermost last. Eager tasks run inside other tasks."""


def install(app: Celery | None = None, *, client: Leanbase | None = None, propagate: bool = True) -> None:
    """Track the tasks that this process publishes, and the tasks that it runs.

    Each task runs in its own context. The context has the identity, session and tags of the code that
    published the task, and the tags `celery.task_name` and `celery.task_id`.

    The events of a task are sent at its end, in every kind of pool. The end blocks until the events have an
    outcome, at most `send_deadline` seconds.

    An exception that fails a task is captured, and so are a time limit and a lost worker. `Retry`, `Ignore`,
    `Reject` and the exceptions in the task's `throws` are not captured.

    Call `install` where the application is created, in producers and in workers. A second call with the same
    `app` replaces the first.

    Args:
        app: The application whose tasks are tracked when they run. Default: all applications.
        client: Captures exceptions. Its retained events are sent as well. Default: the default client.
        propagate: Whether messages carry the identity, session and tags from producers to workers.

    Raises:
        TypeError: `client` is not a client.

    Examples:
        >>> from celery import Celery
        >>> app = Celery("shop", broker="memory://")
        >>> install(app)
    """
    if client is not None and not isinstance(client, Leanbase):
        raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
    tracker = _Tracker(app, client or default_client, propagate)
    for signal, receiver in (
        (signals.before_task_publish, tracker.publish),
        (signals.task_prerun, tracker.begin),
        (signals.task_failure, tracker.fail),
        (signals.task_postrun, tracker.end),
    ):
        uid = f"{__name__} {'' if app is None else id(app)}"
        signal.disconnect(dispatch_uid=uid)
        signal.connect(receiver, dispatch_uid=uid, weak=False)


class _Tracker:
    """Receives Celery's signals. Its methods never raise: Celery would only log the exception."""

    def __init__(self, app: Celery | None, client: Leanbase, propagate: bool) -> None:
        self._app = app
        self._client = client
        self._propagate = propagate
        self._lost: dict[str, float] = {}

    def publish(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the current identity, session and tags to a message."""
        if self._propagate and isinstance(headers, dict):
            try:
                carried = _carried()
                if carried is not None:
                    headers[HEADER] = carried
            except Exception as error:
                log_internal_error("the Celery integration", error)

    def begin(self, task_id: str, task: Task, **_: Any) -> None:
        """Enter the context and the scope of a task."""
        if self._app is not None and task.app is not self._app:
            return
        running = _runs.get()
        if not task.request.is_eager:
            while running:  # Celery did not signal its end
                running[-1].leave()
                running = running[:-1]
        run = _TaskRun(self._client, task, task_id, self._message(task.request))
        run.__enter__()
        _runs.set((*running, run))

    def fail(
        self, sender: Task, task_id: str, exception: BaseException, traceback: Any = None, **_: Any
    ) -> None:
        """Capture the exception that failed a task."""
        if isinstance(exception, (*NO_FAILURES, *_throws(sender))):
            return
        run = next((run for run in _runs.get() if run.task_id == task_id), None)
        if run is not None:
            run.capture(exception)
        elif (self._app is None or sender.app is self._app) and not self._is_known(task_id):
            # In the main process of a worker: the process that ran the task has ended.
            request = _request_of(sender, task_id, traceback)
            with _LostTask(self._client, sender, task_id, self._message(request)) as lost:
                lost.capture(exception)

    def end(self, task_id: str, **_: Any) -> None:
        """Send the events of a task and leave its context."""
        running = _runs.get()
        if any(run.task_id == task_id for run in running):
            while running:
                run, running = running[-1], running[:-1]
                _runs.set(running)
                run.leave()
                if run.task_id == task_id:
                    return

    def _message(self, request: Any) -> Any:
        return request.get(HEADER) if self._propagate and request is not None else None

    def _is_known(self, task_id: str) -> bool:
        """Return True if this loss is already reported: Celery reports a hard time limit twice."""
        now = time.monotonic()
        self._lost = {each: at for each, at in self._lost.items() if now - at < SAME_FAILURE_SECONDS}
        known = task_id in self._lost
        self._lost[task_id] = now
        return known


class _TaskRun(Boundary):
    """One run of a task. Inside an open scope (for example, an eager task), the outermost scope sends."""

    def __init__(self, client: Leanbase, task: Task, task_id: str, carried: Any) -> None:
        around = open_scope()
        self._is_nested = around is not None and around.is_open
        scope = around if around is not None and around.is_open else DeliveryScope(belongs_to_handler=True)
        eager = bool(task.request.is_eager)
        super().__init__(
            client, scope, "CELERY", capture_exceptions=True, context=new_context(fresh=not eager)
        )
        self.task_id = task_id
        self._task = task
        self._carried = carried

    def begin(self) -> None:
        try:
            _restore(self._carried)
            tag_platform()
            tag_all({"celery.task_name": self._task.name, "celery.task_id": self.task_id})
        except Exception as error:
            log_internal_error("the Celery integration", error)

    def close(self, error: BaseException | None) -> None:
        if not self._is_nested:
            super().close(error)

    def leave(self) -> None:
        """Send the events and leave the context."""
        self.__exit__(None, None, None)


class _LostTask(_TaskRun):
    """A task whose process has ended. The main process reports it, and does not wait for the send."""

    def __enter__(self) -> _LostTask:  # type: ignore[override]
        super().__enter__()
        return self

    def close(self, error: BaseException | None) -> None:
        self.client._close_scope_later(self.scope)


def _throws(task: Task) -> tuple[type[BaseException], ...]:
    """Return the exceptions that a task is expected to raise."""
    throws = getattr(task, "throws", None) or ()
    return throws if isinstance(throws, tuple) else (throws,)


def _request_of(task: Task, task_id: str, traceback: Any) -> Any:
    """Return the request of a task that ran in another process; `None` if it cannot be found."""
    if task.request.id == task_id:
        return task.request
    # For a hard time limit, Celery raises the exception in a method of the request.
    frame = getattr(traceback, "tb_frame", None)
    request = frame.f_locals.get("self") if frame is not None else None
    message = getattr(request, "request_dict", None)
    return message if isinstance(message, dict) and message.get("id") == task_id else None


# --- what messages carry ------------------------------------------------------------------------------


def _carried() -> str | None:
    """Return the current identity, session and tags as JSON; `None` if there are none."""
    context = active()
    if context is None:
        return None
    own = current_platform().tags()
    tags = {
        name: value
        for name, value in context.tags_in_effect().items()
        if own.get(name) != value and not name.startswith("celery.")
    }
    found = {
        "distinct_id": context.nearest("distinct_id"),
        "session_id": context.nearest("session_id"),
        "tags": sanitize(tags),
    }
    text = json.dumps({name: value for name, value in found.items() if value})
    if len(text) > MAX_HEADER_CHARACTERS:
        logger.warning(
            "tags of %d characters are too large for a task's headers: the task gets no tags",
            len(text),
        )
        text = json.dumps({name: value for name, value in found.items() if value and name != "tags"})
    return text if text != "{}" else None


def _restore(carried: Any) -> None:
    """Set the identity, session and tags of a message in the active context. Invalid ones are ignored."""
    if not isinstance(carried, str) or len(carried) > MAX_HEADER_CHARACTERS:
        return
    try:
        found = json.loads(carried)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    if isinstance(found.get("tags"), dict):
        tag_all(found["tags"])
    if isinstance(found.get("distinct_id"), str):
        identify_context(found["distinct_id"])
    if isinstance(found.get("session_id"), str):
        set_context_session(found["session_id"])
