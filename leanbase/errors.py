"""The exceptions Leanbase raises or hands to `on_error`.

    LeanbaseError
    ├── ConfigError                    raised by `Leanbase(...)`: a setting that can never work
    │   └── MissingDependencyError     ... because an optional package is not installed
    ├── DroppedError                   an event that was given up before it was sent, and why
    └── TransportError                 a delivery that failed; it may work later
        └── RejectedError              ... that the server refused for good

Only `ConfigError` and its child ever reach application code as exceptions. The others are what
`on_error` receives and what a `Receipt` carries; nothing that captures an event raises them.
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
        super().__init__(f"{wanted} needs {package}: run  pip install 'leanbase[{extra}]'")
        self.package = package
        self.extra = extra


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
    """

    def __init__(self, message: str, *, retry_after: float | None = None, reason: str = UNAVAILABLE) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class RejectedError(TransportError):
    """A delivery that the server refused for good; sending the same bytes again cannot help.

    Attributes:
        status: The HTTP status of the refusal, or `None` when there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message, reason="rejected")
        self.status = status
