"""Capture one event with `debug=True` before the application configures logging, and one event after that."""

from __future__ import annotations

import logging
import sys

from leanbase import Leanbase

client = Leanbase("k", "http://127.0.0.1:9", max_retries=0, debug=True)
client.capture("first", distinct_id="u")
logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stdout)
client.capture("second", distinct_id="u")
client.opt_out()
