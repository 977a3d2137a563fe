"""One request of a web application: its identity, tags and failures, and when its events are sent."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from ..client import Leanbase
from ..default import default_client
from ..delivery import factory
from ..delivery.background import background
from ..delivery.scope import DeliveryScope, RequestScope, open_scope
from ..errors import ConfigError
from ..event_loop import all_called
from ..events.contexts import Found, Lookup, get_tags, new_context
from ..interrupts import raise_interrupt
from ..messages import log_internal_error, log_lost_at_exit
from ..transports._repeated import RepeatedLog
from .boundary import Boundary
from .platforms import current_platform
from .sigterm import install_sigterm_handler
from .termination import grace_seconds, termination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from typing import Any, Literal, TypeAlias

    from ..delivery.background import Sender
    from ..events.request_headers import Headers
    from ..transports.deadline import Deadline

    RequestFlushPolicy: TypeAlias = Literal["auto", "before_response", "after_response", "each"]

    Description: TypeAlias = tuple[Headers, dict[str, Any], str | None]
    """The headers of a request, its tags, and the user's id if the framework knows it."""

logger = logging.getLogger("leanbase")

FLUSH_POLICIES = ("auto", "before_response", "after_response", "each")

HANG_UPS = frozenset(
    {"ClientDisconnect", "ClientDisconnected", "RequestAborted", "UnreadablePostError", "WebSocketDisconnect"}
)
"""Exceptions of Starlette, Werkzeug and Django that mean that the HTTP client has disconnected."""

REQUEST_KEY = "leanbase.request"
"""The key under which a WSGI environ or an ASGI scope holds its `WebRequest`."""

FAILED_STATUS = 500
"""The lowest status of a response that means that the application has failed."""


