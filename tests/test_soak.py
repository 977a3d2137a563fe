"""The soak, for some seconds. `python -m scripts.soak` runs it for minutes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc"),
]


def test_whatever_happens_at_once_each_event_is_accounted_for() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "scripts.soak", "--minutes", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 are lost, 0 have two ids" in done.stdout
