"""Imports of the past: years of events, each counted once, from code or with `leanbase import`.

`importer` shows the way of a row. `rows` makes its ids, `files` and `formats` read it, `lanes` sends it, and
`checkpoint` remembers it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import Settings, as_hooks
from .importer import Importer, ImportReport, ImportStoppedError, Progress, Source
from .rows import CodeRows, event_of

if TYPE_CHECKING:
    from ..client import Leanbase

__all__ = ["ImportReport", "ImportStoppedError", "Progress", "import_events"]


def import_events(
    rows: Iterable[Mapping[str, Any]],
    *,
    client: Leanbase | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    rejects: str | os.PathLike[str] | None = None,
    personless: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
) -> ImportReport:
    """Import events of the past, and return what became of each row.

    Each row has the keys `event`, `distinct_id` and `timestamp`, and may have `properties`, `groups` and
    `uuid`. A row without a `uuid` gets one that is derived from its content, so that a second run sends the
    same events, which the server counts once. The events are marked as an import of the past. They have no
    properties of this machine, and those of no context.

    Blocks until every row has an outcome. While the server is away, or asks to wait, the import waits,
    without a limit. Several requests are in flight. Call it in a thread, not on an event loop.

    Args:
        rows: The rows, in an order that is the same in each run. They may come from a generator: only a few
            hundred are in memory.
        client: The client whose settings and hooks are used. Default: the settings of the module and the
            environment. Its transport may be `"http"` or `"sqs"`, or any other that does not retain events.
        checkpoint: A file that remembers how far the import is. With it, another call continues after the
            last row that was passed on, and does not send earlier rows again. It belongs to these rows.
        rejects: A file to which rows are written that make no event, or that the server refuses, with the
            reason. Without it they are counted, and the first is logged.
        personless: Whether a row without a `distinct_id` makes an event without a person. Default: it is
            rejected.
        on_progress: Called with a `Progress`, several times a second.

    Returns:
        The report. It is true if every row was passed on.

    Raises:
        ConfigError: A setting is missing, or the checkpoint belongs to other rows.
        ImportStoppedError: The server refuses all events, for example because the key is wrong. What was
            passed on is in the checkpoint.

    Examples:
        >>> from leanbase import Leanbase
        >>> from leanbase.transports import MemoryTransport
        >>> rows = [{"event": "signed up", "distinct_id": "user_1", "timestamp": "2024-02-29T12:00:00Z"}]
        >>> import_events(rows, client=Leanbase(transport=MemoryTransport())).delivered
        1
    """
    if client is None:
        settings = Settings.resolve({})
        hooks = as_hooks(settings.before_send)
    else:
        pipeline = client._current()
        settings, hooks = pipeline.settings, pipeline.hooks
    return Importer(
        settings,
        hooks,
        [Source(lambda: CodeRows(rows), event_of)],
        checkpoint=None if checkpoint is None else Path(checkpoint),
        rejects=None if rejects is None else Path(rejects),
        personless=personless,
        on_progress=on_progress,
    ).run()
