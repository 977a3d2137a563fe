"""Decorate a handler, and print whether that loaded the HTTP client. Arguments: `preconnect=False`, if given."""

from __future__ import annotations

import sys
from typing import Any

import leanbase


def handler(event: Any, context: Any) -> None: ...


if __name__ == "__main__":
    decorate = leanbase.lambda_handler(preconnect="preconnect=False" not in sys.argv)
    decorate(handler)
    print("urllib3" in sys.modules)
