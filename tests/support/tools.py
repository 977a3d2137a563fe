"""Tools that a machine may lack. `@pytest.mark.needs("git")` skips a test if the tool is missing."""

from __future__ import annotations

import shutil

from tests.lambda_runtime.emulator import find_emulator

EMULATOR = "AWS's Lambda emulator"


def is_installed(tool: str) -> bool:
    """Return True if a tool is available: a program on the path, or the emulator in its environment."""
    return find_emulator() is not None if tool == EMULATOR else shutil.which(tool) is not None
