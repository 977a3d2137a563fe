"""The exceptions Leanbase raises or hands to `on_error`.

    LeanbaseError
    ├── ConfigError                    raised by `Leanbase(...)`: a setting that can never work
    │   ├── MissingDependencyError     ... because an optional package is not installed
    │   └── UnusableError              what the machine does not give; it is logged, and events go without it
    ├── InvalidEventError              arguments that do not make an event
    ├── EventTooLargeError             an event above the limit of 900 KiB
    ├── DroppedError                   an event that was given up before it was sent, and why
    ├── ClosedError                    an event for a client that was shut down
    ├── NotDeliveredError              raised by the relay, so that Lambda invokes it again
    └── TransportError                 a delivery that failed; it may work later
        └── RejectedError              ... that the server refused for good

Only `ConfigError` and its children ever reach application code as exceptions. `DroppedError`,
`TransportError` and `RejectedError` are what `on_error` receives and what a `Receipt` carries. The client
turns `InvalidEventError`, `EventTooLargeError` and `ClosedError` into a log record and the result `None`.
"""

from __future__ import annotations

UNAVAILABLE = "unavailable"


class LeanbaseError(Exception):
    """The base of everything below."""


class ConfigError(LeanbaseError):
    """A setting that can never work, found when the client is created."""


class MissingDependencyError(ConfigError):
    """An option needs a package that is not installed.

    Args:
        wanted: What needs it, for example `"transport='sqs'"`.
        package: The import name of the package.
        extra: The extra of this distribution that installs it.
    """

    def __init__(self, wanted: str, *, package: str, extra: str) -> None:
        super().__init__(f"{wanted} needs {package}: install that, or this package with the extra {extra!r}")
        self.package = package
        self.extra = extra


class InvalidEventError(LeanbaseError):
    """The arguments do not make an event; the text says what was given and what was expected."""


class EventTooLargeError(LeanbaseError):
    """A value does not fit into one event.

    Attributes:
        size: Its size in bytes where it was measured, else the limit that it is above.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes or more are above the limit of {limit} for one event")
        self.size = size


class ClosedError(LeanbaseError):
    """The client was shut down, so it admits no events.

    Attributes:
        event: The event that came too late, encoded.
    """

    def __init__(self, event: object) -> None:
        super().__init__("the client was shut down")
        self.event = event


class UnusableError(ConfigError):
    """Something that the machine does not give, such as a directory; events go without it."""


class NotDeliveredError(LeanbaseError):
    """The relay could not deliver events; their source matches them again."""


class DroppedError(LeanbaseError):
    """An event that was given up without being sent.

    Attributes:
        reason: The key under which `stats()["dropped"]` counts it, for example `"overflow"`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TransportError(LeanbaseError):
    """A delivery that failed and may succeed later: no connection, a timeout, a 5xx, a 429.

    Attributes:
        retry_after: Seconds the server asked us to wait, or `None`.
        reason: What a receipt calls it: `"unavailable"`; when nothing was tried, `"paused"` or `"deadline"`.
        mends_soon: Whether it makes sense to try again within the same send. An untrusted certificate or
            missing credentials do not mend by themselves in seconds.
        answered: Whether somebody answered, if only to put us off.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        reason: str = UNAVAILABLE,
        mends_soon: bool = True,
        answered: bool = True,
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.retry_after = retry_after
        self.reason = reason
        self.mends_soon = mends_soon


class RejectedError(TransportError):
    """A delivery that the server refused for good; sending the same bytes again cannot help.

    Attributes:
        status: The HTTP status of the refusal, or `None` when there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message, reason="rejected")
        self.status = status
