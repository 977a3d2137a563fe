"""A WSGI application whose request captures, and then lasts longer than Vercel waits after SIGTERM.

Vercel's runtime runs such an application with `http.server`, in threads.
"""

from __future__ import annotations

import sys
import time
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import leanbase
from leanbase.integrations.wsgi import LeanbaseMiddleware


def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    leanbase.capture("request began")
    print("ready", flush=True)
    time.sleep(20)
    return []


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


app = LeanbaseMiddleware(slow)

if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), app, Server).serve_forever()
