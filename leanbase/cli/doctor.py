"""`leanbase doctor`: says why events do not arrive."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from ..diagnosis import diagnose
from ..diagnosis.report import lines
from .parsing import command
from .terminal import coloured

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def add(commands: Any) -> None:
    parser = command(
        commands,
        "doctor",
        "Say why events do not arrive. Reads the settings as a process here would, and checks each step on "
        "the way of an event. Exits 1 if an event would not arrive.",
        _run,
        "leanbase doctor",
        "leanbase doctor --send --json",
    )
    parser.add_argument("--send", action="store_true", help="also send one event, without a person")
    parser.add_argument("--json", action="store_true", help="print the steps as JSON")


def _run(options: argparse.Namespace) -> int:
    logging.getLogger("leanbase").setLevel(logging.CRITICAL)  # the steps report everything
    diagnosis = diagnose(send=options.send)
    if options.json:
        print(json.dumps(diagnosis.as_dict()))
        return 0 if diagnosis else 1
    for step in diagnosis.steps:
        if options.quiet and step.status == "ok":
            continue
        first, *others = lines(step)
        status = first[: len(step.status)]
        print(coloured(status, COLOURS[status], sys.stdout) + first[len(status) :])
        for line in others:
            print(line)
    return 0 if diagnosis else 1
