"""Restore a sandbox from a snapshot several times: each restore prints the uuids it captured and its count."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

import leanbase


@leanbase.lambda_handler
def handler(event: Any, context: Any) -> tuple[list[str | None], int]:
    uuids = [leanbase.capture("restored", properties={"number": number}) for number in range(3)]
    return uuids, leanbase.stats()["captured"]


class Context:
    aws_request_id = function_name = function_version = "f"


def main(restores: int) -> None:
    handler({}, Context)
    leanbase.setup().disconnect()  # as before a snapshot
    for _ in range(restores):
        # The fork of the C library copies the memory and calls none of Python's hooks. Neither does a restore.
        if ctypes.PyDLL(None).fork() == 0:
            leanbase.setup().disconnect(0.0)  # as after a restore
            print(json.dumps(handler({}, Context)), flush=True)
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
