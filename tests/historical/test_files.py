"""Files as people have them: CSV, JSON lines, Parquet, gzip, folders, archives, standard input."""

from __future__ import annotations

import gzip
import io
import json
import sys
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from leanbase.cli import main
from tests.support.fault_server import FaultServer

HEADER = "event,distinct_id,timestamp,plan,total\n"
LINE = "order,user_1,2024-02-29T12:00:00Z,pro,42\n"


@pytest.fixture(autouse=True)
def settings(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_HOST", server.url)
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_test")


def reasons(path: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in Path(f"{path}.rejects.jsonl").read_text().splitlines()]


def own(event: dict[str, Any]) -> dict[str, Any]:
    names = ("$lib", "$lib_version", "$geoip_disable")
    return {name: value for name, value in event["properties"].items() if name not in names}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_columns_that_form_the_event_are_not_properties(server: FaultServer, tmp_path: Path) -> None:
    path = written(tmp_path / "events.csv", HEADER + LINE)
    assert main(["import", str(path)]) == 0
    (event,) = server.events
    assert (event["event"], event["distinct_id"], event["timestamp"]) == (
        "order",
        "user_1",
        "2024-02-29T12:00:00+00:00",
    )
    assert own(event) == {"plan": "pro", "total": 42}


def test_an_object_of_groups_names_the_groups_of_the_event(server: FaultServer, tmp_path: Path) -> None:
    row = {"event": "order", "distinct_id": "u", "timestamp": "2024-02-29", "groups": {"company": "acme"}}
    nested = {**row, "properties": {"groups": {"a": 1}, "$groups": {"team": "x"}}}
    rows = [row, {**row, "groups": "a"}, nested]
    path = written(tmp_path / "events.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    assert main(["import", str(path)]) == 0
    assert [own(event) for event in server.events] == [
        {"$groups": {"company": "acme"}},
        {"groups": "a"},
        {"groups": {"a": 1}, "$groups": {"team": "x", "company": "acme"}},
    ]


def test_other_names_and_chosen_properties(server: FaultServer, tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        "id,who,at,kind,plan,total\n0198c0de-0000-7000-8000-000000000abc,u,1709208000,x,pro,1\n",
    )
    options = [
        "--event",
        "imported",
        "--distinct-id-column",
        "who",
        "--timestamp-column",
        "at",
        "--uuid-column",
        "id",
    ]
    assert main(["import", str(path), *options, "--properties", "plan,kind"]) == 0
    (event,) = server.events
    assert (event["event"], event["uuid"]) == ("imported", "0198c0de-0000-7000-8000-000000000abc")
    assert own(event) == {"plan": "pro", "kind": "x"}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("42", 42),
        ("-1.5e3", -1500.0),
        ("007", "007"),
        ("+49 30 1", "+49 30 1"),
        ("true", True),
        ("True", "True"),
        ("null", "null"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("12345678901234567890123", "12345678901234567890123"),
        ('"{""a"": [1]}"', {"a": [1]}),
        ('"[1, 2"', "[1, 2"),
        ('"a, b"', "a, b"),
        ('"two\nlines"', "two\nlines"),
        ("٣", "٣"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_cells(cell: str, value: Any, server: FaultServer, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", f"event,distinct_id,timestamp,p\ne,u,1709208000,{cell}\n")
    assert main(["import", str(path)]) == 0
    assert own(server.events[0]) == {"p": value}


def test_odd_csv(server: FaultServer, tmp_path: Path) -> None:
    rows = [
        LINE.encode(),
        b"\n",
        b"order,user_2\n",
        LINE.encode().strip() + b",more\n",
        b"order,\xff\xfe,2024-02-29T12:00:00Z,pro,42\n",
        b'"order ""x""",user_3,2024-02-29T12:00:00Z,"pro, plus",\r\n',
        b"order,user_4,2024-02-29T12:00:00Z,pro,42",
    ]
    path = written(tmp_path / "a.csv", b"\xef\xbb\xbf" + HEADER.encode() + b"".join(rows))
    assert main(["import", str(path)]) == 1
    assert [event["distinct_id"] for event in server.events] == ["user_1", "user_3", "user_4"]
    assert (server.events[1]["event"], own(server.events[1])) == ('order "x"', {"plan": "pro, plus"})
    assert reasons(path) == [
        "the row has 2 cells, and the header 5",
        "the row has 6 cells, and the header 5",
        "the row is not UTF-8",
    ]


def test_a_quote_that_is_never_closed_does_not_take_the_rest_of_memory(
    server: FaultServer, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", HEADER + LINE + 'order,"user_2\n' + LINE * 30_000)
    assert main(["import", str(path)]) == 1
    assert len(server.events) == 30_001, "only the line with the quote makes no row"
    assert reasons(path) == [
        "the line is not valid CSV: the row is too long, or a quote in it is never closed"
    ]
    (line,) = map(json.loads, Path(f"{path}.rejects.jsonl").read_text().splitlines())
    assert (line["row"], line["content"]) == (2, 'order,"user_2\n')


def test_a_rejected_row_has_the_names_of_its_cells(server: FaultServer, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", HEADER + "order,,1709208000,pro,42\n")
    assert main(["import", str(path)]) == 1
    (line,) = map(json.loads, Path(f"{path}.rejects.jsonl").read_text().splitlines())
    assert (line["content"]["event"], line["content"]["distinct_id"]) == ("order", "")


def test_a_file_of_rejects_is_not_imported(
    server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "a.csv.rejects.jsonl", "{}\n")
    assert main(["import", str(path)]) == 1
    assert "has rejected rows: correct them in a file of the original format" in capsys.readouterr().err


@pytest.mark.parametrize("last", ['order,user_2,1709208000,pro,"42\n', 'order,user_2,1709208000,pro,"4"2"\n'])
def test_a_quote_that_is_open_at_the_end_takes_no_rows_with_it(
    last: str, server: FaultServer, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", HEADER + last + LINE * 3)
    assert main(["import", str(path)]) == 1
    assert len(server.events) == 3
    assert len(reasons(path)) == 1


def test_a_line_of_many_megabytes_is_one_rejected_row(server: FaultServer, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", HEADER + LINE + "x" * 5_000_000 + "\n" + LINE)
    assert main(["import", str(path)]) == 1
    assert len(server.events) == 2
    assert len(reasons(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "b.csv.gz",
            gzip.compress(b"event,distinct_id,timestamp\n" * 99)[:40] + b"\xff" * 99,
            "cannot be read to its end",
        ),
        ("a.csv", "event,distinct_id\n".encode("utf-16"), "is UTF-16; convert it"),
        ("a.json", b'[\n  {"event": "e"}\n]\n', "is one JSON array; write one object a line"),
        (
            "b.csv",
            b"alice@example.com,secret,2024\n",
            "The first line has 3 cells, and does not look like a header",
        ),
    ],
)
def test_damaged_and_odd_files_are_named(
    name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / name, content)
    assert main(["import", str(path)]) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert "alice" not in output.err
    assert [each.name for each in tmp_path.iterdir()] == [name], "an import that did not begin leaves nothing"


def test_the_rejects_of_an_earlier_import_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "a.csv", HEADER + "order,,1709208000,pro,1\n")
    assert main(["import", str(path)]) == 1
    before = Path(f"{path}.rejects.jsonl").read_text()
    Path(f"{path}.checkpoint").unlink()
    assert main(["import", str(path)]) == 1
    assert "exists: move it away, or name another file for the rejects" in capsys.readouterr().err
    assert Path(f"{path}.rejects.jsonl").read_text() == before
    assert main(["import", str(path), "--rejects", str(path)]) == 1
    assert path.read_text().startswith(HEADER), "the input is not taken for a file of rejects"


def test_equal_rows_below_other_headers_are_other_events(server: FaultServer, tmp_path: Path) -> None:
    for name, header in (("a.csv", HEADER), ("b.csv", HEADER.replace("plan", "country"))):
        assert main(["import", str(written(tmp_path / name, header + LINE))]) == 0
    first, second = server.events
    assert first["uuid"] != second["uuid"]


def test_the_folder_one_is_in_gets_its_files_beside_it(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    written(folder / "a.csv", HEADER + LINE)
    monkeypatch.chdir(folder)
    assert main(["import", "."]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["export", "export.checkpoint"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "name,distinct_id,timestamp\n",
            "there is no column 'event'; name another with --event-column. The columns are",
        ),
        ("event,distinct_id,timestamp,a,a\n", "the header has 'a' more than once"),
        ("", "has no header"),
    ],
)
def test_headers(content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(written(tmp_path / "a.csv", content))]) == 1
    assert message in capsys.readouterr().err


def test_json_lines_compressed_or_not(server: FaultServer, tmp_path: Path) -> None:
    row = {
        "event": "e",
        "distinct_id": "u",
        "timestamp": 1709208000,
        "plan": "pro",
        "properties": {"plan": "free", "a": None},
    }
    path = written(tmp_path / "a.jsonl.gz", gzip.compress(json.dumps(row).encode() + b"\n\n"))
    assert main(["import", str(path)]) == 0
    plain = written(tmp_path / "b.json", json.dumps(row))
    assert main(["import", str(plain)]) == 0
    first, second = server.events
    assert own(first) == {"plan": "pro", "a": None}, "a column wins over an object of properties"
    assert first == second, "the same row in another file is the same event"


def test_a_line_without_an_end_is_one_rejected_row(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanbase.historical.files.MAX_ROW_BYTES", 1000)
    good = json.dumps({"event": "e", "distinct_id": "u", "timestamp": 1709208000})
    path = written(tmp_path / "a.jsonl", f'{good}\n{{"a": "{"x" * 5000}"}}\n{good}\n')
    assert main(["import", str(path)]) == 1
    assert len(server.events) == 2
    assert len(reasons(path)) == 1


def test_gzip_that_ends_early_keeps_what_was_passed_on(
    server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gzip.compress((HEADER + LINE * 20_000).encode(), compresslevel=0)
    path = written(tmp_path / "a.csv.gz", whole[:-4000])
    assert main(["import", str(path)]) == 1
    assert "cannot be read to its end: Compressed file ended before" in capsys.readouterr().err
    path.write_bytes(whole)
    assert main(["import", str(path)]) == 0
    assert "20,000 rows read: 20,000 delivered" in capsys.readouterr().out
    assert len({event["uuid"] for event in server.events}) == 20_000


def test_a_folder_in_a_fixed_order(
    server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    (folder / "b").mkdir(parents=True)
    written(folder / "b" / "2.csv", HEADER + LINE)
    written(folder / "1.csv.gz", gzip.compress((HEADER + LINE).encode()))
    written(folder / "notes.txt", "no rows")
    written(folder / ".hidden.csv", "no rows")
    assert main(["import", f"{folder}/"]) == 0
    assert "2 rows read: 2 delivered" in capsys.readouterr().out
    assert len({event["uuid"] for event in server.events}) == 1, "the same row in two files is one event"
    written(folder / "c.csv", HEADER + LINE.replace("user_1", "user_2"))
    assert main(["import", str(folder)]) == 0
    assert (
        "3 rows read: 3 delivered, 0 refused, 0 rejected (earlier runs read 2 of the rows)"
        in capsys.readouterr().out
    )
    written(folder / "0.csv", HEADER + LINE.replace("user_1", "user_3"))
    assert main(["import", str(folder)]) == 1
    assert "does not fit" in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["export", "export.checkpoint"]


def test_standard_input(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "-"]) == 1
    assert "say what standard input is: --format" in capsys.readouterr().err

    class Stdin:
        buffer = io.BufferedReader(io.BytesIO((HEADER + LINE).encode()))

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["import", "--format", "csv", "-"]) == 0
    assert "1 rows read: 1 delivered" in capsys.readouterr().out
    assert len(server.events) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "there is no file missing.csv"),
        (["README.md"], "the suffix of README.md is not a known format"),
        (["--format", "segment", "--event", "x", "README.md"], "--format segment knows its columns"),
    ],
)
def test_what_cannot_be_read(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_parquet(server: FaultServer, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    moment = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)
    path = tmp_path / "a.parquet"
    table = pyarrow.table(
        {
            "event": ["e", "e", None],
            "distinct_id": [1, 2, 3],
            "timestamp": [moment, None, moment],
            "total": [Decimal("1.50"), None, None],
            "tags": [["a"], None, None],
        }
    )
    parquet.write_table(table, path)
    assert main(["import", str(path)]) == 1
    (event,) = server.events
    assert (event["distinct_id"], event["timestamp"]) == ("1", "2024-02-29T12:00:00+00:00")
    assert own(event) == {"total": 1.5, "tags": ["a"]}
    assert len(reasons(path)) == 2


def test_a_parquet_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    assert main(["import", str(written(tmp_path / "a.parquet", "no"))]) == 1
    assert "cannot be read as Parquet" in capsys.readouterr().err


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["import", str(written(tmp_path / "a.parquet", "no"))]) == 1
    assert "needs pyarrow" in (error := capsys.readouterr().err)
    assert "extra 'import'" in error
