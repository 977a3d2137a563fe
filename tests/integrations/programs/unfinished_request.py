"""Handle a WSGI request whose body is neither read nor closed before the process ends."""

from __future__ import annotations

from typing import Any

import leanbase
from leanbase.integrations.wsgi import LeanbaseMiddleware


def app(environ: Any, start_response: Any) -> list[bytes]:
    leanbase.capture("asked")
    start_response("200 OK", [])
    return [b"ok"]


body = LeanbaseMiddleware(app)({}, lambda *_: None)
