"""Publish the Celery task that the first argument names, once for each further argument, in a context."""

from __future__ import annotations

import sys

import leanbase
from tests.integrations.apps import tasks

name, *numbers = sys.argv[1:]
task = getattr(tasks, name)
with leanbase.new_context(fresh=True):
    leanbase.identify_context("user_1")
    leanbase.set_context_session("s-1")
    leanbase.tag("tenant", "acme")
    if not numbers:
        task.delay()
    for number in numbers:
        task.delay(int(number))
