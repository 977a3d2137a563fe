"""Definitions from a cache provider for posthog-python: an object with four methods, plain or `async`."""

from __future__ import annotations

import inspect
import logging
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ... import event_loop
from ...interrupts import raise_interrupt
from ..definitions import KEPT, Definitions
from .base import DefinitionsSource, SourceError

if TYPE_CHECKING:
    from ...transports.deadline import Deadline

logger = logging.getLogger("leanbase")


class ProviderSource(DefinitionsSource):
    """Reads definitions from the provider, or from the server if the provider says so.

    Args:
        provider: The provider.
        api: The source that asks the server; `None` without a secret key.
    """

    def __init__(self, provider: Any, api: DefinitionsSource | None) -> None:
        self._provider = provider
        self._api = api

    def load(self, known: Definitions | None, *, deadline: Deadline) -> Definitions | None:
        if self._api is not None and self._should_fetch(deadline):
            return self._fetched(self._api, known, deadline)
        try:
            data = _result(self._provider.get_flag_definitions(), deadline)
        except Exception as error:
            raise_interrupt(error)
            if self._api is None:
                raise SourceError(f"the provider raised {type(error).__name__}") from error
            logger.warning("the provider of flag definitions raised %s", type(error).__name__)
            return self._fetched(self._api, known, deadline)
        if data:
            try:
                return Definitions.from_json(data)
            except ValueError as error:
                raise SourceError("the provider returned something other than definitions") from error
        if known is not None or self._api is None:
            return None
        return self._fetched(self._api, known, deadline)

    def _should_fetch(self, deadline: Deadline) -> bool:
        try:
            return bool(_result(self._provider.should_fetch_flag_definitions(), deadline))
        except Exception as error:
            raise_interrupt(error)
            return True

    def _fetched(
        self, api: DefinitionsSource, known: Definitions | None, deadline: Deadline
    ) -> Definitions | None:
        found = api.load(known, deadline=deadline)
        if found is not None:
            data = deepcopy({name: found.bundle(None)["definitions"].get(name) for name in KEPT})
            try:
                _result(self._provider.on_flag_definitions_received(data), deadline)
            except Exception as error:
                raise_interrupt(error)
                logger.warning("the provider of flag definitions raised %s", type(error).__name__)
        return found

    def close(self) -> None:
        if self._api is not None:
            self._api.close()

    def __repr__(self) -> str:
        return f"<{type(self._provider).__name__}>"


def _result(given: Any, deadline: Deadline) -> Any:
    """Return a result, or run the coroutine that returns it, until the deadline at the latest.

    Raises:
        RuntimeError: `given` is a coroutine, and an event loop runs in this thread.
    """
    if not inspect.iscoroutine(given):
        return given
    if event_loop.is_running():
        given.close()
        raise RuntimeError("an async provider cannot be asked on an event loop")
    import asyncio

    async def awaited() -> Any:
        return await asyncio.wait_for(given, deadline.remaining())

    return asyncio.run(awaited())
