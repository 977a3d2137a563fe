"""The files of the spool.

A file is a header, then one event a line. The header says up to which position the events are done with, so
that after a kill at most the batch on its way is sent again. Each file belongs to one process, which holds a
lock on it as long as it lives, or as long as it reads the file of one that is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence

from ..events.encoding import EncodedEvent, encode
from ..events.event import checked

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
    """An open, locked file. Positions in it only ever grow, also when it is emptied and begun anew.

    Args:
        descriptor: Of the file.
        path: Where it is.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._emptied = 0  # how many bytes were in it before
        self._done = _HEADER_BYTES
        self._is_damaged = False

    @property
    def name(self) -> str:
        """The file's name in its directory, where names are in order of age."""
        return os.path.basename(self._path)  # noqa: PTH119

    @property
    def end(self) -> int:
        """Where the file ends."""
        return os.fstat(self._descriptor).st_size

    @property
    def done_with(self) -> int:
        """The position before which everything has its outcome."""
        return self._emptied + self._done

    def batches(self, until: int) -> Iterator[tuple[list[EncodedEvent], list[int]]]:
        """Read what is not done with, up to a position, a batch at a time.

        Yields:
            Events, and the position of each, with the position after the last as one more. Lines that
            are no events are passed over, and the file counts as damaged.
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
                    # The end; or a line that a kill cut off, whose event nobody was told was accepted.
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
        """Remember that everything before a position has its outcome."""
        self._done = max(self._done, position - self._emptied)
        self._write_header()

    def _write_header(self) -> None:
        os.pwrite(self._descriptor, _HEADER % self._done, 0)


class OwnFile(SpoolFile):
    """The file that this process writes to. It is made with mode 0600 and locked before anyone can see it.

    Args:
        directory: Where to make it.
        project: Whose events it is for; part of its name.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, directory: str, project: str) -> None:
        # In order of age, then unique.
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
        """Where the file ends, without what is just being written."""
        return self._emptied + self._end

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed it from its directory."""
        return os.fstat(self._descriptor).st_nlink == 0

    def append(self, events: Sequence[EncodedEvent], *, fsync: bool) -> int:
        """Write events, all or none, and return the position where they begin.

        Raises:
            OSError: There is no room, or something else is wrong with the disk; or this is a signal handler
                in the middle of it.
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
        """Remember how far it is done with; when that is all, begin it anew. Nothing when it is closed."""
        if not self._is_open:
            return
        super().done(position)
        if self._done >= self._end > _HEADER_BYTES:
            # In this order: a header beyond the end of a file means that nothing is left in it.
            os.ftruncate(self._descriptor, _HEADER_BYTES)
            self._emptied += self._end - _HEADER_BYTES
            self._end = self._done = _HEADER_BYTES
            self._write_header()

    def close(self) -> None:
        """Leave it to other processes, or remove it when nothing is left in it."""
        if self._done >= self._end:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108
        self.forget()

    def forget(self) -> None:
        """Close it as it is."""
        self._is_open = False
        os.close(self._descriptor)


class AbandonedFile(SpoolFile):
    """A file whose process is gone."""

    @classmethod
    @contextlib.contextmanager
    def taken(cls, path: str) -> Iterator[AbandonedFile | None]:
        """Lock a file and give it, or `None` when somebody has it. Removed at the end if all is done."""
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:  # removed meanwhile, or a link
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
            return  # not all could be sent
        if self._is_damaged or len(left) >= MAX_LINE_BYTES:
            logger.error("a damaged file in the spool is set aside: %s%s", self._path, DAMAGED_SUFFIX)
            os.rename(self._path, self._path + DAMAGED_SUFFIX)  # noqa: PTH104
        else:
            os.unlink(self._path)  # noqa: PTH108


def project_in(name: str) -> str:
    """Whose events a file is for, by its name; `""` for nobody's in particular."""
    return "".join(name.removesuffix(SUFFIX).split("-")[3:])


def _is_same_and_ours(descriptor: int, path: str) -> bool:
    """Whether the locked file is still the one of that name, a regular one, and this user's."""
    opened, named = os.fstat(descriptor), os.lstat(path)
    return (
        (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)
        and stat.S_ISREG(opened.st_mode)
        and opened.st_uid == os.geteuid()
    )


def _event(line: bytes) -> EncodedEvent | None:
    """The event in a line, made valid anew: one that is not would make the server refuse its whole batch."""
    try:
        return encode(checked(json.loads(line)))
    except Exception:
        return None
