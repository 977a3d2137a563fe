"""Two sandboxes that are restored from one snapshot: nothing but the memory is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.fault_server import FaultServer

RESTORES = 3
SCRIPT = """
import ctypes, json, os, leanbase

@leanbase.lambda_handler
def handler(event, context):
    ids = [leanbase.capture("restored", properties={"n": n}) for n in range(3)]
    return ids, leanbase.stats()["captured"]

class Context:
    aws_request_id = function_name = function_version = "f"

handler({}, Context)
leanbase.setup().disconnect()  # as before a snapshot
for _ in range(%d):
    # The C library's own fork copies the memory and calls none of Python's hooks, which a restore does not either.
    if ctypes.PyDLL(None).fork() == 0:
        leanbase.setup().disconnect(0.0)  # as after a restore
        print(json.dumps(handler({}, Context)), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library's fork()")
def test_ids_are_unique_over_all_restores_of_a_snapshot(server: FaultServer) -> None:
    environment = {**os.environ, "LEANBASE_API_KEY": "k", "LEANBASE_HOST": server.url}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % RESTORES], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    restored = [json.loads(line) for line in done.stdout.splitlines()]
    # Each goes on counting from the snapshot: no hook has told it that it is another process.
    assert [captured for _, captured in restored] == [6] * RESTORES
    uuids = [uuid for ids, _ in restored for uuid in ids]
    sent = server.events[3:]
    assert [event["uuid"] for event in sent] == uuids
    assert len(set(uuids)) == 3 * RESTORES
    # Events without a person have a distinct id of their own.
    assert len({event["distinct_id"] for event in server.events}) == 3 * (1 + RESTORES)
