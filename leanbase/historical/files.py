"""Reads rows from files: CSV, JSON lines and Parquet, compressed with gzip, in folders and zip archives."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigError, MissingDependencyError
from .formats.columns import Columns, object_of
from .rows import UnusableRowError, content_of, to_json

MAX_ROW_BYTES = 8 * 1024 * 1024
"""The longest line that is read as one. An event may have 900 KiB."""

MAX_CELL_CHARACTERS = 1024 * 1024
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
        name: What messages call it.
        container: `"csv"`, `"jsonl"` or `"parquet"`.
        size: Its size in bytes, or 0 if nobody knows.
        open: Opens it, as it is on the disk.
    """

    def __init__(self, name: str, container: str, size: int, open: Callable[[], IO[bytes]]) -> None:
        self.name = name
        self.container = container
        self.size = size
        self.open = open


def inputs(names: Sequence[str], container: str | None, default: str | None) -> list[Input]:
    """Return the files that are named, and those in folders and archives, in a fixed order.

    Args:
        names: Files, folders, zip archives, or `-` for standard input.
        container: What all of them are; `None` goes by their suffixes.
        default: What files are whose suffix says nothing, such as those of an export format.

    Raises:
        ConfigError: A file does not exist, or its suffix says nothing.
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
    if kind is None:
        raise ConfigError(f"the suffix of {path} says nothing: name its format with --format csv, jsonl, …")
    return [Input(str(path), kind, path.stat().st_size, lambda: path.open("rb"))]


def _of_archive(path: Path, container: str | None) -> list[Input]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read as a zip archive: {error}") from error
    found: list[Input] = []
    for each in sorted(archive.infolist(), key=lambda info: info.filename):
        kind = container or _container(each.filename)
        if each.is_dir() or kind is None:
            continue
        found.append(
            Input(f"{path}:{each.filename}", kind, each.file_size, lambda info=each: archive.open(info))  # type: ignore[misc]
        )
    if not found:
        raise ConfigError(f"the archive {path} has no files to import")
    return found


class _Opened:
    """An open file. `raw` is the file on the disk, whose position tells how far the import is."""

    def __init__(self, source: Input) -> None:
        self._stack = ExitStack()
        self.raw = source.open()
        if self.raw is not sys.stdin.buffer:
            self._stack.callback(self.raw.close)
        buffered: Any = self.raw if hasattr(self.raw, "peek") else io.BufferedReader(self.raw)
        self.is_gzip = buffered.peek(2)[:2] == b"\x1f\x8b"
        self.stream: Any = gzip.GzipFile(fileobj=buffered) if self.is_gzip else buffered

    def position(self) -> int:
        try:
            return self.raw.tell()
        except (OSError, ValueError):
            return 0

    def close(self) -> None:
        self._stack.close()


class CsvRows:
    """The rows of a CSV file in UTF-8 with a header.

    Raises:
        ConfigError: The header lacks a column that the import needs.
    """

    def __init__(self, source: Input, check: Callable[[Sequence[str]], None]) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
        self.name = source.name
        self._file = _Opened(source)
        # Bytes that are not UTF-8 become surrogates, for which `fields` refuses their row alone.
        text = io.TextIOWrapper(self._file.stream, "utf-8-sig", "surrogateescape", newline="")
        self._reader = csv.reader(text)
        self._text = text
        try:
            self._names = next(self._reader, [])
            if not self._names:
                raise ConfigError(f"{self.name} has no header")
            check(self._names)
        except (csv.Error, ConfigError) as error:
            self.close()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"the header of {self.name} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[Any]:
        reader = self._reader
        while True:
            try:
                for row in reader:
                    if row:
                        yield row
                return
            except csv.Error as error:
                yield UnusableRowError(f"line {reader.line_num} cannot be read: {error}")

    def content(self, row: Any) -> bytes:
        return str(row).encode() if isinstance(row, UnusableRowError) else to_json(row)

    def fields(self, row: Any) -> Mapping[str, Any]:
        if isinstance(row, UnusableRowError):
            raise row
        names = self._names
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
    """The rows of a file with one JSON object a line. Blank lines are no rows."""

    def __init__(self, source: Input) -> None:
        self.name = source.name
        self._file = _Opened(source)

    def __iter__(self) -> Iterator[Any]:
        read = self._file.stream.readline
        while line := read(MAX_ROW_BYTES):
            if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
                yield line[:1000]
                while (rest := read(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                    pass
            elif line := line.strip():
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
    """Open a file.

    Args:
        source: The file.
        columns: The columns whose presence is checked, or `None` for an export format.

    Raises:
        ConfigError: See the classes. `MissingDependencyError` is one.
    """
    check = columns.check if columns is not None else (lambda names: None)
    if source.container == "csv":
        return CsvRows(source, check)
    return ParquetRows(source, check) if source.container == "parquet" else JsonRows(source)
