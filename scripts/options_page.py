"""Prints docs/options.md from the settings: `python -m scripts.options_page > docs/options.md`."""

from __future__ import annotations

from dataclasses import fields

from leanbase.settings import Settings

HEAD = """# Options

Every option is a keyword of `Leanbase(...)`, an attribute of the module (`leanbase.timeout = 3`), and an
environment variable (`LEANBASE_TIMEOUT=3`; lists with commas). The keyword wins over the attribute, the attribute
over the environment. Times are in seconds. The attributes belong to the default client, which reads them at its first
use. It reads `disabled`, `debug` and `before_send` at every call.

| Option | Type | Default | Meaning |
|---|---|---|---|
"""


def options_page() -> str:
    rows = []
    for option in fields(Settings):
        kind = str(option.type).replace("|", "\\|")
        default = "" if option.default is None else f"`{option.default!r}`"
        rows.append(f"| `{option.name}` | `{kind}` | {default} | {option.metadata['doc']} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(options_page(), end="")
