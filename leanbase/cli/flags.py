"""`leanbase flags`: load, check and evaluate definitions of feature flags."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..feature_flags import Definitions, SourceError
from ..feature_flags.evaluator import Identity
from ..feature_flags.explanation import explained, obstacle
from ..feature_flags.operators import Undecided
from ..feature_flags.sources import sources_of
from ..feature_flags.sources.api import ApiSource
from ..settings import Settings
from ..transports.deadline import Deadline
from .parsing import command, pair, pairs, value_of

LOAD_SECONDS = 10.0


def add(commands: Any) -> None:
    summary = "Pull, check or evaluate definitions of feature flags"
    flags = commands.add_parser("flags", help=summary, description=f"{summary}.")
    actions = flags.add_subparsers(title="actions", metavar="ACTION", required=True)
    pull = command(
        actions,
        "pull",
        "Load the definitions from the server and write a bundle, to be deployed with a program.",
        _pull,
        "LEANBASE_SECRET_KEY=… leanbase flags pull --output flags.json",
    )
    pull.add_argument("--output", default="-", metavar="FILE", help="the bundle; - is standard output")
    check = command(
        actions,
        "check",
        "List the flags that need the server. Exits 1 if only the server can decide one of them.",
        _check,
        "leanbase flags check --definitions file:flags.json",
    )
    _add_definitions(check)
    evaluate = command(
        actions,
        "eval",
        "Evaluate one flag, and show each step that led to its value.",
        _eval,
        "leanbase flags eval checkout --distinct-id user_1 --person-property plan=pro",
    )
    evaluate.add_argument("key", metavar="KEY", help="the flag")
    evaluate.add_argument("--distinct-id", required=True, metavar="ID", help="the person")
    evaluate.add_argument(
        "--person-property",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a property of the person; valid JSON is read as JSON, else as a string",
    )
    evaluate.add_argument(
        "--group", action="append", default=[], metavar="TYPE=KEY", help="a group of the person"
    )
    evaluate.add_argument(
        "--group-property",
        action="append",
        default=[],
        metavar="TYPE.NAME=VALUE",
        help="a property of the group of this type",
    )
    evaluate.add_argument("--device-id", metavar="ID", help="the device")
    _add_definitions(evaluate)


def _add_definitions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--definitions",
        metavar="SOURCE",
        help="as the option flag_definitions, such as file:flags.json (default: LEANBASE_FLAG_DEFINITIONS)",
    )


def _pull(options: argparse.Namespace) -> int:
    settings = Settings.resolve({})
    needed = ("host", "api_key", "secret_key")
    missing = [f"LEANBASE_{name.upper()}" for name in needed if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"set {' and '.join(missing)}")
    found = ApiSource.from_settings(settings).load(None, deadline=Deadline.after(LOAD_SECONDS))
    if found is None:
        raise SourceError("the server has no definitions")
    text = json.dumps(found.bundle(settings.host), ensure_ascii=False, separators=(",", ":"))
    if options.output == "-":
        print(text)
    else:
        _write(Path(options.output), text)
        print(f"{len(found)} flags in {options.output}, {len(text.encode()):,} bytes")
    return 0


def _write(path: Path, text: str) -> None:
    """Write a file atomically, so that no reader sees half of it."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        # A temporary file is readable by its owner only, but a deployed function runs as another user.
        mask = os.umask(0)
        os.umask(mask)
        Path(file.name).chmod(0o666 & ~mask)
        Path(file.name).replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def _check(options: argparse.Namespace) -> int:
    definitions = _loaded(options)
    never = 0
    for key in sorted(definitions):
        why, is_certain = obstacle(definitions.flag(key))
        if why is not None:
            never += is_certain
            print(f"{key}: {'only the server decides it' if is_certain else 'may need the server'}: {why}")
    print(f"{len(definitions)} flags; {never} can never be decided here")
    return 1 if never else 0


def _eval(options: argparse.Namespace) -> int:
    definitions = _loaded(options)
    if options.key not in definitions:
        near = ", ".join(sorted(definitions)[:10])
        raise ConfigError(f"there is no flag {options.key!r}; there are {near or 'none'}")
    groups = pairs(options.group, "--group")
    group_properties: dict[str, dict[str, Any]] = {}
    for each in options.group_property:
        name, value = pair(each, "--group-property")
        kind, _, name = name.partition(".")
        group_properties.setdefault(kind, {})[name] = value_of(value)
    identity = Identity(
        definitions,
        options.distinct_id,
        groups=groups,
        person_properties={
            name: value_of(value)
            for name, value in pairs(options.person_property, "--person-property").items()
        },
        group_properties=group_properties,
        device_id=options.device_id,
        now=datetime.now(timezone.utc),
    )
    flag = definitions.flag(options.key)
    decided = identity.decide(flag)
    is_open = isinstance(decided, Undecided)
    print(f"{options.key} = {'undecided: the server is asked' if is_open else decided}")
    for line in explained(flag, identity):
        print(f"  {line}")
    if isinstance(decided, Undecided):
        print(f"  undecided because of {decided.reason.value}")
    elif (payload := flag.payload(decided)) is not None:
        print(f"  payload: {payload}")
    return 0


def _loaded(options: argparse.Namespace) -> Definitions:
    settings = Settings.resolve({"flag_definitions": options.definitions})
    sources = sources_of(settings)
    if not sources:
        raise ConfigError("say where the definitions are: --definitions file:flags.json, or a secret key")
    failures: list[str] = []
    for source in sources:
        try:
            found = source.load(None, deadline=Deadline.after(LOAD_SECONDS))
        except SourceError as error:
            failures.append(f"{source!r}: {error}")
            continue
        if found is not None:
            age = time.time() - found.fetched_at
            when = f", {_age(age)} old" if 0 <= age < 10 * 365 * 86_400 else ""
            print(f"{len(found)} flags from {source!r}{when}", file=sys.stderr)
            return found
    raise SourceError("; ".join(failures) or "there are no definitions")


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
