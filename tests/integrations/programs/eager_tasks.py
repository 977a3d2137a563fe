"""Run Celery tasks eagerly, inside a scope and a context of their caller and without them, and check their events."""

from __future__ import annotations

import leanbase
from leanbase.transports import MemoryTransport
from tests.integrations.apps.tasks import fails, order

memory = leanbase.transport = MemoryTransport()
with leanbase.delivery_scope(), leanbase.new_context(fresh=True):
    leanbase.identify_context("user_1")
    leanbase.tag("tenant", "acme")
    order.delay(7)
    fails.delay()
    assert "number" not in leanbase.get_tags()
    assert not memory.events
events = [(event["event"], event["distinct_id"], event["properties"]["tenant"]) for event in memory.events]
assert events == [("order worked on", "user_1", "acme"), ("$exception", "user_1", "acme")], events
fails.delay()
assert len(memory.events) == 3, memory.events
