"""Reads failures that no code inside the function can see from Lambda's own log lines.

In the text format these are the lines `REPORT`, `INIT_REPORT` and `Task timed out`. In the JSON format they
are the records `platform.report`, `platform.runtimeDone` and `platform.initReport`. Errors that the handler
raises are skipped: the decorator captures them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TIMED_OUT = "Sandbox.Timedout"
UNKNOWN = "Runtime.Unknown"
OF_THE_PLATFORM = ("Extension.", "Runtime.", "Sandbox.", "Function.ResponseSizeTooLarge")

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_REQUEST_ID = re.compile(_UUID)
_START = re.compile(rf"START RequestId: ({_UUID})(?:\s|$)")
_REPORT = re.compile(rf"REPORT RequestId: ({_UUID})(\s.*)", re.DOTALL)
_INIT_REPORT = re.compile(r"INIT_REPORT (Init Duration: .*)", re.DOTALL)
_TIMED_OUT = re.compile(
    rf"\d{{4}}-\d\d-\d\dT[\d:.]+Z ({_UUID}) Task timed out after (\d+(?:\.\d+)?) seconds\s*"
)
_FIELDS = {
    "status": re.compile(r"\bStatus: (\w+)"),
    "errorType": re.compile(r"\bError Type: ([\w.]+)"),
    "phase": re.compile(r"\bPhase: (\w+)"),
    "durationMs": re.compile(r"(?<!Billed )(?<!Restore )\bDuration: (\d+(?:\.\d+)?) ms"),
    "memorySizeMB": re.compile(r"\bMemory Size: (\d+) MB"),
    "maxMemoryUsedMB": re.compile(r"\bMax Memory Used: (\d+) MB"),
}


class Failure:
    """A failure that the platform reports.

    Attributes:
        request_id: The id of the failed request, or `None` if the initialisation failed.
        type: Lambda's name for the failure, such as `Runtime.OutOfMemory`.
        text: A description, with duration and memory if known.
        is_report: Whether the line is a report, which Lambda writes for every invocation.
    """

    __slots__ = ("is_report", "request_id", "text", "type")

    def __init__(self, request_id: str | None, type: str, text: str, is_report: bool = True) -> None:
        self.request_id = request_id
        self.type = type
        self.text = text
        self.is_report = is_report


def started(line: str, record: Mapping[str, Any] | None) -> str | None:
    """Return the id of the request whose start a line reports, or `None`.

    `record` is the line parsed as a JSON object, or `None` in the text format.
    """
    if record is None:
        match = _START.match(line)
        return match[1] if match else None
    about = _about(record)
    return _request_id(about) if record.get("type") == "platform.start" else None


def report_without_status(line: str, record: Mapping[str, Any] | None) -> str | None:
    """Return the request id of a report without a status, or `None`. Arguments as in `started`."""
    if record is not None:
        about = _about(record)
        is_report = record.get("type") == "platform.report" and not _text(about, "status")
        return _request_id(about) if is_report else None
    match = _REPORT.match(line)
    return match[1] if match and "status" not in _fields(match[2]) else None


def failure(line: str, record: Mapping[str, Any] | None) -> Failure | None:
    """Return the failure that a line reports, or `None`. Arguments as in `started`."""
    if record is not None:
        about, kind = _about(record), record.get("type")
        if kind in ("platform.report", "platform.runtimeDone"):
            return _of_invocation(_request_id(about), about, is_report=kind == "platform.report")
        return _of_initialisation(about) if kind == "platform.initReport" else None
    if match := _REPORT.match(line):
        return _of_invocation(match[1], _fields(match[2]))
    if match := _INIT_REPORT.match(line):
        return _of_initialisation(_fields(match[1]))
    if match := _TIMED_OUT.fullmatch(line):
        about = {"status": "timeout", "durationMs": str(float(match[2]) * 1000)}
        return _of_invocation(match[1], about, is_report=False)
    return None


def _of_invocation(
    request_id: str | None, about: Mapping[str, Any], *, is_report: bool = True
) -> Failure | None:
    found = _type_and_text(about, "the function")
    return Failure(request_id, *found, is_report) if found and request_id else None


def _of_initialisation(about: Mapping[str, Any]) -> Failure | None:
    if _text(about, "phase") == "invoke":
        return None  # the invocation's report has the same failure
    found = _type_and_text(about, "the initialisation of the function")
    return Failure(None, *found) if found else None


def _type_and_text(about: Mapping[str, Any], what: str) -> tuple[str, str] | None:
    status, type = _text(about, "status"), _text(about, "errorType")
    if status == "timeout":
        return TIMED_OUT, f"{what} timed out{_figures(about)}"
    if status == "failure" and not type:
        type = UNKNOWN
    if status not in ("error", "failure") or not type or not type.startswith(OF_THE_PLATFORM):
        return None
    words = {
        "Runtime.OutOfMemory": "ran out of memory",
        "Runtime.ExitError": "ended its process",
        "Function.ResponseSizeTooLarge": "returned a response that is too large",
    }
    return type, f"{what} {words.get(type, 'failed')}{_figures(about)}"


def _figures(about: Mapping[str, Any]) -> str:
    """Return a suffix such as ` (after 3.00 s, 60 of 128 MB used)`."""
    figures = []
    try:
        if duration := _text(about, "durationMs"):
            figures.append(f"after {float(duration) / 1000:.2f} s")
    except ValueError:
        pass
    size, used = _text(about, "memorySizeMB"), _text(about, "maxMemoryUsedMB")
    if size and used:
        figures.append(f"{used} of {size} MB used")
    return f" ({', '.join(figures)})" if figures else ""


def _fields(line: str) -> dict[str, str]:
    found = {name: pattern.search(line) for name, pattern in _FIELDS.items()}
    return {name: match[1] for name, match in found.items() if match}


def _about(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields and the metrics of one of the platform's records."""
    inner = record.get("record")
    about: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    metrics = about.get("metrics")
    return {**about, **metrics} if isinstance(metrics, Mapping) else about


def _request_id(about: Mapping[str, Any]) -> str | None:
    value = about.get("requestId")
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else None


def _text(about: Mapping[str, Any], name: str) -> str | None:
    value = about.get(name)
    return None if value is None or isinstance(value, (dict, list)) else str(value)[:200]
