"""The exceptions Leanbase raises or hands to `on_error`.

    LeanbaseError
    ├── ConfigError                    raised by `Leanbase(...)`: a setting that can never work
    │   ├── MissingDependencyError     ... because an optional package is not installed
    │   └── UnusableError              ... because the machine lacks something; events are sent without it
    ├── InvalidEventError              arguments that do not make a valid event
    ├── EventTooLargeError             an event above the limit of 900 KiB
    ├── DroppedError                   an event that was dropped before it was sent, and why
    ├── ClosedError                    an event for a client that was shut down
    ├── NotDeliveredError              raised by the relay, so that Lambda invokes it again
    └── TransportError                 a delivery that failed; a later one may succeed
        └── RejectedError              ... because the server rejected it permanently

Only `ConfigError` and its children ever reach application code as exceptions. `DroppedError`,
`TransportError` and `RejectedError` are what `on_error` receives and what a `Receipt` carries. The client
turns `InvalidEventError`, `EventTooLargeError` and `ClosedError` into a log record and the result `None`.
"""

from __future__ import annotations

UNAVAILABLE = "unavailable"


class LeanbaseError(Exception):
    """The base class of all exceptions of this package."""


class ConfigError(LeanbaseError):
    """A setting that can never work, found when the client is created."""


class MissingDependencyError(ConfigError):
    """An option needs a package that is not installed.

    Args:
        wanted: The option that needs the package, for example `"transport='sqs'"`.
        package: The import name of the package.
        extra: The extra of this distribution that installs it.
    """

    def __init__(self, wanted: str, *, package: str, extra: str) -> None:
        super().__init__(f"{wanted} needs {package}: install that, or this package with the extra {extra!r}")
        self.package = package
        self.extra = extra


class InvalidEventError(LeanbaseError):
    """The arguments do not make a valid event. The message names what was given and what was expected."""


class EventTooLargeError(LeanbaseError):
    """A value does not fit into one event.

    Attributes:
        size: The size in bytes, or the number of bytes counted when the value exceeded the limit.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes or more are above the limit of {limit} for one event")
        self.size = size


class ClosedError(LeanbaseError):
    """The client was shut down, so it admits no events.

    Attributes:
        event: The encoded event that came too late.
    """

    def __init__(self, event: object) -> None:
        super().__init__("the client was shut down")
        self.event = event


class UnusableError(ConfigError):
    """The machine lacks something, such as a writable directory. Events are sent without it, if possible."""


class NotDeliveredError(LeanbaseError):
    """The relay could not deliver events. Their source invokes the relay with them again."""


class DroppedError(LeanbaseError):
    """An event was dropped before it was sent.

    Attributes:
        reason: The key under which `stats()["dropped"]` counts it, for example `"overflow"`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TransportError(LeanbaseError):
    """A delivery failed and may succeed later: no connection, a timeout, a 5xx, a 429.

    Attributes:
        retry_after: Seconds that the server asked the client to wait, or `None`.
        reason: The reason in a receipt: `"unavailable"`, or `"paused"` or `"deadline"` if nothing was tried.
        mends_soon: Whether a retry within the same send can help. It cannot if a certificate is not trusted,
            or if credentials are missing.
        responded: Whether the server responded, even if it only asked the client to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        reason: str = UNAVAILABLE,
        mends_soon: bool = True,
        responded: bool = True,
    ) -> None:
        super().__init__(message)
        self.responded = responded
        self.retry_after = retry_after
        self.reason = reason
        self.mends_soon = mends_soon


class RejectedError(TransportError):
    """The server rejected a delivery permanently. Sending the same bytes again cannot help.

    Attributes:
        status: The HTTP status of the response, or `None` if there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message, reason="rejected")
        self.status = status
