"""Ends the process at import."""

from __future__ import annotations

import sys

sys.exit(3)
