"""Reads, maps and encodes rows, sends them in batches, and commits the batches to the checkpoint in order."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import Context
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..delivery import factory
from ..errors import ConfigError, EventTooLargeError, InvalidEventError, LeanbaseError
from ..events.encoding import EncodedEvent
from ..events.event import Draft
from ..pipeline import Pipeline
from ..settings import BeforeSend, Settings
from ..transports.memory import MemoryTransport
from ..transports.receipt import Receipt
from ..transports.spool import project_of
from .checkpoint import Checkpoint
from .lanes import LANES, Lanes, StoppedError
from .rows import (
    HistoricalEvent,
    Rows,
    UnusableRowError,
    content_of,
    decode_json,
    derived_uuid,
    digest_of,
    own_uuid,
    uuid_of,
)

logger = logging.getLogger("leanbase")

MAX_BATCH_ROWS = 1000
MOST_EXAMPLES = 3
MAX_BATCH_BYTES = 1024 * 1024
PROGRESS_SECONDS = 0.2
REJECTS_BYTES = "rejects_bytes"
COUNTED = ("read", "delivered", "handed_off", "refused", "rejected")

Format = Callable[[Mapping[str, Any]], HistoricalEvent]


@dataclass(frozen=True)
class ImportReport:
    """The number of rows of an import, by outcome. It is true if every row was passed on.

    Attributes:
        read: Rows read, including earlier runs with the same checkpoint. It is the sum of the next four.
        delivered: Rows whose events the server accepted.
        handed_off: Rows whose events a queue accepted.
        refused: Rows whose events the server refused permanently.
        rejected: Rows that make no event.
        files: The paths of the files that the import wrote: `"checkpoint"` and `"rejects"`.
    """

    read: int = 0
    delivered: int = 0
    handed_off: int = 0
    refused: int = 0
    rejected: int = 0
    files: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not (self.refused or self.rejected)


@dataclass(frozen=True)
class Progress:
    """The progress of an import.

    Attributes:
        report: The outcomes of the rows so far.
        skipped: The number of rows that an earlier run had passed on.
        fraction: The share of the files that was read, from 0 to 1; `None` if their size is unknown.
        waiting_for: A description of what the import waits for; `None` if it does not wait.
    """

    report: ImportReport
    skipped: int
    fraction: float | None
    waiting_for: str | None


class ImportStoppedError(LeanbaseError):
    """An import ended early. Another run with the same checkpoint continues it.

    Attributes:
        report: The outcomes of the rows so far.
    """

    def __init__(self, reason: str, report: ImportReport) -> None:
        super().__init__(reason)
        self.report = report


class Source:
    """Rows and their format. `name` is `""` for rows from code. `size` is in bytes, or 0 if unknown."""

    def __init__(self, open: Callable[[], Rows], format: Format, name: str = "", size: int = 0) -> None:
        self.open = open
        self.format = format
        self.name = name
        self.size = size


class _Batch:
    """Rows that are sent and committed together.

    Attributes:
        owners: For each event, the index of its row in `lines`.
        lines: The number, the source and the content of each row.
        problems: Why rows make no event, by their index in `lines`.
        keys: The keys that the checkpoint counts for these rows.
        place: The file's number and name, its rows up to the end of this batch, and their digest.
        future: The future receipt. `None` if nothing is sent.
    """

    __slots__ = ("bytes", "events", "future", "keys", "lines", "owners", "place", "problems")

    def __init__(self) -> None:
        self.events: list[EncodedEvent] = []
        self.owners: list[int] = []
        self.lines: list[tuple[int, Rows, bytes]] = []
        self.problems: dict[int, str] = {}
        self.keys: list[int] = []
        self.place: tuple[int, str, int, bytes] = (0, "", 0, b"")
        self.bytes = 0
        self.future: Future[Receipt] | None = None

    def is_full(self, most: int) -> bool:
        return len(self.events) >= most or len(self.lines) >= MAX_BATCH_ROWS or self.bytes >= MAX_BATCH_BYTES


class Importer:
    """One import, from its sources to its report.

    Args:
        settings: The settings of the client. The import ignores `fallback` and `max_retries`.
        options: Other options on which the events depend, such as the columns. A checkpoint is valid for one
            set of options.
        dry_run: Whether to only read and map the rows: nothing is sent or written.

    For the other arguments see `import_events`.

    Attributes:
        reasons: Counts the reasons why rows of this run were rejected or refused.
        examples: For each reason, the number and the source's name of the first rows.
        skipped: The number of rows that an earlier run had passed on.

    Raises:
        ConfigError: A setting is missing, or the checkpoint cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        hooks: Sequence[BeforeSend],
        sources: Sequence[Source],
        *,
        options: Mapping[str, Any] | None = None,
        checkpoint: Path | None = None,
        rejects: Path | None = None,
        personless: bool = False,
        dry_run: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        if settings.disabled or settings.opted_out or not settings.send:
            raise ConfigError("the client is disabled, opted out, or has send=False: nothing can be imported")
        self._sources = sources
        self._personless = personless
        self._on_progress = on_progress
        self._last_progress = 0.0
        self._transport = (
            MemoryTransport()
            if dry_run
            else factory.create_bare(
                # The lanes retry, so one send is one attempt.
                replace(settings, historical_migration=True, max_retries=0)
            )
        )
        self._most_events = settings.flush_at
        # This pipeline only builds and encodes events. Its transport never receives one.
        self._pipeline = Pipeline(
            replace(
                settings,
                transport=MemoryTransport(),
                fallback=None,
                historical_migration=True,
                is_server=False,
                before_send=list(hooks) or None,
            )
        )
        self._checkpoint = Checkpoint(
            None if dry_run else checkpoint,
            _fingerprint(settings, {"personless": personless, **(options or {})}),
        )
        self._done = self._checkpoint.files()
        self._lanes = Lanes(
            self._transport,
            settings.send_deadline,
            has_passed_on=bool(self._checkpoint.totals().get("delivered")),
        )
        self._before = dict.fromkeys(COUNTED, 0) | self._checkpoint.totals()
        self.skipped = 0
        try:
            self._rejects = _Rejects(None if dry_run else rejects, is_new=self._checkpoint.is_new)
        except ConfigError:
            self._checkpoint.close()
            raise
        self._is_dry_run = dry_run
        self._in_flight: deque[_Batch] = deque()
        self.reasons: Counter[str] = Counter()
        self.examples: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._finished_bytes = 0
        self._reading: Rows | None = None

    @property
    def report(self) -> ImportReport:
        """The outcomes of the rows so far, including earlier runs with the same checkpoint."""
        totals = self._totals()
        rejects = self._rejects.path if totals.get(REJECTS_BYTES) else None
        files = {"checkpoint": self._checkpoint.path, "rejects": rejects}
        return ImportReport(
            **{name: totals[name] for name in COUNTED},
            files={name: str(path) for name, path in files.items() if path is not None},
        )

    def _totals(self) -> dict[str, int]:
        latest = self._checkpoint.latest
        return dict(self._before if latest is None else latest.totals)

    def run(self) -> ImportReport:
        """Import everything. Blocks until each row has an outcome.

        Raises:
            ConfigError: A file cannot be imported, or the checkpoint belongs to another file.
            ImportStoppedError: The server refuses every event, or a file cannot be read to its end.
        """
        try:
            # A separate context: past events must not get the caller's tags, session and distinct id.
            return Context().run(self._run)
        finally:
            self._lanes.close()
            self._rejects.close()
            self._checkpoint.close()

    def _run(self) -> ImportReport:
        try:
            for batch in self._batches():
                if batch.events and not self._is_dry_run:
                    batch.future = self._lanes.send(batch.events)
                self._in_flight.append(batch)
                self._wait_and_commit(leave=LANES)
            self._wait_and_commit(leave=0)
        except KeyboardInterrupt:
            self._lanes.stop()
            self._report_progress(
                at_once=True, waiting_for="the requests in flight; interrupt again to end now"
            )
            self._settle_finished()
            raise
        except StoppedError as error:
            with contextlib.suppress(StoppedError):
                self._settle_finished()
            raise ImportStoppedError(str(error), self.report) from None
        except Exception:
            with contextlib.suppress(StoppedError):
                self._settle_finished()
            raise
        self._report_progress(at_once=True)
        return self.report

    # --- reading ------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[_Batch]:
        for number, source in enumerate(self._sources):
            rows: Rows | None = None
            try:
                rows = self._reading = source.open()
                yield from self._batches_of(number, source, rows)
            except ConfigError as error:
                if number == 0:
                    raise
                raise StoppedError(str(error)) from error  # keeps the results of the files before it
            except StoppedError:
                raise
            except Exception as error:
                if not source.name:  # the caller's own iterator raised, so the caller gets the exception
                    raise
                what = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise StoppedError(f"{source.name} cannot be read to its end: {what}") from error
            finally:
                getattr(rows, "close", lambda: None)()
            self._finished_bytes += source.size
        if len(self._done) > len(self._sources):
            raise ConfigError("the checkpoint covers more files than were given")

    def _batches_of(self, number: int, source: Source, rows: Rows) -> Iterator[_Batch]:
        iterator, namespace = iter(rows), rows.namespace
        running, count = self._skip(number, rows, iterator)
        batch = _Batch()
        contents: list[tuple[Any, bytes, bytes]] = []
        for row in iterator:
            content = rows.content(row)
            digest = digest_of(namespace + content)
            running.update(digest)
            contents.append((row, content, digest))
            count += 1
            batch.bytes += len(content)
            if len(contents) + len(batch.lines) >= self._most_events or batch.bytes >= MAX_BATCH_BYTES:
                self._fill(batch, number, count, source, rows, contents)
                contents = []
                if batch.is_full(self._most_events):
                    batch.place = number, rows.name, count, running.digest()
                    yield batch
                    batch = _Batch()
        self._fill(batch, number, count, source, rows, contents)
        batch.place = number, rows.name, count, running.digest()
        yield batch

    def _skip(self, number: int, rows: Rows, iterator: Iterator[Any]) -> tuple[Any, int]:
        """Skip the rows that an earlier run has passed on, after a check that they are the same."""
        done, expected = self._done[number] if number < len(self._done) else (0, b"")
        running = sha256()
        for count in range(done):
            row = next(iterator, None)
            if row is None:
                raise ConfigError(self._other_file(rows, f"it has {count} rows, and {done} were passed on"))
            running.update(digest_of(rows.namespace + rows.content(row)))
            self.skipped += 1
            if not count % MAX_BATCH_ROWS:
                self._report_progress()
        if done and running.digest() != expected:
            raise ConfigError(
                self._other_file(rows, f"its first {done} rows are not those that were passed on")
            )
        return running, done

    def _other_file(self, rows: Rows, why: str) -> str:
        return (
            f"the checkpoint {self._checkpoint.path} does not fit {rows.name}: {why}; to start over with the "
            "same ids, delete the checkpoint and the file of rejects"
        )

    def _fill(
        self,
        batch: _Batch,
        number: int,
        count: int,
        source: Source,
        rows: Rows,
        contents: Sequence[tuple[Any, bytes, bytes]],
    ) -> None:
        keys = [_key(number, digest) for _, _, digest in contents]
        times = self._checkpoint.occurrences(keys)
        batch.keys += keys
        first = count - len(contents) + 1
        for position, ((row, content, digest), before) in enumerate(zip(contents, times, strict=True)):
            index = len(batch.lines)
            batch.lines.append((first + position, rows, content))
            try:
                for event in self._events(source.format(rows.fields(row)), digest, before, batch):
                    batch.events.append(event)
                    batch.owners.append(index)
            except (UnusableRowError, InvalidEventError) as error:
                batch.problems[index] = str(error)
            except EventTooLargeError as error:
                batch.problems[index] = f"the event is too large: {error}"
            except Exception as error:  # nobody has checked the types in a row
                batch.problems[index] = f"the row has an unexpected form ({type(error).__name__})"

    def _events(
        self, event: HistoricalEvent, digest: bytes, before: int, batch: _Batch
    ) -> list[EncodedEvent]:
        event.check(personless=self._personless)
        uuid = own_uuid(event) or uuid_of(digest_of(digest + b"%d" % before) if before else digest)
        if event.distinct_id is None:
            event.distinct_id = derived_uuid("personless", uuid)
            event.properties["$process_person_profile"] = False
        draft = _draft(event.name, event.distinct_id, event.timestamp, event.properties, uuid)
        encoded = self._pipeline.encoded(draft)
        if encoded is None:
            raise UnusableRowError("the client dropped the event: it is too large, or before_send dropped it")
        made = [encoded]
        previous = event.previous_id
        if previous is not None and previous != "" and previous != event.distinct_id:
            made[:0] = self._link(str(event.distinct_id), str(previous), event.timestamp, batch)
        return made

    def _link(self, distinct_id: str, previous: str, timestamp: object, batch: _Batch) -> list[EncodedEvent]:
        """Return the event that links two ids of one person, or `[]` if the import has linked them before."""
        content = content_of(["link", distinct_id, previous])
        key = _key(-1, digest_of(content))
        (before,) = self._checkpoint.occurrences([key])
        batch.keys.append(key)
        if before:
            return []
        properties = {"$anon_distinct_id": previous}
        uuid = uuid_of(digest_of(content))
        event = self._pipeline.encoded(_draft("$identify", distinct_id, timestamp, properties, uuid))
        return [event] if event is not None else []  # a hook may drop it

    # --- outcomes -----------------------------------------------------------------------------------

    def _wait_and_commit(self, leave: int) -> None:
        """Wait for the oldest batches and commit them, until `leave` batches are left."""
        while len(self._in_flight) > leave:
            future = self._in_flight[0].future
            while future is not None and not future.done():
                self._report_progress()
                try:
                    future.result(timeout=PROGRESS_SECONDS)
                except FutureTimeoutError:
                    continue
            self._note(self._in_flight[0])
            self._in_flight.popleft()
            self._report_progress()

    def _settle_finished(self) -> None:
        """Commit the batches that were passed on, up to the first that was not."""
        self._lanes.close()
        latest = self._checkpoint.latest
        for batch in self._in_flight:
            future = batch.future
            if future is not None and (future.cancelled() or future.exception() is not None):
                return
            if latest is None or batch.place != latest.file:  # else it was committed before the interrupt
                self._note(batch)

    def _note(self, batch: _Batch) -> None:
        receipt = batch.future.result() if batch.future is not None else Receipt()
        owners = {id(event): owner for event, owner in zip(batch.events, batch.owners, strict=True)}
        refused = {
            owners[id(event)]: str(group.error)
            for group in receipt.groups
            if group.outcome == "dropped"
            for event in group.events
        }
        passed_on = len(batch.lines) - len(batch.problems) - len(refused)
        problems = sorted({**batch.problems, **refused}.items())
        for index, reason in problems:
            self.reasons[reason] += 1
            if len(self.examples[reason]) < MOST_EXAMPLES:
                number, rows, _ = batch.lines[index]
                self.examples[reason].append((number, rows.name))
        totals = self._totals()
        totals["read"] += len(batch.lines)
        totals["handed_off" if receipt.handed_off or receipt.spooled else "delivered"] += passed_on
        totals["refused"] += len(refused)
        totals["rejected"] += len(batch.problems)
        rejects = [(*batch.lines[index], reason) for index, reason in problems]
        totals[REJECTS_BYTES] = self._rejects.write(totals.get(REJECTS_BYTES, 0), rejects)
        self._checkpoint.commit(batch.keys, batch.place, totals)

    def _report_progress(self, *, at_once: bool = False, waiting_for: str | None = None) -> None:
        now = time.monotonic()
        if self._on_progress is None or (not at_once and now - self._last_progress < PROGRESS_SECONDS):
            return
        self._last_progress = now
        size = sum(source.size for source in self._sources)
        position = self._reading.position() if self._reading is not None else 0
        fraction = min(1.0, (self._finished_bytes + position) / size) if size else None
        try:
            self._on_progress(
                Progress(self.report, self.skipped, fraction, waiting_for or self._lanes.waiting_for)
            )
        except Exception as error:
            logger.warning("on_progress raised %s; the import continues", type(error).__name__)


