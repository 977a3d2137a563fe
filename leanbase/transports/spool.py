"""Stores events in a directory, from which the next send of any process delivers them.

A send first delivers the stored events: first the files that no process has locked, oldest first, then the
process's own file. `_spool_file.py` reads and writes the files.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigError, TransportError, UnusableError
from ..events.encoding import EncodedEvent
from ..forking import reset_in_child
from ..interrupts import acquired, raise_interrupt
from ._retaining import must_not_retain
from ._spool_file import HAS_LOCKS, SUFFIX, AbandonedFile, OwnFile, SpoolFile, project_in
from .base import BaseTransport
from .deadline import Deadline
from .fallback import with_reserve
from .receipt import Receipt

if TYPE_CHECKING:
    from ..settings import Settings

logger = logging.getLogger("leanbase")

KEY_CHARACTERS = 12
"""The number of characters of a project that identify the API key. The rest identifies the host."""

MAX_BYTES = 64 * 1024 * 1024


class _Written(NamedTuple):
    """The file and the position at which events were written."""

    file: OwnFile
    position: int


class SpoolTransport(BaseTransport):
    """Stores events in a directory until another transport has delivered them.

    With `write_first`, each event is on disk before it is sent. If the process is killed, no event is lost,
    and at most the batch in flight is sent again, with the same uuids. With `write_first=False`, only events
    that could not be delivered are written. In either case stored events are sent first: the events of ended
    processes, oldest first, then the events of this process.

    Without an inner transport, events are only stored, and another process must send them.

    Args:
        directory: The directory to store events in. It is created with mode 0700 if it is missing.
        inner: The transport that delivers the events.
        project: The project of the events, a short string of letters and digits, or `""` for none. Only
            files of this project, of its API key without a host, and of no project are sent. `None`, the
            default, writes files of no project and sends all files.
        write_first: Whether to write events before they are sent.
        fsync: Whether to wait until the disk has stored the events, so that they survive a power failure.
        max_bytes: The maximum size of all files in the directory, in bytes. Events above it are not stored;
            if they cannot be delivered, the caller retains them.

    Raises:
        ConfigError: The directory cannot be used or belongs to another user, or `inner` is a
            `BufferedTransport`, which cannot be inside another transport.

    Examples:
        >>> from leanbase.transports import HttpTransport
        >>> inner = HttpTransport("phc_key", "https://leanbase.example.com")
        >>> transport = SpoolTransport("/tmp/leanbase-doctest", inner)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        inner: BaseTransport | None = None,
        *,
        project: str | None = None,
        write_first: bool = True,
        fsync: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if inner is not None:
            must_not_retain(inner)
        self._directory = os.fspath(directory)
        self._inner = inner
        self._project = project
        self._write_first = write_first or inner is None
        self._fsync = fsync
        self._max_bytes = max_bytes
        make_private(self._directory)
        self._file: OwnFile | None = None
        self._retired: list[OwnFile] = []
        self._reset_after_fork()
        reset_in_child(self)

    def _reset_after_fork(self) -> None:
        # The files belong to the parent. Their locks end when the last process closes them.
        for file in (self._file, *self._retired):
            if file is not None:
                file.forget()
        self._file, self._retired = None, []
        self._unusable: set[str] = set()
        self._file_lock = threading.RLock()
        self._sending = threading.RLock()
        self._is_sending = False

    def __repr__(self) -> str:
        return f"SpoolTransport({self._directory!r}, {self._inner!r})"

    @classmethod
    def from_settings(cls, settings: Settings) -> SpoolTransport:
        """Create a transport that delivers over HTTP, or only writes if `host` or `api_key` is not set."""
        from .http import HttpTransport

        reachable = settings.host is not None and settings.api_key is not None
        if not reachable:
            logger.warning(
                "the spool only stores events: host or api_key is not set; "
                "a process that has both must send them"
            )
        return cls._made(settings, HttpTransport.from_settings(settings) if reachable else None, True)

    @classmethod
    def around(cls, first: BaseTransport, settings: Settings) -> SpoolTransport:
        """Create the fallback of another transport: it stores the events that `first` could not deliver."""
        return cls._made(settings, first, False)

    @classmethod
    def _made(cls, settings: Settings, inner: BaseTransport | None, write_first: bool) -> SpoolTransport:
        return cls(
            settings.spool_directory or default_directory(),
            inner,
            project=project_of(settings.api_key, settings.host),
            write_first=write_first,
            fsync=settings.spool_fsync,
            max_bytes=settings.spool_max_bytes,
        )

    def send(self, events: Sequence[EncodedEvent], *, deadline: Deadline) -> Receipt:
        """Send the stored events and then `events`. Store `events` if that fails.

        Blocks until the deadline at the latest. Writes to the disk have no time limit.
        """
        written = self._appended(events) if self._write_first else None
        deadline = deadline if self._write_first else with_reserve(deadline)
        if self._inner is not None:
            with self._turn(deadline) as has_turn:
                if has_turn and not self._replay(self._inner, deadline, written).has_retained:
                    return self._deliver(self._inner, events, written, deadline)
        return self._spool(events, written)

    def _deliver(
        self,
        inner: BaseTransport,
        events: Sequence[EncodedEvent],
        written: _Written | None,
        deadline: Deadline,
    ) -> Receipt:
        gone, positions = 0, []
        if written is not None:
            positions = [
                *itertools.accumulate((len(event) + 1 for event in events), initial=written.position)
            ]
            # Another thread may already have sent some of these events from the file.
            gone = sum(position < written.file.done_with for position in positions[:-1])
            events, positions = events[gone:], positions[gone:]
            if not events:
                return Receipt(spooled=gone)
        receipt = self._send_inner(inner, events, deadline)
        retained = receipt.retained_events()
        if written is not None:
            self._done(written.file, events, positions, retained)
            receipt += Receipt(spooled=gone)
        return receipt.without(retained) + self._spool(retained, written) if retained else receipt

    def flush(self, *, deadline: Deadline) -> Receipt:
        """Send stored events, including the events of ended processes.

        Blocks until the deadline at the latest.
        """
        if self._inner is None:
            return Receipt()
        with self._turn(deadline) as has_turn:
            if has_turn:
                self._replay(self._inner, deadline, None)
        return self._inner.flush(deadline=deadline)

    def replay(self, *, deadline: Deadline) -> Receipt:
        """Send stored events, and return their outcomes. Skips the files of other running processes.

        Blocks until the deadline at the latest. Events that were already counted as spooled count here as
        delivered, dropped or, if they are still stored, retained.
        """
        if self._inner is None:
            return Receipt()
        with self._turn(deadline) as has_turn:
            return self._replay(self._inner, deadline, None) if has_turn else Receipt()

    def close(self, *, deadline: Deadline) -> Receipt:
        """Flush, and leave events that could not be sent to the next process."""
        try:
            receipt = self.flush(deadline=deadline)
        finally:
            with self._file_lock:
                if self._file is not None:
                    self._retired.append(self._file)
                    self._file = None
            self._close_retired()
        return receipt if self._inner is None else receipt + self._inner.close(deadline=deadline)

    def _close_retired(self) -> None:
        """Close retired files, unless a send is in flight, which does it at its end."""
        while self._retired and acquired(self._sending, 0.0):
            with self._sending:
                self._sending.release()
                if self._is_sending or not self._retired:
                    return
                with self._file_lock:
                    self._retired.pop().close()

    def warm_up(self, *, deadline: Deadline) -> None:
        """Warm up the inner transport."""
        if self._inner is not None:
            self._inner.warm_up(deadline=deadline)

    @contextlib.contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[bool]:
        """Wait until no other thread sends. Yield False at the deadline, or inside this thread's own send."""
        try:
            if not acquired(self._sending, deadline.remaining()):
                yield False
                return
            with self._sending:
                self._sending.release()
                if self._is_sending:  # a signal handler interrupted this thread's own send
                    yield False
                    return
                self._is_sending = True
                try:
                    yield True
                finally:
                    self._is_sending = False
        finally:
            self._close_retired()

    def _appended(self, events: Sequence[EncodedEvent]) -> _Written | None:
        """Write events to this process's file and return where; `None` if they could not be written."""
        with self._file_lock:
            try:
                if self._file is not None and self._file.is_removed:
                    self._retired.append(self._file)
                    self._file = None
                if sum(map(len, events)) + len(events) + _size(self._directory) > self._max_bytes:
                    logger.warning("the spool is full: %d event(s) were not stored", len(events))
                    return None
                if self._file is None:
                    make_private(self._directory)
                    self._file = OwnFile(self._directory, self._project or "")
                return _Written(self._file, self._file.append(events, fsync=self._fsync))
            except BlockingIOError:  # a signal handler interrupted an append of this thread
                return None
            except (OSError, ConfigError) as error:
                logger.error("the spool cannot be written: %s", type(error).__name__)
                return None

    def _spool(self, events: Sequence[EncodedEvent], written: _Written | None) -> Receipt:
        """Return a receipt for unsent events: written before, written now, or retained by the caller."""
        if written is None and self._write_first is False:
            written = self._appended(events)
            if written is not None:
                logger.warning(
                    "%d event(s) are stored in %s until the next send", len(events), self._directory
                )
        if written is None:
            return Receipt.retaining(events, "unavailable", TransportError("neither delivered nor spooled"))
        return Receipt(spooled=len(events))

    def _replay(self, inner: BaseTransport, deadline: Deadline, until: _Written | None) -> Receipt:
        """Send the files of ended processes, then this process's file up to a position.

        Unreadable files are skipped. Events that could not be sent are retained in the receipt.
        """
        own = self._file
        receipt = Receipt()
        for entry in sorted(_entries(self._directory), key=lambda entry: entry.name):
            if (own is not None and entry.name == own.name) or not self._may_send(entry.name):
                continue
            try:
                with AbandonedFile.taken(entry.path) as file:
                    if file is not None:
                        receipt += self._send_from(file, file.end, inner, deadline)
                        if receipt.has_retained:
                            return receipt
            except OSError as error:
                self._skip_file(entry.name, error)
        if own is None:
            return receipt
        end = until.position if until is not None and until.file is own else own.end
        try:
            return receipt + self._send_from(own, end, inner, deadline)
        except OSError as error:
            self._skip_file(own.name, error)
            return receipt

    def _may_send(self, name: str) -> bool:
        return name not in self._unusable and (self._project is None or _is_of(self._project, name))

    def _send_from(self, file: SpoolFile, until: int, inner: BaseTransport, deadline: Deadline) -> Receipt:
        receipt = Receipt()
        for batch, positions in file.batches(until):
            if deadline.expired and batch:
                error = TransportError("no time was left to send", reason="deadline")
                return receipt + Receipt.retaining(batch, error.reason, error)
            part = self._send_inner(inner, batch, deadline) if batch else Receipt()
            receipt += part
            left = part.retained_events()
            self._done(file, batch, positions, left)
            if batch:
                logger.info("%d of %d event(s) were sent from the spool", len(batch) - len(left), len(batch))
            if left:
                break
        return receipt

    def _done(
        self,
        file: SpoolFile,
        events: Sequence[EncodedEvent],
        positions: list[int],
        left: Sequence[EncodedEvent],
    ) -> None:
        """Record that these events have an outcome, up to the first that could not be sent."""
        kept = set(map(id, left))
        not_done = [at for event, at in zip(events, positions, strict=False) if id(event) in kept]
        try:
            with self._file_lock:
                file.done(not_done[0] if not_done else positions[-1])
        except OSError as error:
            self._skip_file(file.name, error)

    def _skip_file(self, name: str, error: OSError) -> None:
        self._unusable.add(name)
        logger.error("skipping spool file %s: %s", name, error.strerror)

    @staticmethod
    def _send_inner(inner: BaseTransport, events: Sequence[EncodedEvent], deadline: Deadline) -> Receipt:
        try:
            return inner.send(events, deadline=deadline)
        except Exception as error:
            raise_interrupt(error)
            logger.error(
                "transport %s raised %s; %d event(s) are retained",
                type(inner).__name__,
                type(error).__name__,
                len(events),
            )
            return Receipt.retaining(events, "failed", error)


