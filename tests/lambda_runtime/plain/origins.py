from __future__ import annotations

from typing import Any

import urllib3

import leanbase


def handler(event: Any, context: Any) -> dict[str, Any]:
    leanbase.capture("in the layer")
    modules = {"leanbase": leanbase, "urllib3": urllib3}
    return {name: [module.__file__, module.__cached__] for name, module in modules.items()}
