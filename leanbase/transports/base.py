"""The interface of a transport: where encoded events go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..events.encoding import EncodedEvent
from .deadline import Deadline
from .receipt import Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, TypeVar

    from ..settings import Settings

    T = TypeVar("T", bound="BaseTransport")


class BaseTransport(ABC):
    """Where events go. Implement `send`; the other methods have defaults.

    A transport is called from any thread, several at a time. It should not raise: what goes wrong
    belongs into the receipt. (If it does raise, its caller keeps the events.)

    Attributes:
        requires: The options without which it cannot deliver. A client that lacks one of them is
            disabled and says so.

    Example:
        >>> class PrintTransport(BaseTransport):
        ...     def send(self, events, *, deadline):
        ...         for event in events:
        ...             print(event.decode()["event"])
        ...         return Receipt(handed_off=len(events))
    """

    requires: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_settings(cls: type[T], settings: Settings) -> T:  # noqa: ARG003 - most need none of them
        """Make one for a client that names it. Override it to use the client's options.

        Args:
            settings: The client's, with all that `requires` names.

        Raises:
            ConfigError: An option can never work.
        """
        return cls()

    @abstractmethod
    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Deliver or hand off these events, in order, before the deadline.

        Args:
            events: One JSON object of UTF-8 bytes each, at most 900 KiB; never empty.
            deadline: When the caller must have its thread back.

        Returns:
            One outcome for every event: delivered, handed off, spooled, retained or dropped (why).
            *Retained* means "not this time": unless the transport says in its own documentation
            that it keeps them, the events are still the caller's.
        """

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send what the transport itself keeps; by default it keeps nothing.

        Args:
            deadline: When the caller must have its thread back.

        Returns:
            The outcome of every event that was still waiting.
        """
        return Receipt()

    def close(self, *, deadline: Deadline) -> Receipt:
        """Flush, then release connections, files and threads. By default it only flushes.

        A transport can be closed twice. A send after it may open again what was released.
        """
        return self.flush(deadline=deadline)

    def warm_up(self, *, deadline: Deadline) -> None:  # noqa: B027 - optional
        """Do ahead of the first send what can be done: imports, a connection. By default nothing.

        Failures stay inside; the first send meets them again.
        """
