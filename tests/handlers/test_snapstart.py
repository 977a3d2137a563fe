"""Sandboxes restored from one snapshot, which have nothing but the memory in common."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.fault_server import FaultServer
from tests.support.programs import run_program

RESTORES = 3


@pytest.mark.rule("E-10")
@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library's fork()")
def test_all_restores_of_a_snapshot_have_different_uuids_and_ids(server: FaultServer) -> None:
    done = run_program(
        "tests.handlers.programs.snapshot", RESTORES, LEANBASE_API_KEY="k", LEANBASE_HOST=server.url
    )
    assert done.returncode == 0, done.stderr
    restored = [json.loads(line) for line in done.stdout.splitlines()]
    # Each restore continues the count of the snapshot: no hook of a fork has reset it.
    assert [captured for _, captured in restored] == [6] * RESTORES
    uuids = [uuid for uuids, _ in restored for uuid in uuids]
    sent = server.events[3:]
    assert [event["uuid"] for event in sent] == uuids
    assert len(set(uuids)) == 3 * RESTORES
    # Each event without an id has a random one.
    assert len({event["distinct_id"] for event in server.events}) == 3 * (1 + RESTORES)
