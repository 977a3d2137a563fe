"""The files of the spool.

A file is a header, then one event on each line. The header says up to which position all events have an
outcome. So if the process is killed, at most the batch in flight is sent again.

Each file belongs to one process, which locks it until the process ends. Another process may then lock the
file and send its events.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence

from ..events.encoding import EncodedEvent, encode
from ..events.event import checked

try:
    import fcntl
except ImportError:  # on Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True
"""Whether the platform has the file locks that a spool needs."""

logger = logging.getLogger("leanbase")

SUFFIX = ".spool"
DAMAGED_SUFFIX = ".damaged"
BATCH_EVENTS = 100
BATCH_BYTES = 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024  # an event has at most 900 KiB

_HEADER = b'{"leanbase":1,"done":%015d}\n'
_HEADER_PATTERN = re.compile(rb'\{"leanbase":1,"done":(\d{15})\}\n')
_HEADER_BYTES = len(_HEADER % 0)
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class SpoolFile:
    """An open, locked spool file. Positions keep growing when the file is emptied."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._emptied = 0  # bytes of the lines that were removed when it was emptied
        self._done = _HEADER_BYTES
        self._is_damaged = False

    @property
    def name(self) -> str:
        """The name of the file in its directory. Names sort by age, the oldest first."""
        return os.path.basename(self._path)  # noqa: PTH119

    @property
    def end(self) -> int:
        """The position of the end of the file."""
        return os.fstat(self._descriptor).st_size

    @property
    def done_with(self) -> int:
        """The position before which every event has an outcome."""
        return self._emptied + self._done

    def batches(self, until: int) -> Iterator[tuple[list[EncodedEvent], list[int]]]:
        """Read the events without an outcome, up to a position, batch by batch.

        Yields:
            A list of events, and a list of their positions and the position after the last event. Lines that
            are not valid events are skipped, and the file then counts as damaged.
        """
        position = self.done_with
        while position < until:
            batch, positions = self._batch(position, until)
            if positions[-1] == position:
                return
            position = positions[-1]
            yield batch, positions

    def _batch(self, position: int, until: int) -> tuple[list[EncodedEvent], list[int]]:
        batch: list[EncodedEvent] = []
        positions: list[int] = []
        size = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(position - self._emptied)
            while len(batch) < BATCH_EVENTS and size < BATCH_BYTES and position < until:
                line = file.readline(MAX_LINE_BYTES)
                if not line.endswith(b"\n"):
                    # The end, or a line that a kill cut short. Its event was never reported as spooled.
                    self._is_damaged = self._is_damaged or len(line) == MAX_LINE_BYTES
                    break
                event = _event(line)
                if event is None:
                    self._is_damaged = True
                else:
                    batch.append(event)
                    positions.append(position)
                    size += len(line)
                position += len(line)
        return batch, [*positions, position]

    def done(self, position: int) -> None:
        """Record in the header that every event before a position has an outcome."""
        self._done = max(self._done, position - self._emptied)
        self._write_header()

    def _write_header(self) -> None:
        os.pwrite(self._descriptor, _HEADER % self._done, 0)


