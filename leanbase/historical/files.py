"""Reads rows from files: CSV, JSON lines and Parquet, compressed with gzip, in folders and zip archives."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import ConfigError, MissingDependencyError
from .formats.columns import Columns, object_of
from .rows import UnusableRowError, content_of, to_json

MAX_ROW_BYTES = 8 * 1024 * 1024
"""Lines that are longer are rejected. An event may have 900 KiB."""

MAX_ROW_CHARACTERS = 1024 * 1024
"""The maximum length of a row of a CSV file, with all its lines."""

ROWS_OF_PARQUET = 1000
CONTAINERS = {
    ".csv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
STANDARD_INPUT = "-"
REJECTS_SUFFIX = ".rejects.jsonl"


class Input:
    """One file to read.

    Args:
        name: The name for messages.
        container: `"csv"`, `"jsonl"` or `"parquet"`.
        size: The size in bytes, or 0 if it is unknown.
        open: Opens the file, without decompressing it.
    """

    def __init__(self, name: str, container: str, size: int, open: Callable[[], IO[bytes]]) -> None:
        self.name = name
        self.container = container
        self.size = size
        self.open = open


def inputs(names: Sequence[str], container: str | None, default: str | None) -> list[Input]:
    """Return the named files, and the files in named folders and archives, in a fixed order.

    Args:
        names: Files, folders, zip archives, or `-` for standard input.
        container: The container of all files. `None` derives it from their suffixes.
        default: The container of files with an unknown suffix, for export formats.

    Raises:
        ConfigError: A file does not exist, or its container is unknown.
    """
    found: list[Input] = []
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            kind = container or default
            if kind is None:
                raise ConfigError("say what standard input is: --format csv, jsonl, …")
            found.append(Input("standard input", kind, 0, lambda: sys.stdin.buffer))
        elif path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and _is_input(each.name))
            if not inside:
                raise ConfigError(f"the folder {name} has no files to import ({', '.join(CONTAINERS)})")
            for each in inside:
                found += _of_file(each, container, default)
        elif path.exists():
            found += _of_file(path, container, default)
        else:
            raise ConfigError(f"there is no file {name}")
    return found


def _is_input(name: str) -> bool:
    return not name.startswith(".") and (_container(name) is not None or name.endswith(".zip"))


def _container(name: str) -> str | None:
    if name.endswith(REJECTS_SUFFIX):
        return None
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    return CONTAINERS.get(suffix) or ("jsonl" if name.endswith(".gz") and not suffix else None)


def _of_file(path: Path, container: str | None, default: str | None) -> list[Input]:
    if path.suffix == ".zip":
        return _of_archive(path, container)
    kind = container or _container(path.name) or default
    if path.name.endswith(REJECTS_SUFFIX):
        raise ConfigError(f"{path} has rejected rows: correct them in a file of the original format")
    if kind is None:
        raise ConfigError(
            f"the suffix of {path} is not a known format: name the format with --format csv, jsonl, …"
        )
    return [Input(str(path), kind, path.stat().st_size, lambda: path.open("rb"))]


def _of_archive(path: Path, container: str | None) -> list[Input]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read as a zip archive: {error}") from error
    found: list[Input] = []
    for each in sorted(archive.infolist(), key=lambda info: info.filename):
        kind = container or _container(each.filename)
        hidden = any(part.startswith((".", "__MACOSX")) for part in Path(each.filename).parts)
        if each.is_dir() or kind is None or hidden:
            continue
        found.append(
            Input(f"{path}:{each.filename}", kind, each.file_size, lambda info=each: archive.open(info))  # type: ignore[misc]
        )
    if not found:
        raise ConfigError(f"the archive {path} has no files to import")
    return found


class _Opened:
    """An open file. The position in `raw`, the file on disk, gives the progress."""

    def __init__(self, source: Input) -> None:
        self._stack = ExitStack()
        self.raw = source.open()
        if self.raw is not sys.stdin.buffer:
            self._stack.callback(self.raw.close)
        buffered: Any = self.raw if hasattr(self.raw, "peek") else io.BufferedReader(self.raw)
        start = buffered.peek(2)[:2]
        if start in (b"\xff\xfe", b"\xfe\xff"):
            self.close()
            raise ConfigError(
                f"{source.name} is UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8"
            )
        self.is_gzip = start == b"\x1f\x8b"
        self.stream: Any = gzip.GzipFile(fileobj=buffered) if self.is_gzip else buffered

    def position(self) -> int:
        try:
            return self.raw.tell()
        except (OSError, ValueError):
            return 0

    def close(self) -> None:
        self._stack.close()


class _BadLine(NamedTuple):
    """A line of a CSV file that is not a row, and why."""

    text: str
    problem: str


class CsvRows:
    """The rows of a CSV file in UTF-8 with a header.

    Raises:
        ConfigError: The header lacks a column that the import needs.
    """

    def __init__(self, source: Input, check: Callable[[Sequence[str]], None]) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_CHARACTERS))
        self.name = source.name
        self._file = _Opened(source)
        # Bytes that are not UTF-8 become surrogates, so that `fields` rejects only their row.
        self._text = io.TextIOWrapper(self._file.stream, "utf-8-sig", "surrogateescape", newline="")
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        try:
            self._rows = self._read()
            header = next(self._rows, None)
            if not isinstance(header, list):
                raise ConfigError(f"{self.name} has no header that can be read")
            self.names: Sequence[str] = header
            check(header)
        except BaseException:
            self.close()
            raise
        self.namespace = to_json(header)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def _read(self) -> Iterator[Any]:
        """Yield each row as a list of cells, and each invalid line as a `_BadLine`.

        A quote that is never closed swallows all lines up to the next quote, the end of the file, or the
        limit. Then the first of these lines is bad, and the others are read again.
        """
        while True:
            # `strict` also detects a quote that is still open at the end of the file.
            reader = csv.reader(self._lines(), strict=True)
            try:
                for row in reader:
                    if row:
                        yield row
                    self._taken.clear()
                return
            except csv.Error as error:
                first, *others = self._taken
                self._taken.clear()
                self._again.extendleft(reversed(others))
                yield _BadLine(first, str(error))

    def _lines(self) -> Iterator[str]:
        again, taken, readline = self._again, self._taken, self._text.readline
        size = 0
        while line := again.popleft() if again else readline(MAX_ROW_CHARACTERS):
            size = size + len(line) if taken else len(line)
            taken.append(line)
            if len(line) == MAX_ROW_CHARACTERS and line[-1] not in "\r\n":
                while (rest := readline(MAX_ROW_CHARACTERS)) and rest[-1] not in "\r\n":
                    pass
            if size >= MAX_ROW_CHARACTERS:
                raise csv.Error("the row is too long, or a quote in it is never closed")
            yield line

    def content(self, row: Any) -> bytes:
        return to_json(row.text) if isinstance(row, _BadLine) else to_json(row)

    def fields(self, row: Any) -> Mapping[str, Any]:
        if isinstance(row, _BadLine):
            raise UnusableRowError(f"the line is not valid CSV: {row.problem}")
        names = self.names
        if len(row) != len(names):
            raise UnusableRowError(f"the row has {len(row)} cells, and the header {len(names)}")
        if not all(map(str.isascii, row)) and not _is_utf8(row):
            raise UnusableRowError("the row is not UTF-8")
        return dict(zip(names, row, strict=True))

    def position(self) -> int:
        return self._file.position()

    def close(self) -> None:
        self._text.detach()
        self._file.close()


def _is_utf8(row: Sequence[str]) -> bool:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True


class JsonRows:
    """The rows of a file with one JSON object a line. Blank lines are skipped."""

    names: Sequence[str] = ()
    namespace = b""

    def __init__(self, source: Input) -> None:
        self.name = source.name
        self._file = _Opened(source)

    def __iter__(self) -> Iterator[Any]:
        read = self._file.stream.readline
        is_first = True
        while line := read(MAX_ROW_BYTES):
            if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
                yield line[:1000]
                while (rest := read(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                    pass
            elif line := line.strip():
                if is_first and line.startswith(b"["):
                    raise ConfigError(
                        f"{self.name} is one JSON array; write one object a line, as with `jq -c '.[]'`"
                    )
                is_first = False
                yield line

    def content(self, row: Any) -> bytes:
        found: bytes = row
        return found

    def fields(self, row: Any) -> Mapping[str, Any]:
        if row.startswith(b"["):
            raise UnusableRowError("the line is an array; write one object a line, as with `jq -c '.[]'`")
        return object_of(row)

    def position(self) -> int:
        return self._file.position()

    def close(self) -> None:
        self._file.close()


class ParquetRows:
    """The rows of a Parquet file.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        ConfigError: The file is not a Parquet file, or lacks a column that the import needs.
    """

    names: Sequence[str] = ()
    namespace = b""

    def __init__(self, source: Input, check: Callable[[Sequence[str]], None]) -> None:
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise MissingDependencyError("reading Parquet", package="pyarrow", extra="import") from error
        self.name = source.name
        self._raw = source.open()
        try:
            self._file = ParquetFile(self._raw)
            check(self._file.schema_arrow.names)
        except (ArrowException, ConfigError) as error:
            self._raw.close()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self.name} cannot be read as Parquet: {error}") from error
        self._size = source.size
        self._rows = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._file.iter_batches(batch_size=ROWS_OF_PARQUET):
            for row in batch.to_pylist():
                self._rows += 1
                yield row

    def content(self, row: Any) -> bytes:
        return content_of(row)

    def fields(self, row: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = row
        return found

    def position(self) -> int:
        total = self._file.metadata.num_rows
        return self._size * self._rows // total if total else self._size

    def close(self) -> None:
        self._file.close()
        self._raw.close()


def opened(source: Input, columns: Columns | None) -> CsvRows | JsonRows | ParquetRows:
    """Open a file, and check that it has the columns. `columns` is `None` for an export format.

    Raises:
        ConfigError: See the classes. A `MissingDependencyError` is a `ConfigError`.
    """
    check = columns.check if columns is not None else (lambda names: None)
    if source.container == "csv":
        return CsvRows(source, check)
    return ParquetRows(source, check) if source.container == "parquet" else JsonRows(source)
