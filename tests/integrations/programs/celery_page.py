"""Run the task of docs/celery.md, which a test has written to the module `app`, and check its event."""

from __future__ import annotations

import importlib

import leanbase
from leanbase.transports import MemoryTransport

memory = leanbase.transport = MemoryTransport()
importlib.import_module("app").ship.apply(args=[7])
(event,) = memory.events
assert event["event"] == "order shipped", event
assert event["properties"]["celery.task_name"] == "app.ship", event
