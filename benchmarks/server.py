"""An ingestion server that is as fast as Python allows: `python server.py DELAY_MS`.

Prints its port. Responds to every POST after the delay, without reading the events. The response is valid for
the ingestion server, and for a queue that accepted one message.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

BODY = b'{"status": 1, "Successful": [{"Id": "0"}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


def serve(connection: socket.socket, delay: float) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = connection.makefile("rb")
    while reader.readline():
        length = 0
        while (header := reader.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        reader.read(length)
        if delay:
            time.sleep(delay)
        connection.sendall(ANSWER)


@contextlib.contextmanager
def running(delay_ms: int = 0) -> Iterator[str]:
    """Start such a server in a process, and return its URL."""
    command = [sys.executable, __file__, str(delay_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, float(sys.argv[1]) / 1000), daemon=True).start()


if __name__ == "__main__":
    main()