class OwnFile(SpoolFile):
    """The file that this process writes to. It has mode 0600, and is locked before it gets its final name."""

    def __init__(self, directory: str, project: str) -> None:
        # The timestamp makes names sort by age; the rest makes them unique.
        parts = f"{time.time_ns():020d}", str(os.getpid()), os.urandom(4).hex(), project
        path = os.path.join(directory, "-".join(filter(None, parts)) + SUFFIX)  # noqa: PTH118
        descriptor = os.open(f"{path}.new", _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        super().__init__(descriptor, path)
        self._write_header()
        self._end = _HEADER_BYTES
        self._is_writing = False
        self._is_open = True
        os.rename(f"{path}.new", path)  # noqa: PTH104

    @property
    def end(self) -> int:
        """The position of the end of the file, without events that are being written."""
        return self._emptied + self._end

    @property
    def is_removed(self) -> bool:
        """Whether the file was removed from its directory."""
        return os.fstat(self._descriptor).st_nlink == 0

    def append(self, events: Sequence[EncodedEvent], *, fsync: bool) -> int:
        """Write all events or none, and return the position of the first.

        Raises:
            OSError: The disk is full or failed.
            BlockingIOError: A signal handler called this while its own thread was writing.
        """
        if self._is_writing:
            raise BlockingIOError(errno.EAGAIN, "the interrupted thread is writing")
        self._is_writing = True
        try:
            return self._append(events, fsync)
        finally:
            self._is_writing = False

    def _append(self, events: Sequence[EncodedEvent], fsync: bool) -> int:
        start = self._end
        data = memoryview(b"".join(line for event in events for line in (event.body, b"\n")))
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], start + written)
            if fsync:
                os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, start)
            raise
        self._end = start + len(data)
        return self._emptied + start

    def done(self, position: int) -> None:
        """Record that every event before a position has an outcome. Empty the file if no event is left."""
        if not self._is_open:
            return
        super().done(position)
        if self._done >= self._end > _HEADER_BYTES:
            # Truncate first: a position in the header beyond the end of the file means that no event is left.
            os.ftruncate(self._descriptor, _HEADER_BYTES)
            self._emptied += self._end - _HEADER_BYTES
            self._end = self._done = _HEADER_BYTES
            self._write_header()

    def close(self) -> None:
        """Close the file, and remove it if no event is left. Other processes send the events left in it."""
        if self._done >= self._end:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108
        self.forget()

    def forget(self) -> None:
        """Close the file descriptor and leave the file as it is."""
        self._is_open = False
        os.close(self._descriptor)


class AbandonedFile(SpoolFile):
    """A file whose process has ended."""

    @classmethod
    @contextlib.contextmanager
    def taken(cls, path: str) -> Iterator[AbandonedFile | None]:
        """Lock a file and yield it, or yield `None` if another process has locked it.

        Afterwards, remove the file if every event in it has an outcome.
        """
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:  # removed meanwhile, or a symbolic link
            yield None
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = _is_same_and_ours(descriptor, path)
            except OSError:
                ours = False
            if not ours:
                yield None
                return
            file = cls(descriptor, path)
            file._read_header()
            yield file
            file._end_of_use()
        finally:
            os.close(descriptor)

    def _read_header(self) -> None:
        header = _HEADER_PATTERN.fullmatch(os.pread(self._descriptor, _HEADER_BYTES, 0))
        if header is None:
            self._is_damaged = True
            self._done = os.fstat(self._descriptor).st_size
        else:
            self._done = max(_HEADER_BYTES, int(header[1]))

    def _end_of_use(self) -> None:
        left = os.pread(self._descriptor, MAX_LINE_BYTES, self._done)
        if b"\n" in left:
            return  # some events could not be sent
        if self._is_damaged or len(left) >= MAX_LINE_BYTES:
            logger.error("a damaged spool file was renamed to %s%s", self._path, DAMAGED_SUFFIX)
            os.rename(self._path, self._path + DAMAGED_SUFFIX)  # noqa: PTH104
        else:
            os.unlink(self._path)  # noqa: PTH108


def project_in(name: str) -> str:
    """Return the project in the name of a file; `""` if it has none."""
    return "".join(name.removesuffix(SUFFIX).split("-")[3:])


def _is_same_and_ours(descriptor: int, path: str) -> bool:
    """Return True if the locked file still has this path, is a regular file, and belongs to this user."""
    opened, named = os.fstat(descriptor), os.lstat(path)
    return (
        (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)
        and stat.S_ISREG(opened.st_mode)
        and opened.st_uid == os.geteuid()
    )


def _event(line: bytes) -> EncodedEvent | None:
    """Decode and validate the event in a line: the server would reject a whole batch for an invalid event."""
    try:
        return encode(checked(json.loads(line)))
    except Exception:
        return None
