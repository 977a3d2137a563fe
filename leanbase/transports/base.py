"""The interface of a transport, which delivers encoded events or hands them off."""

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
    """The base class of transports. Implement `send`; the other methods have defaults.

    Several threads may call a transport at the same time. A transport should not raise: it reports failures
    in the receipt. (If it raises, the caller retains the events.)

    Attributes:
        requires: The options that the transport needs. If one is not set, the client is disabled and logs
            an error.

    Examples:
        >>> class PrintTransport(BaseTransport):
        ...     def send(self, events, *, deadline):
        ...         for event in events:
        ...             print(event.decode()["event"])
        ...         return Receipt(handed_off=len(events))
    """

    requires: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_settings(cls: type[T], settings: Settings) -> T:  # noqa: ARG003 - most need no settings
        """Create a transport for a client. Override this to use the client's options.

        Args:
            settings: The settings of the client. The options that `requires` names are set.

        Returns:
            The transport.

        Raises:
            ConfigError: An option has a value that can never work.
        """
        return cls()

    @abstractmethod
    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Deliver or hand off events, in order. Blocks until the deadline at the latest.

        Args:
            events: The encoded events, at least one. Each is a JSON object of at most 900 KiB, in UTF-8.
            deadline: When this call must have returned.

        Returns:
            A receipt with one outcome for every event: delivered, handed off, spooled, retained or dropped.
            The caller keeps *retained* events and sends them again later. (A transport that stores such
            events itself must say so in its documentation.)
        """

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send the events that the transport itself stores. By default it stores none.

        Blocks until the deadline at the latest.

        Args:
            deadline: When this call must have returned.

        Returns:
            A receipt for the events that were still pending in the transport.
        """
        return Receipt()

    def close(self, *, deadline: Deadline) -> Receipt:
        """Flush, then release connections, files and threads. By default this only flushes.

        Blocks until the deadline at the latest. A transport may be closed twice. A later send may open
        connections and files again.

        Args:
            deadline: When this call must have returned.

        Returns:
            A receipt for the events that were still pending in the transport.
        """
        return self.flush(deadline=deadline)

    def warm_up(self, *, deadline: Deadline) -> None:  # noqa: B027 - optional
        """Prepare the first send: import modules, open a connection. By default this does nothing.

        It must not raise: the first send has the same failure and reports it.

        Args:
            deadline: When this call must have returned.
        """
