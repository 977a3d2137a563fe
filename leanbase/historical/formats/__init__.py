"""The formats of export files. Each maps the fields of a row to an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..rows import HistoricalEvent
from . import amplitude, mixpanel, posthog, segment

Format = Callable[[Mapping[str, Any]], HistoricalEvent]

EXPORTS: Mapping[str, Format] = {
    "amplitude": amplitude.event_of,
    "mixpanel": mixpanel.event_of,
    "posthog": posthog.event_of,
    "segment": segment.event_of,
}
"""The export formats of other products."""