class RequestOptions:
    """How the requests of an application are tracked: the options that all middlewares share.

    Arguments as for `integrations.wsgi.LeanbaseMiddleware`. `flush="auto"` means before the response on AWS
    Lambda, Cloud Run, Cloud Functions and Vercel, and after it elsewhere. If `tag_map` raises, the events
    carry no tags, because it may be a privacy filter.
    """

    def __init__(
        self,
        *,
        client: Leanbase | None = None,
        flush: RequestFlushPolicy = "auto",
        capture_exceptions: bool = True,
        request_filter: Callable[[Any], object] | None = None,
        extra_tags: Callable[[Any], Mapping[str, Any] | None] | None = None,
        tag_map: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        if flush not in FLUSH_POLICIES:
            raise ConfigError(f"flush must be one of {', '.join(map(repr, FLUSH_POLICIES))}, not {flush!r}")
        if client is not None and not isinstance(client, Leanbase):
            raise TypeError(f"client must be a Leanbase, not {type(client).__name__}")
        platform = current_platform()
        automatic: RequestFlushPolicy = "before_response" if platform.freezes else "after_response"
        self.flush = automatic if flush == "auto" else flush
        self._platform_tags = platform.tags()
        self.client = client or default_client
        self.capture_exceptions = capture_exceptions
        self._request_filter = _callable(request_filter, "request_filter")
        self._extra_tags = _callable(extra_tags, "extra_tags")
        self._tag_map = _callable(tag_map, "tag_map")

        self._may_die_of_sigterm = False
        self._is_abrupt = platform.is_abrupt
        # uvicorn raises the signal that stopped it again, which ends the process without exit hooks.
        may_die = self._is_abrupt or "uvicorn" in sys.modules
        if may_die and threading.current_thread() is threading.main_thread():
            self._may_die_of_sigterm = True
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self.handle_sigterm()  # the signal arrives here after uvicorn has handled it

    def handle_sigterm(self) -> None:
        """Send pending events on SIGTERM, if the signal would end the process without exit hooks."""
        if self._may_die_of_sigterm:
            self._may_die_of_sigterm = False
            install_sigterm_handler(self.client)

    def skip_sigterm(self) -> None:
        """Do not handle SIGTERM, unless the platform is abrupt: the server announces its end."""
        self._may_die_of_sigterm = self._may_die_of_sigterm and self._is_abrupt

    def track(self, request: Any) -> bool:
        """Return True if a request is tracked. If the filter raises, it is tracked."""
        if self._request_filter is None:
            return True
        try:
            return bool(self._request_filter(request))
        except Exception as error:
            raise_interrupt(error)
            _warn("request_filter", error, "the request is tracked")
            return True

    def look_up(self, describe: Callable[[], Description], request: Any) -> Found:
        """Return the identity and the tags of a request, which `describe` reads."""
        headers, tags, user_id = describe()
        if self._platform_tags:
            around = get_tags()  # the tags of the job or invocation around the request
            others = {name: tag for name, tag in self._platform_tags.items() if name not in around}
            tags = {**others, **tags}
        if self._extra_tags is not None:
            try:
                tags.update(self._extra_tags(request) or {})
            except Exception as error:
                raise_interrupt(error)
                _warn("extra_tags", error, "they are left out")
        if self._tag_map is not None:
            mapped: object = None
            try:
                mapped = self._tag_map(tags)
                if not isinstance(mapped, Mapping):
                    raise TypeError("not a mapping")
            except Exception as error:
                raise_interrupt(error)
                mapped = {}
                _warn("tag_map", error, "the events of the request carry no tags")
            tags = dict(mapped)
        return Found(headers.distinct_id or user_id, headers.session_id, tags)


def _callable(given: Any, option: str) -> Any:
    if given is None or callable(given):
        return given
    logger.warning("%s must be callable, not %s; it is ignored", option, type(given).__name__)
    return None


def attempt(what: str, read: Callable[[], Any]) -> Any:
    """Return the result of `read`. If it raises, log a warning about `what` and return `None`."""
    try:
        return read()
    except Exception as error:
        raise_interrupt(error)
        _warn(what, error, "it is left out")
        return None


def _warn(what: str, error: Exception, consequence: str) -> None:
    text = f"whose {what} failed with {type(error).__name__}; {consequence}"
    _repeated.log(logging.WARNING, what, 1, text, "request(s)")


class WebRequest(Boundary):
    """One request, from its arrival to the end of its response.

    The `with` block keeps the context and the scope active while the application handles the request.
    `resumed` activates them again for later work. `finish` or `finish_in_thread` closes the scope.

    Inside another boundary (a handler, a job or another request), it opens only a context: the outermost
    boundary sends.

    Args:
        name: The boundary's name in `leanbase.error_tracking.metadata`.
        describe: Reads the request. Called when its identity or tags are first needed.
        request: The framework's request object.
        outer: The boundary that already wraps the same request.
        is_concurrent: Whether the process handles other requests at the same time, in threads or on an event
            loop. A send must not delay them.
        is_async: Whether the request is handled on an event loop.
        is_long: Whether the request may stay open for long, as a WebSocket does.
        deadline: The time by which every send must end.

    Attributes:
        status: The status of the response, once it is known.
    """

    is_nested = True  # so that `__del__` does nothing if `__init__` raised

    def __init__(
        self,
        options: RequestOptions,
        name: str,
        describe: Callable[[], Description],
        request: Any,
        *,
        outer: object = None,
        is_concurrent: bool = True,
        is_async: bool = False,
        is_long: bool = False,
        deadline: Deadline | None = None,
    ) -> None:
        around: DeliveryScope | None = outer.scope if isinstance(outer, WebRequest) else _scope_around()
        self.is_nested = around is not None
        self.sends_before_response = not self.is_nested and (
            options.flush == "before_response" or factory.is_overridden()  # tests read events at once
        )
        scope = around or RequestScope(
            "each" if options.flush == "each" else "end",
            deadline,
            is_async=is_async,
            is_long=is_long,
            bypasses_buffers=self.sends_before_response,
            sends_in_thread=is_concurrent and options.flush == "after_response",
        )
        inherits = isinstance(outer, WebRequest) or scope.belongs_to_handler
        super().__init__(
            options.client,
            scope,
            name,
            capture_exceptions=options.capture_exceptions,
            context=new_context(
                fresh=not inherits,
                detached=not inherits,
                lookup=Lookup(lambda: options.look_up(describe, request)),
            ),
        )
        self._blocks = self.sends_before_response or not is_concurrent
        self.is_inside = False
        self.status: int | None = None
        self._unsent_bytes: int | None = None
        _close_forgotten()

    def begin(self) -> None:
        self.is_inside = True

    def end(self) -> None:
        self.is_inside = False

    def capture(self, error: BaseException | None, name: str | None = None) -> None:
        """Capture an exception of the application, unless it means that the HTTP client has disconnected.

        Args:
            error: The exception.
            name: The boundary that caught it. Default: this one.
        """
        if self._capture_exceptions and error is not None and not self.is_hang_up(error):
            properties = None if self.status is None else {"$response_status_code": self.status}
            self.client._capture_escaping(error, name or self._name, properties)

    def is_hang_up(self, error: BaseException) -> bool:
        """Return True if an exception means that the HTTP client has disconnected."""
        return any(each.__name__ in HANG_UPS for each in type(error).__mro__)

    def close(self, error: BaseException | None) -> None:
        """Leave the scope open for `finish`: the response is not sent yet."""
        if not self.is_nested:
            self.scope.deferred = not self.scope.finished

    def finish(self) -> None:
        """Close the scope.

        Blocks for the send if it must end before the response, or if the process handles one request at a
        time. Otherwise a thread sends.
        """
        if not self.is_nested and not self.scope.finished:
            if not self._blocks:
                self.client._close_scope_later(self.scope)
                return
            try:
                self.client._close_scope(self.scope)
            except BaseException:  # an interrupt, for example by a server that ends its worker
                self.scope.abandon()
                raise

    def finish_later(self) -> None:
        """Close the scope, and let a thread send. Does not block."""
        if not self.is_nested:
            self.client._close_scope_later(self.scope)

    def send_later(self) -> None:
        """Let a thread send the events captured so far. The scope stays open. Does not block."""
        if not self.is_nested:
            try:
                self.scope.send_later(*self.client._outboxes())
            except Exception as error:
                log_internal_error("delivery_scope()", error)

    async def send_in_thread(self) -> None:
        """Send the events captured so far while the event loop continues. The scope stays open."""
        if not self.is_nested:
            try:
                await self.scope.send_in_thread(*self.client._outboxes())
            except Exception as error:
                log_internal_error("delivery_scope()", error)

    async def finish_in_thread(self) -> None:
        """Close the scope on an event loop. Waits for the send only if it must end before the response."""
        if self.sends_before_response:
            await self.client._close_scope_in_thread(self.scope)
        else:
            self.finish_later()

    def __del__(self) -> None:
        # A discarded response is never closed. The next request closes its scope: `__del__` may run anywhere.
        if not self.is_nested and self.scope.deferred and not self.scope.finished:
            _unclosed.append((self.client, self.scope))

    # --- the body --------------------------------------------------------------------------------------

    def expect_bytes(self, content_length: Any) -> None:
        """Set the length of the body in bytes, for `is_last`."""
        try:
            self._unsent_bytes = int(content_length)
        except (TypeError, ValueError):
            self._unsent_bytes = None

    def is_last(self, part: Any) -> bool:
        """Return True if this part of the body is known to be the last one."""
        if self._unsent_bytes is None or not isinstance(part, (bytes, bytearray, memoryview)):
            return False
        self._unsent_bytes -= len(part)
        return self._unsent_bytes <= 0

    def parts(self, body: Iterable[Any]) -> Iterator[Any]:
        """Yield the parts of a body. Each part is produced inside the request."""
        __tracebackhide__ = True
        try:
            with self.resumed():
                iterator = iter(body)
            while True:
                with self.resumed():
                    part = next(iterator, _END)
                if part is _END:
                    break
                if self.sends_before_response and self.is_last(part):
                    self.finish()
                yield part
        except Exception as error:
            self._capture_resumed(error)
            self.finish()  # Django's ASGI handler does not close a response whose body raised
            raise
        if self.sends_before_response:
            self.finish()

    async def async_parts(self, body: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the parts of an asynchronous body. Each part is produced inside the request."""
        __tracebackhide__ = True
        try:
            while True:
                with self.resumed():
                    try:
                        part = await body.__anext__()
                    except StopAsyncIteration:
                        break
                if self.sends_before_response and self.is_last(part):
                    await self.finish_in_thread()
                yield part
            if self.sends_before_response:
                await self.finish_in_thread()
        except Exception as error:
            self._capture_resumed(error)
            raise
        finally:
            self.finish_later()

    def call_resumed(self, function: Callable[[], object]) -> None:
        """Call a function that closes a response, inside the request."""
        __tracebackhide__ = True
        with self.resumed():
            function()

    def _capture_resumed(self, error: BaseException) -> None:
        with self.resumed():
            self.capture(error)


async def send_everything(client: Leanbase) -> None:
    """Send the pending events of every client that sends for requests, because the server is about to end.

    Takes at most `grace_seconds`: SIGTERM may be the reason.
    """
    try:
        senders = {*client._outboxes(), *background.pending()}
        seconds = grace_seconds([client])
        await all_called([partial(_flush, sender, seconds) for sender in senders], timeout=seconds)
        termination().forget(client)  # otherwise SIGTERM would start a second flush
    except Exception as error:
        log_internal_error("flush()", error)


def _flush(sender: Sender, seconds: float, done: Callable[[], object]) -> None:
    """Send a client's pending events in a thread, even while sends are paused: this may be the last send."""

    def flush() -> None:
        try:
            receipt = sender.flush(timeout=seconds, last_chance="brief")
            if receipt.retained:
                log_lost_at_exit(receipt.retained)
        except Exception as error:
            log_internal_error("flush()", error)
        finally:
            done()

    threading.Thread(target=flush, name="leanbase-last-flush", daemon=True).start()


_END = object()
_repeated = RepeatedLog()

_unclosed: deque[tuple[Leanbase, DeliveryScope]] = deque()
"""Scopes of requests whose responses were discarded. The next request closes them."""


def _close_forgotten() -> None:
    while _unclosed:
        try:
            client, scope = _unclosed.popleft()
        except IndexError:
            return  # another thread took it
        client._close_scope_later(scope)


def _scope_around() -> DeliveryScope | None:
    """Return the open scope, unless it belongs to a request.

    On a kept-alive connection, a request may begin inside the context of the previous request.
    """
    scope = open_scope()
    return None if scope is None or scope.is_request or not scope.is_open else scope
