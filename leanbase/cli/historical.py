"""`leanbase import`: imports past events from files."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..historical import ImportStoppedError
from ..historical.files import REJECTS_SUFFIX, STANDARD_INPUT, inputs, opened
from ..historical.formats import EXPORTS
from ..historical.formats.columns import Columns
from ..historical.importer import Format, Importer, Source
from ..settings import Settings, as_hooks
from .parsing import PROGRAM, UsageError, command
from .terminal import ProgressBar

CONTAINERS = ("csv", "jsonl", "parquet")
MOST_REASONS = 5
CHECKPOINT_SUFFIX = ".checkpoint"


def add(commands: Any) -> None:
    parser = command(
        commands,
        "import",
        "Import events of the past. The id of each event is derived from its row, so the server counts a "
        "repeated import once. An interrupted import continues from its checkpoint. The key and the host "
        "come from the settings.",
        _run,
        "leanbase import events.csv --event-column name --distinct-id-column user --timestamp-column at",
        "leanbase import --format amplitude export.zip --dry-run",
        "gunzip -c events.gz | leanbase import --format jsonl - --checkpoint events.checkpoint",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, folders, zip archives; - is stdin")
    parser.add_argument(
        "--format", choices=(*CONTAINERS, *EXPORTS), help="file format (default: from the suffix)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--event-column", metavar="COLUMN", help="the event's name (default: event)")
    which.add_argument("--event", metavar="NAME", help="one name for all events")
    parser.add_argument("--distinct-id-column", metavar="COLUMN", help="the person (default: distinct_id)")
    parser.add_argument("--timestamp-column", metavar="COLUMN", help="the time (default: timestamp)")
    parser.add_argument("--uuid-column", metavar="COLUMN", help="the event's own id (default: none)")
    parser.add_argument("--properties", metavar="COLUMNS", help="a,b: the properties (default: all others)")
    parser.add_argument("--personless", action="store_true", help="import rows without a person as well")
    parser.add_argument("--transport", metavar="NAME", help="http, or sqs (default: the setting)")
    parser.add_argument(
        "--rejects", metavar="FILE", help=f"for rows that are not imported (FILE{REJECTS_SUFFIX})"
    )
    parser.add_argument("--allow-rejects", action="store_true", help="exit 0 even if rows were not imported")
    parser.add_argument("--checkpoint", metavar="FILE", help=f"for the progress (FILE{CHECKPOINT_SUFFIX})")
    parser.add_argument("--dry-run", action="store_true", help="read and map the rows; send nothing")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(options: argparse.Namespace) -> int:
    settings = Settings.resolve({"transport": options.transport})
    if not settings.debug:
        # The progress bar and the report say everything. The transport would log it for each request.
        logging.getLogger("leanbase").setLevel(logging.CRITICAL)
    bar = ProgressBar()
    beside = _beside(options.files[0])
    checkpoint = options.checkpoint or (beside and beside + CHECKPOINT_SUFFIX)
    importer = Importer(
        settings,
        as_hooks(settings.before_send),
        _sources(options),
        options=_columns_of(options),
        checkpoint=Path(checkpoint) if checkpoint else None,
        rejects=Path(options.rejects or (beside or "import") + REJECTS_SUFFIX),
        personless=options.personless,
        dry_run=options.dry_run,
        on_progress=None if options.quiet else bar.show,
    )
    try:
        report = importer.run()
    except ImportStoppedError as error:
        bar.close()
        _show(importer, options)
        print(f"{PROGRAM}: the import stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        bar.close()
        _show(importer, options)
        print(f"{PROGRAM}: interrupted; the same command continues", file=sys.stderr)
        return 130
    finally:
        bar.close()
    _show(importer, options)
    return 0 if report or options.allow_rejects else 1


def _beside(name: str) -> str | None:
    """Return the path for the suffixes of the checkpoint and the rejects; `None` for standard input."""
    if name == STANDARD_INPUT:
        return None
    path = Path(name)
    # A suffix cannot be added to `.` and `..`.
    return str(path if path.name not in ("", "..") else path.resolve())


def _columns_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments on which the events of a row depend."""
    names = ("format", "event_column", "event", "distinct_id_column", "timestamp_column", "uuid_column")
    return {name: getattr(options, name) for name in (*names, "properties")}


def _sources(options: argparse.Namespace) -> list[Source]:
    given = _columns_of(options)
    export = EXPORTS.get(options.format)
    if export is not None and any(value for name, value in given.items() if name != "format"):
        raise UsageError(f"--format {options.format} knows its columns: leave the options for columns out")
    container = options.format if options.format in CONTAINERS else None
    found = inputs(options.files, container, default="jsonl" if export is not None else None)
    sources = []
    for each in found:
        columns = None
        mapped: Format
        if export is not None:
            mapped = export
        else:
            columns = Columns(
                event=options.event_column or "event",
                name=options.event,
                distinct_id=options.distinct_id_column or "distinct_id",
                timestamp=options.timestamp_column or "timestamp",
                uuid=options.uuid_column,
                properties=options.properties.split(",") if options.properties else None,
                is_text=each.container == "csv",
            )
            mapped = columns.event_of
        sources.append(Source(partial(opened, each, columns), mapped, each.name, each.size))
    return sources


def _show(importer: Importer, options: argparse.Namespace) -> None:
    report, skipped = importer.report, importer.skipped
    files = {name: path for name, path in report.files.items() if Path(path).exists()}
    if options.json:
        found = {**asdict(report), "files": files, "dry_run": options.dry_run}
        if options.dry_run:
            found["would_be_sent"] = found.pop("delivered")
        reasons = [
            {"reason": reason, "rows": count, "first_rows": importer.examples[reason]}
            for reason, count in importer.reasons.most_common()
        ]
        print(json.dumps({**found, "reasons": reasons}))
        return
    passed_on = f"{report.delivered:,} delivered"
    if report.handed_off:
        passed_on = f"{report.handed_off:,} handed off" + (f", {passed_on}" if report.delivered else "")
    if options.dry_run:
        passed_on = f"{report.delivered:,} would be sent"
    print(
        f"{report.read:,} rows read: {passed_on}, {report.refused:,} refused, {report.rejected:,} rejected"
        + (f" (earlier runs read {skipped:,} of the rows)" if skipped else "")
    )
    several = len({name for rows in importer.examples.values() for _, name in rows}) > 1
    for reason, count in importer.reasons.most_common(MOST_REASONS):
        rows = [f"{number}" + f" of {name}" * several for number, name in importer.examples[reason]]
        more = ", …" * (count > len(rows))
        print(f"  {count:,} row(s): {reason} (row{'s' * (count > 1)} {', '.join(rows)}{more})")
    if "rejects" in files:
        print(f"rows that were not imported: {files['rejects']}")
    if "checkpoint" in files:
        print(f"checkpoint: {files['checkpoint']}")
