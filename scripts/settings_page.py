"""Prints docs/settings.md from the settings: `python -m scripts.settings_page > docs/settings.md`."""

from __future__ import annotations

import re
import textwrap
from dataclasses import Field, fields
from typing import Any

from leanbase.settings import Settings

WIDTH = 118

HEAD = """# Settings

```python
import leanbase

leanbase.host = "https://leanbase.example.com"
leanbase.timeout = 3
```

Every setting is a keyword of `Leanbase(...)`, an attribute of the module `leanbase`, and an environment variable such
as `LEANBASE_TIMEOUT=3`. The keyword wins over the attribute, and the attribute over the variable. A variable with a
list has commas. Times are in seconds. The default client reads the attributes when it is first used, and reads
`disabled`, `debug` and `before_send` at every call.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "The project": ("api_key", "host", "project_api_key"),
    "The way of an event": (
        *("transport", "fallback", "sync_mode", "queue_url", "spool_directory", "spool_fsync"),
        *("spool_max_bytes", "sigterm_grace"),
    ),
    "On and off": ("disabled", "send", "opted_out", "debug"),
    "Time and retries": ("timeout", "send_deadline", "max_retries"),
    "Sizes": ("flush_at", "flush_interval", "max_queue_size", "max_queue_bytes", "gzip"),
    "What an event has": ("super_properties", "disable_geoip", "is_server", "historical_migration"),
    "Functions of yours": ("before_send", "on_error"),
    "Exceptions": (
        *("enable_exception_autocapture", "enable_unraisable_exception_autocapture"),
        *("log_captured_exceptions", "project_root", "in_app_modules"),
        "enable_exception_autocapture_rate_limiting",
        *(
            f"exception_autocapture_{name}"
            for name in ("bucket_size", "refill_rate", "refill_interval_seconds")
        ),
    ),
    "Variables of exceptions": (
        "capture_exception_code_variables",
        *(f"code_variables_{name}" for name in ("mask_patterns", "ignore_patterns", "mask_url_credentials")),
        "code_variables_detect_secrets",
    ),
    "Feature flags": (
        *("secret_key", "flag_definitions", "flags_ttl", "flags_max_age", "flags_timeout"),
        *("flags_max_retries", "flags_only_evaluate_locally"),
    ),
}

KINDS = {
    "str": "a string",
    "bool": "`True` or `False`",
    "int": "a whole number",
    "float": "a number",
    "Sequence[str]": "a list of strings",
    "Mapping[str, Any]": "a mapping",
    "BeforeSend | Sequence[BeforeSend]": "a function, or a list of functions",
    "OnError": "a function",
    "str | Transport": "a name, or an instance",
    "FlagDefinitions": "a name, an instance, or a list of these",
}


def settings_page() -> str:
    known = {option.name: option for option in fields(Settings)}
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(known), set(grouped) ^ set(known)
    sections = [
        f"\n## {title}\n\n" + "".join(_entry(known[name]) for name in names)
        for title, names in GROUPS.items()
    ]
    return HEAD + "".join(sections)


def _entry(option: Field[Any]) -> str:
    kind = KINDS[re.sub(r" \| None$", "", str(option.type))]
    default = "" if option.default is None else f", by default `{option.default!r}`"
    text = f"- `{option.name}`: {kind}{default}. {option.metadata['doc']}"
    return (
        textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        + "\n"
    )


if __name__ == "__main__":
    print(settings_page(), end="")
