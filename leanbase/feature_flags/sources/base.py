"""What a source of definitions is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import LeanbaseError

if TYPE_CHECKING:
    from ...settings import Settings
    from ...transports.deadline import Deadline
    from ..definitions import Definitions


class SourceError(LeanbaseError):
    """A source has no definitions now.

    Attributes:
        is_final: Whether what was loaded before must be forgotten, because the server does not allow its use.
        is_timeout: Whether the source took all the time that it had.
    """

    def __init__(self, message: str, *, is_final: bool = False, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.is_timeout = is_timeout


class DefinitionsSource:
    """Where definitions come from. Override `load`.

    Attributes:
        is_local: Whether `load` reads a file of this machine, so that it is fast.
        is_dated: Whether what `load` says may be older than the call; `fetched_at` then tells its age.

    Examples:
        >>> from leanbase.feature_flags import Definitions, DefinitionsSource
        >>> class Constant(DefinitionsSource):
        ...     def load(self, known, *, deadline):
        ...         return known and None or Definitions.from_json({"flags": []})
    """

    is_local = False
    is_dated = False

    @classmethod
    def from_settings(cls, settings: Settings) -> DefinitionsSource:  # noqa: ARG003 - for subclasses
        """Create the source for `module:Class`. Default: without arguments."""
        return cls()

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        """Return the definitions, or `None` when `known` is still right. Blocks until the deadline at most.

        Args:
            known: What was loaded last, by this source or by another.
            deadline: By when to return.

        Raises:
            SourceError: There are none, or they cannot be read. Every other exception counts as the same.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close idle connections. The next load opens them again. By default there are none."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
