"""Imports of past events, from code or with `leanbase import`. The server counts each event once.

`importer` runs an import. `files` and `formats` read rows, `rows` derives their ids, `lanes` sends their
events, and `checkpoint` stores the progress.
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
    """Import past events, and return how many rows had each outcome.

    Each row has the keys `event`, `distinct_id` and `timestamp`, and may have `properties`, `groups` and
    `uuid`. A row without a `uuid` gets one that is derived from its content. So a second run sends the same
    events again, and the server counts each event once. The events are marked as a historical import. They
    have neither the properties of this machine nor the tags of a context.

    Blocks until every row has an outcome, with several requests in flight. While the server is unavailable,
    or asks the client to wait, the import waits without a limit. Call it in a thread, not on an event loop.

    Args:
        rows: The rows, in the same order in each run. They may come from a generator: only a few hundred
            rows are in memory.
        client: The client whose settings and hooks are used. Default: the settings of the module and the
            environment. The transport may be `"http"`, `"sqs"`, or any other that does not retain events.
        checkpoint: A file that stores the progress. Another call with the same file and the same rows
            continues after the last row that was passed on.
        rejects: A file for the rows that make no event or that the server refuses, with the reason. Without
            it these rows are counted, and the first one is logged.
        personless: Whether a row without a `distinct_id` makes an event without a person. Default: the row
            is rejected.
        on_progress: Called with a `Progress`, up to five times a second.

    Returns:
        The report. It is true if every row was passed on.

    Raises:
        ConfigError: A setting is missing, or the checkpoint belongs to other rows.
        ImportStoppedError: The server refuses all events, for example because the key is wrong. The
            checkpoint holds the rows that were passed on.

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
