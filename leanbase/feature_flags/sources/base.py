"""The base class of all sources of definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import LeanbaseError

if TYPE_CHECKING:
    from ...settings import Settings
    from ...transports.deadline import Deadline
    from ..definitions import Definitions


class SourceError(LeanbaseError):
    """A source could not load definitions.

    Attributes:
        is_final: Whether definitions that are already loaded must be discarded: the server forbids their use.
        is_timeout: Whether the source did not respond in time.
    """

    def __init__(self, message: str, *, is_final: bool = False, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.is_timeout = is_timeout


class DefinitionsSource:
    """A source of definitions. Subclasses override `load`.

    Attributes:
        is_local: Whether `load` only reads a local file, and so is fast.
        is_dated: Whether `load` may return definitions older than the call. Their age is then that of
            `fetched_at`.

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
        """Create the source for `module:Class`. By default, it calls the class without arguments."""
        return cls()

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        """Return the definitions, or `None` if `known` is still current. Blocks until the deadline at most.

        Args:
            known: The definitions that were loaded last, by this source or another; `None` at first.
            deadline: The time by which `load` returns.

        Raises:
            SourceError: There are no definitions, or they cannot be read. Any other exception counts as this.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close idle connections. The next load opens them again. Default: does nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