def default_directory() -> str:
    """Return a directory for this user: in `XDG_STATE_HOME` if that is set, else among temporary files."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # noqa: PTH117
        return os.path.join(state, "leanbase")  # noqa: PTH118
    import tempfile

    user = os.getuid() if HAS_LOCKS else 0  # Windows has no getuid(), and no spool
    return os.path.join(tempfile.gettempdir(), f"leanbase-{user}")  # noqa: PTH118


def project_of(api_key: str | None, host: str | None) -> str:
    """Return a string that identifies an API key and host in file names without revealing the key.

    Without a host it identifies only the key: processes with this key and any host send the files. Without a
    key it is `""`.
    """
    import hashlib

    if not api_key:
        return ""
    ours = hashlib.sha256(api_key.encode()).hexdigest()[:KEY_CHARACTERS]
    return ours + hashlib.sha256(host.encode()).hexdigest()[:KEY_CHARACTERS] if host else ours


def make_private(directory: str) -> None:
    """Create a directory that only this user can enter, or check an existing directory.

    Raises:
        UnusableError: The directory cannot be created, belongs to another user, or is accessible to others;
            or the platform has no file locks.
    """
    if not HAS_LOCKS:
        raise UnusableError("the spool needs the file locks of Linux or macOS")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        found = os.lstat(directory)
    except OSError as error:
        raise UnusableError(f"spool_directory {directory} cannot be created: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise UnusableError(
            f"spool_directory {directory} must be a directory that only this user can access (mode 0700); "
            "a directory that does not exist yet is created"
        )


class Stored(NamedTuple):
    """A file of the spool: its name, its size in bytes, and whether a process of one project may send it."""

    name: str
    bytes: int
    is_ours: bool


def stored(directory: str, project: str) -> list[Stored]:
    """Return the spool files in a directory, each with whether a process of `project` may send it."""
    found = []
    for entry in sorted(_entries(directory), key=lambda entry: entry.name):
        with contextlib.suppress(FileNotFoundError):
            size = entry.stat(follow_symlinks=False).st_size
            found.append(Stored(entry.name, size, _is_of(project, entry.name)))
    return found


def _is_of(project: str, name: str) -> bool:
    return project_in(name) in ("", project, project[:KEY_CHARACTERS])


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if entry.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.error("the spool cannot be read: %s", error.strerror)
        return []


def _size(directory: str) -> int:
    size = 0
    for entry in _entries(directory):
        with contextlib.suppress(FileNotFoundError):  # another process has sent and removed it meanwhile
            size += entry.stat(follow_symlinks=False).st_size
    return size
