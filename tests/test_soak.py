"""Runs `scripts.soak` for six seconds. Its docstring says what it does; by itself it runs for minutes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc"),
]


@pytest.mark.rule("Q-57")
def test_no_event_is_lost_or_sent_under_two_ids() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "scripts.soak", "--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 are lost, 0 have two ids" in done.stdout
