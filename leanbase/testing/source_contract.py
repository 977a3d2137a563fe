"""Tests for authors of sources of flag definitions. Every source must pass them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..feature_flags import Definitions, DefinitionsSource
from ..transports.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable


class SourceContract:
    """Tests for a `DefinitionsSource`. A subclass overrides `make_source`, and pytest runs the tests.

    Examples:
        ```python
        class TestMySource(SourceContract):
            def make_source(self):
                return MySource("flags.json")
        ```
    """

    seconds = 5.0
    """The deadline of one load, in seconds."""

    def make_source(self) -> DefinitionsSource:
        """Return a new source that has definitions."""
        raise NotImplementedError

    def test_the_first_load_has_definitions(self) -> None:
        found = self._load(self.make_source(), None)
        assert isinstance(found, Definitions), "load(None) must return Definitions or raise SourceError"

    def test_a_load_says_when_nothing_has_changed(self) -> None:
        source = self.make_source()
        found = self._load(source, None)
        again = self._load(source, found)
        assert again is None or list(again) == list(found or ()), "load(known) must return None or the same"

    def test_two_sources_know_nothing_of_one_another(self) -> None:
        make: Callable[[], DefinitionsSource] = self.make_source
        assert self._load(make(), None) is not None
        assert self._load(make(), None) is not None

    def _load(self, source: DefinitionsSource, known: Definitions | None) -> Definitions | None:
        try:
            return source.load(known, deadline=Deadline.after(self.seconds))
        finally:
            source.close()