class _Rejects:
    """The file of the rows that were not passed on, each with its number and the reason.

    Only this user can read it. The checkpoint stores where the file ends, and new rows are written there. So
    a row that is processed again after an interrupt or a kill is in the file once.
    """

    def __init__(self, path: Path | None, *, is_new: bool) -> None:
        if path is not None and is_new and path.is_file() and path.stat().st_size:
            raise ConfigError(f"{path} exists: move it away, or name another file for the rejects")
        self.path = path
        self._descriptor: int | None = None
        self._end = 0
        self._has_said = False

    def write(self, end: int, rows: Sequence[tuple[int, Rows, bytes, str]]) -> int:
        """Write rows (number, source, content, reason) at the offset `end`, and return the new end.

        Raises:
            StoppedError: The file cannot be written.
        """
        if not rows:
            return end
        if self.path is None:
            if not self._has_said:
                self._has_said = True
                number, source, _, reason = rows[0]
                text = "row %d of %s is not imported: %s; others are only counted"
                logger.warning(text, number, source.name, reason)
            return end
        data = b"".join(_reject(*row) for row in rows)
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
                if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                    self.path.chmod(0o600)  # an empty file may have existed
                end = min(end, os.fstat(self._descriptor).st_size)  # the file may have been removed
            os.lseek(self._descriptor, end, os.SEEK_SET)
            rest = data
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._end = end + len(data)
        except OSError as error:
            raise StoppedError(f"{self.path} cannot be written: {error.strerror}") from error
        return self._end

    def close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the file may be a pipe
                os.ftruncate(self._descriptor, self._end)
            os.close(self._descriptor)
            self._descriptor = None


def _reject(number: int, source: Rows, content: bytes, reason: str) -> bytes:
    text = content.decode("utf-8", "backslashreplace")
    try:
        row: Any = decode_json(text)
    except (ValueError, RecursionError):
        row = text
    names = source.names
    if names and isinstance(row, list) and len(row) == len(names):
        row = dict(zip(names, row, strict=True))
    return json.dumps({"row": number, "file": source.name, "reason": reason, "content": row}).encode() + b"\n"


def _draft(
    name: object, distinct_id: object, timestamp: object, properties: dict[str, Any], uuid: str
) -> Draft:
    return Draft(str(name), properties, str(distinct_id), timestamp, uuid, None, with_tags=False)


def _key(number: int, digest: bytes) -> int:
    """Return the checkpoint's key of a row. `number` is the file's number, or -1 for a link of ids."""
    return int.from_bytes(digest[:8], "big", signed=True) ^ number


def _fingerprint(settings: Settings, options: Mapping[str, Any]) -> str:
    project = project_of(settings.api_key, settings.host)
    return sha256(json.dumps([project, options], sort_keys=True).encode()).hexdigest()
